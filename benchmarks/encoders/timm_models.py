"""Encoders of the timm library, by the names of `randar_features.baselines`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.encoders.base import Encoder
from randar_features.baselines import is_fixed, load_network
from randar_features.hub import choose_device

POOLED, PROBABILITIES = "pooled", "probabilities"


class TimmEncoder(Encoder):
    """Maps of every layer (a convolutional network's stages), and the pooled vector.

    The pooled vector is what the model's own head is given: the normed class token or the mean, as timm has it.
    Maps are those of `forward_intermediates`, without the final norm and without class and register tokens.
    Input size and normalisation are the model's; "@224" after the name asks for another size. With its `classifier`
    there are the probabilities of classes too.

    ValueError: there is no such model, or the size is no number or none that the model takes.
    FileNotFoundError, ModuleNotFoundError: its weights are not on this machine.
    """

    def __init__(self, name: str, device: torch.device | str | None = None, *, classifier: bool = False) -> None:
        self.network = load_network(name, choose_device(device), classifier=classifier)
        self.model = self.network.module
        last = len(self.model.feature_info) - 1
        layers = {f"layer {index}": {"layer": index, "read": "patch"} for index in range(last + 1)}
        outputs = {**layers, POOLED: {"layer": last, "read": "pooled", "norm": True}}
        super().__init__(
            name=name,
            image_size=self.network.image_size,
            weights=self.network.weights,
            outputs=outputs | ({PROBABILITIES: {"layer": last}} if classifier else {}),
            device=next(self.model.parameters()).device,
            supervision=self.network.supervision,
        )
        self._check_size()

    def _check_size(self) -> None:
        """ValueError if the model cannot take images of its size."""
        patch = self.model.feature_info[0]["reduction"] if is_fixed(self.model) else 1
        if self.image_size % patch:
            raise ValueError(
                f"{self.name}: patches of {patch} pixels do not fill {self.image_size}: give a multiple of {patch}"
            )
        try:
            self.encode(torch.zeros(1, 3, self.image_size, self.image_size, device="cpu"))
        except (RuntimeError, AssertionError) as error:
            own = self.model.default_cfg["input_size"][-1]
            raise ValueError(
                f"{self.name}: the model takes no {self.image_size} pixels; its own size is {own}"
            ) from error

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        model, scaled = self.model, self.network.scale(images)
        vectors = {POOLED, PROBABILITIES}
        layers = sorted({self.outputs[name]["layer"] for name in outputs if name not in vectors})
        if vectors & {*outputs}:
            final, maps = model.forward_intermediates(scaled, indices=layers or [0])
            pooled = {POOLED: model.forward_head(final, pre_logits=True)[:, None, None]}
            if PROBABILITIES in outputs:
                logits = model.forward_head(final)[:, None, None]
                pooled[PROBABILITIES] = logits.float().softmax(-1)
        else:
            maps = model.forward_intermediates(scaled, indices=layers, intermediates_only=True)
            pooled = {}
        return pooled | {
            f"layer {layer}": image_map.permute(0, 2, 3, 1) for layer, image_map in zip(layers, maps, strict=False)
        }
