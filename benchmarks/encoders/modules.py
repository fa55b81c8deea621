"""Any `torch.nn.Module` as an encoder, by the name of the function that makes it: `package.module:function`."""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.encoders.base import Encoder
from randar_features.hub import choose_device
from randar_features.hub.weights import weights_hash

IMAGE_SIZE = 224
OUTPUT = "features"


class ModuleEncoder(Encoder):
    """What a function of the user's makes: an `Encoder`'s rival from any code.

    The function takes nothing and returns a module, or (module, image_size), or (module, image_size, transform).
    The module takes images (B, 3, S, S), in [0, 1] unless the transform, a function of a batch, scales them, and gives
    vectors (B, D), tokens (B, G·G, D) or maps (B, D, G, G), or a mapping of names to these.

    ImportError, ValueError: there is no such function, or it makes something else.
    """

    def __init__(self, name: str, device: torch.device | str | None = None) -> None:
        made: Any = _function(name)()
        parts = made if isinstance(made, tuple) else (made,)
        if not isinstance(parts[0], nn.Module) or len(parts) > 3:
            raise ValueError(
                f"{name} must return a torch.nn.Module, alone or with image size and transform, got {made!r}"
            )
        self.module = parts[0].eval().requires_grad_(False).to(choose_device(device))
        size = parts[1] if len(parts) > 1 else getattr(self.module, "image_size", IMAGE_SIZE)
        self.transform = parts[2] if len(parts) > 2 else None
        grey = torch.full((1, 3, size, size), 0.5, device=choose_device(device))
        found = self._named(grey)
        super().__init__(
            name=name,
            image_size=size,
            weights=weights_hash(self.module),
            outputs={output: {} for output in found},
            device=choose_device(device),
        )

    @torch.no_grad()
    def _named(self, images: Tensor) -> dict[str, Tensor]:
        given = self.module(images if self.transform is None else self.transform(images))
        named = given if isinstance(given, Mapping) else {OUTPUT: given}
        return {name: _as_map(name, values) for name, values in named.items()}

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        return self._named(images)


def _function(name: str) -> Callable[[], Any]:
    """The function of that name, of an installed package or of a file in the current folder."""
    module, _, function = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a command that was installed does not look there by itself
    try:
        found: Callable[[], Any] | None = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and imports something that is not
        raise ModuleNotFoundError(
            f"{name}: there is no module {error.name!r} in {here} or on the Python path (PYTHONPATH)", name=error.name
        ) from error
    if not callable(found):
        raise ValueError(f"{name}: the module {module} has no function {function!r}")
    return found


def _as_map(name: str, values: Tensor) -> Tensor:
    """(B, D), (B, G·G, D) or (B, D, G, G) as (B, G, G, D)."""
    if values.ndim == 2:
        return values[:, None, None]
    if values.ndim == 4 and values.shape[2] == values.shape[3]:
        return values.permute(0, 2, 3, 1)
    side = round(values.shape[1] ** 0.5) if values.ndim == 3 else 0
    if values.ndim == 3 and side * side == values.shape[1]:
        return values.unflatten(1, (side, side))
    raise ValueError(f"{name} has shape {tuple(values.shape)}, expected (B, D), (B, G*G, D) or (B, D, G, G)")
