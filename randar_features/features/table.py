"""Images × specs: the features, and path, label and status of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from randar_features import sequence
from randar_features.data.images import OK
from randar_features.features.spec import FeatureSpec


class FeatureTable:
    """What `extract_features` returns: one entry an image, in the order in which the images came.

    Attributes:
        specs: the features, such as "reverse/image/2"; `table[spec]` is an array of one of them.
        layers: the layer of each spec, from 0.
        labels: (n,) int64, −1 where an image has none; None if no image has one.
        paths: file of each image, or None.
        status: "ok", or why an image could not be read; its features are NaN.
        label_names: names of the classes, or None.
        details: the settings and weights that the numbers depend on.
    """

    def __init__(
        self,
        values: Tensor,
        specs: list[FeatureSpec],
        *,
        labels: Tensor | None,
        paths: list[str | None],
        status: list[str],
        label_names: list[str] | None,
        details: dict[str, Any],
    ) -> None:
        self._values, self._specs = values, specs
        self.labels, self.paths, self.status = labels, paths, status
        self.label_names, self.details = label_names, details

    @property
    def specs(self) -> list[str]:
        """The features by name."""
        return [str(spec) for spec in self._specs]

    @property
    def layers(self) -> list[int]:
        """The layer of each spec."""
        return [spec.layer for spec in self._specs]

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        kind = "pooled" if self.is_pooled else "maps"
        return (
            f"FeatureTable({int(self.ok.sum())} of {len(self)} images, {kind} {tuple(self._values.shape[2:])} of "
            f"{', '.join(self.specs)})"
        )

    def __getitem__(self, spec: str | FeatureSpec) -> NDArray[np.float32]:
        """One feature: (n, G, G, D), or (n, D) where pooled; ValueError for one that the table lacks."""
        return self._values[:, self._column(spec)].numpy()

    def _column(self, spec: str | FeatureSpec) -> int:
        wanted = FeatureSpec.parse(spec)
        if wanted not in self._specs:
            raise ValueError(f"the table holds no {wanted}: its specs are {', '.join(self.specs)}")
        return self._specs.index(wanted)

    @property
    def is_pooled(self) -> bool:
        """Whether the table holds one vector an image in place of a map."""
        return self._values.dim() == 3

    @property
    def ok(self) -> Tensor:
        """(n,) bool: the images that could be read."""
        return torch.tensor([status == OK for status in self.status], dtype=torch.bool)

    @property
    def maps(self) -> Tensor | None:
        """(n, L, G, G, D) float32 on the CPU, one map a spec; None where the table is pooled."""
        return None if self.is_pooled else self._values

    def pooled(self, how: str = "mean") -> Tensor:
        """(n, L, D): the mean over locations, of each spec."""
        sequence.check_choice("how", how, ("mean",))
        return self._values if self.is_pooled else self._values.mean(dim=(2, 3))

    def labelled(self, spec: str | FeatureSpec) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors (m, D) and labels (m,) of the images that could be read and have a label, for a scikit-learn model.

        Raises:
            ValueError: no image has a label, or the table lacks the spec.
        """
        column = self._column(spec)
        if self.labels is None:
            raise ValueError("no image has a label: take folders of classes, or a data set with labels")
        chosen = self.ok & (self.labels >= 0)
        values = self._values[chosen][:, column]
        vectors = values if self.is_pooled else values.mean(dim=(1, 2))
        return vectors.numpy(), self.labels[chosen].numpy()
