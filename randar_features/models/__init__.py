"""Generators: architecture only."""

from typing import Any

from torch import nn

from randar_features.models.randar import RandAR, RandARConfig

# What `"type"` in a configuration names: the architecture and its sizes.
ARCHITECTURES: dict[str, tuple[type[nn.Module], type[Any]]] = {"randar": (RandAR, RandARConfig)}

__all__ = ["ARCHITECTURES", "RandAR", "RandARConfig"]
