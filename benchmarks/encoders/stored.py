"""Features that `randar extract` has already computed, in place of an encoder that computes them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.encoders.base import Encoder
from randar_features.features.store import FeatureStore
from randar_features.precision import parse_format


class StoredEncoder(Encoder):
    """What the features of a store were made by. It computes nothing: `features` are there.

    Args:
        store: of features; of maps too.
    """

    def __init__(self, store: FeatureStore) -> None:
        about = store.manifest
        outputs = {name: about["outputs"][name] for name in store.names}
        super().__init__(
            name=about["encoder"], image_size=about["image_size"], weights=about["weights"], outputs=outputs
        )
        self.store = store
        self.dtype, _ = parse_format(about["compute_dtype"])

    def features(self, outputs: Sequence[str] | None, pooling: str | None) -> FeatureStore:
        """The store, with these outputs alone.

        Args:
            outputs: which ones; None: all.
            pooling: of the vectors; maps may still be pooled in any way.

        Raises:
            ValueError: an unknown output, or a store of vectors that were pooled otherwise.
        """
        held = self.store.manifest["pooling"]
        if held not in (None, pooling):
            raise ValueError(f"{self.store.folder} holds vectors, pooled by {held}: extract maps (--pooling none)")
        return FeatureStore(self.store.folder, self.choose(outputs))

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        """NaN in the shape of what is stored, which tells the grid."""
        shapes = {name: self.store.shape(name) for name in outputs}
        padded = {name: shape if len(shape) == 3 else (1, 1, *shape) for name, shape in shapes.items()}
        return {name: torch.full((len(images), *shape), torch.nan, device="cpu") for name, shape in padded.items()}
