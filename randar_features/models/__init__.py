"""Generators: architecture only."""

from randar_features.models.randar import RandAR, RandARConfig

__all__ = ["RandAR", "RandARConfig"]
