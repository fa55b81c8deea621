"""Features on disk: one value an image and output, in a store of `randar_features.store`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from randar_features.store.manifest import MANIFEST
from randar_features.store.manifest import read_manifest as read_any_manifest
from randar_features.store.store import Rows, Store, positive
from randar_features.store.writer import abandon_store

MADE_BY = "scripts/extract_features.py"


class FeatureStore(Store):
    """Features of a collection of images, and what is known of each image.

    Args:
        folder: what `extract_to_store` wrote.
        names: only these outputs; None: all.

    Attributes:
        folder: as given.
        manifest: "encoder", "weights", "transform", "image_size", "pooling", "dtype" (on disk), "compute_dtype",
            "outputs" (details of each, by name), "label_names", and "parts": the data sets that were put in, with
            their first row.
        names: of the outputs.
        shards: the files.

    The ends of each shard are checked when the store is opened, its checksum when it is first read.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: its extraction did not finish, a shard is missing, torn or (when read) damaged, or an output
            is unknown.
    """

    kind: ClassVar[str] = "features"
    made_by: ClassVar[str] = f"its extraction ({MADE_BY})"

    def __init__(self, folder: str | Path, names: Sequence[str] | None = None) -> None:
        super().__init__(folder)
        if not isinstance(self.manifest.get("outputs"), dict):
            raise ValueError(f"{self.folder / MANIFEST} names no outputs: make the store anew with {MADE_BY}")
        known = list(self.manifest["outputs"])
        if unknown := sorted(set(names or ()) - set(known)):
            raise ValueError(f"{self.folder} holds no {', '.join(unknown)}; its outputs are: {', '.join(known)}")
        self._names = known if names is None else list(names)

    @property
    def names(self) -> list[str]:
        """Of the outputs."""
        return self._names

    def __repr__(self) -> str:
        """Encoder, images and outputs."""
        return (
            f"FeatureStore({str(self.folder)!r}: {len(self)} images, {len(self.names)} outputs "
            f"of {self.manifest['encoder']}, weights {self.manifest['weights']})"
        )

    def array(self, name: str, rows: Rows = None) -> NDArray[np.float32]:
        """float32 (n, …): all images, or some: their numbers in any order, a slice, or a mask of all.

        Unreadable images' are NaN.

        Raises:
            ValueError: there is no output of that name.
            IndexError, TypeError: see `store.store.row_numbers`.
        """
        return self.take(name, rows, dtype=np.float32)

    def blocks(self, name: str, size: int = 4096) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32 (size, …)) one after the other; the last may be shorter."""
        size = positive("size", size)

        def read() -> Iterator[tuple[int, NDArray[np.float32]]]:
            for start in range(0, len(self), size):
                yield start, self.array(name, slice(start, start + size))

        return read()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a feature store; FileNotFoundError without one, ValueError if it is damaged or another one."""
    return read_any_manifest(folder, FeatureStore.kind, FeatureStore.made_by)


def is_store(path: Any) -> bool:
    """Whether this is a folder that holds a store of features."""
    if not isinstance(path, str | os.PathLike):
        return False
    manifest = Path(path) / "manifest.json"
    return manifest.is_file() and b'"outputs"' in manifest.read_bytes()


def abandon_extraction(folder: str | Path) -> int:
    """Remove what an extraction that was not finished has added to a store of features.

    Args:
        folder: of the store.

    Returns:
        Number of images that stay; 0: nothing is left.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: it is finished.
        FolderLockedError: another process writes to it.
    """
    return abandon_store(folder, FeatureStore)
