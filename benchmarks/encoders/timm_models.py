"""Encoders of the timm library, by its names."""

from __future__ import annotations

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
    """

    def __init__(self, name: str, device: torch.device | str | None = None) -> None:
        architecture, _, size = name.removeprefix("timm:").partition("@")
        options = {"img_size": int(size)} if size else {}
        model, pretrained = _create(architecture, options)
        self.model = model.eval().requires_grad_(False).to(choose_device(device))
        data = resolve_model_data_config(model)
        self.mean, self.std = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
        last = len(self.model.feature_info) - 1
        layers = {f"layer {index}": {"layer": index, "read": "patch"} for index in range(last + 1)}
        super().__init__(
            name=name,
            image_size=int(size) if size else data["input_size"][-1],
            weights=weights_hash(model) if pretrained else f"random (seed {SEED})",
            outputs={**layers, POOLED: {"layer": last, "read": "pooled", "norm": True}},
            device=next(model.parameters()).device,
        )

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


def _create(architecture: str, options: dict[str, Any]) -> tuple[Any, bool]:
    """The model, and whether its weights are trained ones; ValueError for a name that timm does not have."""
    if not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture.split('.')[0]}*")[:5]
        near = ", ".join(close) or "none, see timm.list_models()"
        raise ValueError(f"timm has no model {architecture!r}; near it: {near}")
    try:
        return timm.create_model(architecture, pretrained=True, num_classes=0, **options), True
    except (OSError, RuntimeError) as error:  # out of reach, or there are none
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"{architecture} has random weights, its trained ones are out of reach: {reason}", stacklevel=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return timm.create_model(architecture, pretrained=False, num_classes=0, **options), False
