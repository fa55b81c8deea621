"""The interface of encoders in benchmarks: named outputs, each a map of features."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from probes.pooling import pool
from randar_features.data.decode.decoding import check_range
from randar_features.data.images import ImageSource
from randar_features.features.store import Content, EncodedImages, FeatureImages


class Encoder(ABC):
    """Frozen images-to-features, in evaluation mode and without gradients.

    Attributes:
        name: what `load_encoder` was given.
        image_size: S, pixels a side of the images it takes.
        weights: a hash of its weights, "none" if it has none, or "random (seed 0)".
        outputs: details of each output by its name: "layer", "context", "read", "norm" and "orders", None where
            they do not apply.
        device: where it computes.
        dtype: number format that it computes in.
        computes: whether it makes features of pixels, so that equal images have equal ones.
        supervision: what its weights were trained with beyond images, such as labels; None where nothing is known.
    """

    computes: ClassVar[bool] = True

    def __init__(
        self,
        *,
        name: str,
        image_size: int,
        weights: str,
        outputs: Mapping[str, Mapping[str, Any]],
        device: torch.device | str = "cpu",
        supervision: str | None = None,
    ) -> None:
        self.supervision = supervision
        self.dtype = torch.float32
        self.name, self.image_size, self.weights = name, image_size, weights
        self.outputs = {output: {**NO_DETAILS, **details} for output, details in outputs.items()}
        self.device = torch.device(device)

    @property
    def described_weights(self) -> str:
        """The hash, and what the weights were trained with where that is known, for cards."""
        return self.weights if self.supervision is None else f"{self.weights}, {self.supervision}"

    def __repr__(self) -> str:
        """Name, weights, size and how many outputs."""
        return (
            f"Encoder({self.name!r}, weights {self.weights}, {self.image_size}x{self.image_size} pixels, "
            f"{len(self.outputs)} outputs)"
        )

    @torch.no_grad()
    def encode(self, images: Tensor, outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Maps (b, G, G, D) float32 of each output, all in one pass; G = 1 where there is no grid.

        Args:
            images: (b, 3, S, S) float in [0, 1].
            outputs: which ones; None: all.

        Raises:
            TypeError, ValueError: images of another type, size or range; an output that it does not have.
        """
        self._check_images(images)
        wanted = self.choose(outputs)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            found = self._encode(images.to(self.device), wanted)
        return {name: found[name].float() for name in wanted}

    def stored(
        self, source: ImageSource, content: Content, *, part: str | None, max_images: int | None, **reading: Any
    ) -> FeatureImages:
        """Images, the first `max_images` of them, with their features, as a store of such content takes them.

        part: which file, of an encoder that is a file a split. reading: of `EncodedImages`.
        """

        def encode(images: Tensor) -> dict[str, Tensor]:
            maps = self.encode(images, list(content.outputs))
            return maps if content.pooling is None else {n: pool(each, content.pooling) for n, each in maps.items()}

        return EncodedImages(source if max_images is None else source.first(max_images), encode, content, **reading)

    def grid_sides(self, outputs: Sequence[str] | None = None) -> dict[str, int]:
        """G of the maps of each of these outputs, None: all; 1 where there is no grid."""
        grey = torch.full((1, 3, self.image_size, self.image_size), 0.5, device="cpu")
        return {name: maps.shape[1] for name, maps in self.encode(grey, outputs).items()}

    def grids(self, outputs: Sequence[str] | None = None) -> dict[str, int]:
        """The side G of the grid of those of the outputs (None: all) that have one.

        Raises:
            ValueError: none has, or one of `outputs` has not.
        """
        sides = self.grid_sides(outputs)
        found = {name: side for name, side in sides.items() if side > 1}
        if not found or (outputs is not None and len(found) < len(sides)):
            flat = [name for name in sides if name not in found]
            raise ValueError(f"{self.name} has no map of features in {', '.join(flat)}: a dense task needs one")
        return found

    def choose(self, outputs: Sequence[str] | None) -> list[str]:
        """These outputs, None: all; ValueError for one that it does not have, or none at all."""
        wanted = list(self.outputs) if outputs is None else list(outputs)
        if unknown := [name for name in wanted if name not in self.outputs]:
            raise ValueError(f"{self.name} has no output {unknown[0]!r}: its outputs are {', '.join(self.outputs)}")
        if not wanted:
            raise ValueError(f"an empty list of outputs; those of {self.name} are {', '.join(self.outputs)}")
        return wanted

    def axes(self, output: str) -> dict[str, Any]:
        """Layer, context, read and orders of an output, as a result states them."""
        return {name: self.outputs[output][name] for name in ("layer", "context", "read", "orders")}

    @abstractmethod
    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        """Maps (b, G, G, D) of at least these outputs, of checked images on `device`."""

    def _check_images(self, images: Tensor) -> None:
        shape = (3, self.image_size, self.image_size)
        if not isinstance(images, Tensor) or not images.is_floating_point():
            found = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"{self.name} takes a float tensor (b, 3, S, S) in [0, 1], got {found}")
        if images.ndim != 4 or images.shape[1:] != shape:
            raise ValueError(
                f"{self.name} takes images (b, {', '.join(map(str, shape))}), got {tuple(images.shape)}: read them "
                f"with open_images(...).batches({self.image_size}, …)"
            )
        check_range(images)


def all_layers(axes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The outputs of each context and read that has several layers, by the name "reverse/image/all".

    axes: layer, context, read and orders of each output. Outputs without a layer are left out.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for output, own in axes.items():
        if own["layer"] is not None:
            groups.setdefault(tuple(str(own[name]) for name in ("context", "read", "orders")), []).append(output)
    return {
        "/".join([*(part for part in kind[:2] if part != "None"), "all"]): members
        for kind, members in sorted(groups.items())
        if len(members) > 1
    }


NO_DETAILS: dict[str, Any] = {"layer": None, "context": None, "read": None, "norm": False, "orders": None}
