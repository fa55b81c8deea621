"""Encoders of the timm library, by its names."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor

from benchmarks.encoders.base import Encoder, weights_hash
from randar_features.hub import choose_device

SEED = 0
POOLED = "pooled"


class TimmEncoder(Encoder):
    """Maps of every layer (a convolutional network's stages), and the pooled vector.

    The pooled vector is what the model's own head is given: the normed class token or the mean, as timm has it.
    Maps are those of `forward_intermediates`, without the final norm and without class and register tokens.
    Input size and normalisation are the model's; "@224" behind the name asks for another size.

    ValueError: timm has no such model, or the size is no number or none that the model takes.
    """

    def __init__(self, name: str, device: torch.device | str | None = None) -> None:
        architecture, separator, text = name.removeprefix("timm:").partition("@")
        size = _size(name, text) if separator else None
        model, pretrained = _create(architecture, size)
        self.model = model.eval().requires_grad_(False).to(choose_device(device))
        data = resolve_model_data_config(model)
        self.mean, self.std = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
        last = len(self.model.feature_info) - 1
        layers = {f"layer {index}": {"layer": index, "read": "patch"} for index in range(last + 1)}
        super().__init__(
            name=name,
            image_size=size or data["input_size"][-1],
            weights=weights_hash(model) if pretrained else f"random (seed {SEED})",
            outputs={**layers, POOLED: {"layer": last, "read": "pooled", "norm": True}},
            device=next(model.parameters()).device,
        )
        if size is not None:
            self._check_size()

    def _check_size(self) -> None:
        """ValueError if the model cannot take images of the size that was asked for."""
        patch = self.model.feature_info[0]["reduction"] if _is_fixed(self.model) else 1
        if self.image_size % patch:
            raise ValueError(
                f"{self.name}: patches of {patch} pixels do not fill {self.image_size}: ask for a multiple"
            )
        try:
            self.encode(torch.zeros(1, 3, self.image_size, self.image_size))
        except (RuntimeError, AssertionError) as error:
            own = self.model.default_cfg["input_size"][-1]
            raise ValueError(
                f"{self.name}: the model takes no {self.image_size} pixels; its own size is {own}"
            ) from error

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        normed = (images - self.mean.to(self.device)) / self.std.to(self.device)
        layers = sorted({self.outputs[name]["layer"] for name in outputs if name != POOLED})
        if POOLED in outputs:
            final, maps = self.model.forward_intermediates(normed, indices=layers or [0])
            pooled = {POOLED: self.model.forward_head(final, pre_logits=True)[:, None, None]}
        else:
            maps = self.model.forward_intermediates(normed, indices=layers, intermediates_only=True)
            pooled = {}
        return pooled | {
            f"layer {layer}": image_map.permute(0, 2, 3, 1) for layer, image_map in zip(layers, maps, strict=False)
        }


def _size(name: str, text: str) -> int:
    """Pixels a side, as a number stands behind "@"."""
    if not text.isdecimal() or not int(text):
        raise ValueError(f"{name}: expected a number of pixels behind @, as in timm:resnet18@224, got {text!r}")
    return int(text)


def _is_fixed(model: Any) -> bool:
    """Whether the model is built for images of one size, as one with embeddings of positions is."""
    return "img_size" in inspect.signature(type(model)).parameters


def _build(architecture: str, size: int | None, pretrained: bool) -> Any:
    """The model without a head; `size`, if it is built for one, is no argument of a convolutional network."""
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    try:
        return timm.create_model(architecture, img_size=size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(architecture, **options)


def _create(architecture: str, size: int | None) -> tuple[Any, bool]:
    """The model, and whether its weights are trained ones; ValueError for a name that timm does not have."""
    if not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture.split('.')[0]}*")[:5]
        near = ", ".join(close) or "none, see timm.list_models()"
        raise ValueError(f"timm has no model {architecture!r}; near it: {near}")
    try:
        return _build(architecture, size, pretrained=True), True
    except (OSError, RuntimeError) as error:  # out of reach, or there are none
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"{architecture} has random weights, its trained ones are out of reach: {reason}", stacklevel=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _build(architecture, size, pretrained=False), False
