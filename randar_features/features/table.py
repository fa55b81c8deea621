"""Images × specs: the features, and path, label and status of each image, in memory or on disk."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from randar_features import sequence
from randar_features.features.spec import FeatureSpec
from randar_features.features.store import FeatureStore
from randar_features.store.files import folder_written_whole, path_to_write, written_whole
from randar_features.store.identity import UNREADABLE, hash_bytes
from randar_features.store.records import OK, Block, Record, escape
from randar_features.store.writer import StoreWriter

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 1024  # images that are written at a time
_CHUNK_BYTES = 2**24  # of a Zarr array
_METADATA = b"randar_features"


class FeatureTable:
    """The features that `extract_features` returns, with one entry for each image, in the order of the images.

    Attributes:
        specs: the features, such as "reverse/image/2"; `table[spec]` is an array of one of them.
        labels: (n,) int64, −1 where an image has none; None if no image has one.
        paths: file of each image, or None.
        status: "ok", or why an image could not be read; its features are NaN.
        label_names: names of the classes, or None.
        details: the settings and the weights that the features depend on.
        store: the store of a table on disk; None: the features are in memory.
    """

    def __init__(
        self,
        values: Tensor | FeatureStore,
        specs: Sequence[FeatureSpec | str],
        *,
        labels: Tensor | None,
        paths: list[str | None],
        status: list[str],
        label_names: list[str] | None,
        details: dict[str, Any],
    ) -> None:
        self.store = values if isinstance(values, FeatureStore) else None
        self._values = values if isinstance(values, Tensor) else None
        self.specs = [str(spec) for spec in specs]
        self.labels, self.paths, self.status = labels, paths, status
        self.label_names, self.details = label_names, details

    @property
    def layers(self) -> list[int]:
        """The layer of each spec."""
        return [FeatureSpec.parse(spec).layer for spec in self.specs]

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        kind = "pooled" if self.is_pooled else "maps"
        where = "" if self.store is None else f", in {self.store.folder}"
        return (
            f"FeatureTable({int(self.ok.sum())} of {len(self)} images, {kind} {self.shape} of "
            f"{', '.join(self.specs)}{where})"
        )

    def __getitem__(self, spec: str | FeatureSpec) -> NDArray[np.float32]:
        """One feature: (n, G, G, D), or (n, D) where pooled; ValueError for one that the table lacks."""
        return self._take(self._name(spec))

    def _name(self, spec: str | FeatureSpec) -> str:
        name = str(spec) if str(spec) in self.specs else str(FeatureSpec.parse(spec))
        if name not in self.specs:
            raise ValueError(f"the table holds no {name}: its specs are {', '.join(self.specs)}")
        return name

    def _take(self, name: str, images: slice | NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """One feature of all images or some."""
        if self.store is not None:
            return self.store.array(name, images)
        assert self._values is not None
        values = self._values[:, self.specs.index(name)].numpy()
        return values if images is None else values[images]

    def blocks(self, spec: str | FeatureSpec, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first image, one feature of up to `size` images) one after the other."""
        name, starts = self._name(spec), range(0, len(self), size)
        return ((start, np.ascontiguousarray(self._take(name, slice(start, start + size)))) for start in starts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one feature of one image: (G, G, D), or (D,) if pooled."""
        if self.store is not None:
            return tuple(self.store.shape(self.specs[0]))
        assert self._values is not None
        return tuple(self._values.shape[2:])

    @property
    def is_pooled(self) -> bool:
        """Whether the table holds one vector for each image, instead of a map."""
        return len(self.shape) == 1

    @property
    def ok(self) -> Tensor:
        """(n,) bool: the images that could be read."""
        return torch.tensor([status == OK for status in self.status], dtype=torch.bool, device="cpu")

    @property
    def maps(self) -> Tensor | None:
        """All maps (n, L, G, G, D), float32 on the CPU; None if pooled. Reads a whole store into memory."""
        return None if self.is_pooled else self._all()

    def pooled(self, how: str = "mean") -> Tensor:
        """The mean of each spec over the locations: (n, L, D)."""
        sequence.check_choice("how", how, ("mean",))
        if self._values is None:
            return torch.stack([_mean(self._take(name)) for name in self.specs], dim=1)
        return self._values if self.is_pooled else self._values.mean(dim=(2, 3))

    def _all(self) -> Tensor:
        if self._values is not None:
            return self._values
        return torch.stack([torch.from_numpy(self._take(name)) for name in self.specs], dim=1)

    def labelled(self, spec: str | FeatureSpec) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors (m, D) and labels (m,) of the images that could be read and have a label, for a scikit-learn model.

        Raises:
            ValueError: no image that could be read has a label, or the table lacks the spec.
        """
        name, labels = self._name(spec), self._labels()
        chosen = self.ok.numpy() & (labels >= 0)
        if not chosen.any():
            raise ValueError(
                f"none of {int(self.ok.sum())} images that could be read has a label: take folders of classes, or a "
                "data set with labels"
            )
        return _mean(self._take(name, chosen)).numpy(), labels[chosen]

    def to_pandas(self) -> "pd.DataFrame":
        """A data frame, a row for each image: path, label, status, and for each spec an array (D,) or (G, G, D)."""
        import pandas as pd  # takes half a second

        columns = {name: list(self._take(name)) for name in self.specs}
        return pd.DataFrame({"path": self._paths(), "label": self._labels(), "status": self.status, **columns})

    def to_parquet(self, path: str | Path) -> None:
        """Write a Parquet file: path, label, status, and for each spec a float32 list of fixed size.

        Maps (G, G, D) are flattened; their shape, the class names and `details` are in the file's metadata, as JSON
        under "randar_features". Paths that are not UTF-8 are escaped, see `store.records.escape`.

        Raises:
            ValueError: the name does not end in .parquet, by which every reader knows such a file.
        """
        if path_to_write(path).suffix != ".parquet":
            raise ValueError(
                f"a Parquet file is named ….parquet, got {str(path)!r}; for a CSV file see to_pandas().to_csv"
            )
        import pyarrow as pa
        import pyarrow.parquet as pq

        size = int(np.prod(self.shape))
        fields = [("path", pa.string()), ("label", pa.int64()), ("status", pa.string())]
        fields += [(name, pa.list_(pa.float32(), size)) for name in self.specs]
        schema = pa.schema(fields, metadata={_METADATA: json.dumps(self._about())})
        paths, labels, status = self._paths(), self._labels(), self.status
        with written_whole(path_to_write(path)) as file, pq.ParquetWriter(file, schema) as writer:
            for images in _slices(len(self)):
                columns = [pa.array(paths[images], "string"), pa.array(labels[images])]
                columns.append(pa.array(status[images], "string"))
                for name in self.specs:
                    flat = np.ascontiguousarray(self._take(name, images), np.float32).reshape(-1)
                    columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), size))
                writer.write_batch(pa.record_batch(columns, schema=schema))

    def to_zarr(self, path: str | Path) -> None:
        """Write a Zarr group: "path", "label", "status", and for each spec a float32 array (n, G, G, D) or (n, D).

        Shape, class names and `details` are the group's attribute "randar_features". Needs the extra "zarr".

        Raises:
            FileExistsError: something is at `path`.
            ModuleNotFoundError: zarr is not installed.
        """
        try:
            import zarr
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError('to_zarr needs zarr: pip install "randar-features[zarr]"') from error

        def add(name: str, dtype: type, read: Callable[[slice], NDArray[Any]], *axes: str) -> None:
            own = self.shape if axes else ()
            images = max(1, _CHUNK_BYTES // (4 * int(np.prod(own))))
            options: dict[str, Any] = {"shape": (len(self), *own), "chunks": (images, *own), "dtype": dtype}
            array = group.create_array(name, **options, dimension_names=("image", *axes))
            for block in _slices(len(self)):
                array[block] = read(block)

        with folder_written_whole(path_to_write(path)) as folder:
            group = zarr.create_group(folder, attributes={_METADATA.decode(): self._about()})
            for name, texts in (("path", self._paths()), ("status", self.status)):
                add(name, str, np.array([text or "" for text in texts], object).__getitem__)
            add("label", np.int64, self._labels().__getitem__)
            axes = ("channel",) if self.is_pooled else ("y", "x", "channel")
            for name in self.specs:
                add(name, np.float32, partial(self._take, name), *axes)

    def _about(self) -> dict[str, Any]:
        """What other formats say of the whole table."""
        about = {"specs": self.specs, "shape": self.shape, "label_names": self.label_names, "details": self.details}
        found: dict[str, Any] = json.loads(json.dumps(about, default=str))
        return found

    def _paths(self) -> list[str | None]:
        """The paths in UTF-8."""
        return [None if path is None else escape(path) for path in self.paths]

    def save(self, folder: str | Path, *, progress: bool = False) -> "FeatureTable":
        """Write the table into a folder, from which `open_table` reads it; the numbers stay float32.

        Raises:
            ValueError: the folder holds another table.
        """
        about = {name: value for name, value in self.details.items() if name not in _MANIFEST_KEYS.values()}
        content = {key: self.details.get(name) for key, name in _MANIFEST_KEYS.items()}
        outputs = {name: FeatureSpec.parse(name).details() for name in self.specs}
        content |= {"dtype": "float32", "outputs": outputs, "table": about}
        writer = StoreWriter(
            folder=path_to_write(folder),
            kind=FeatureStore,
            content=json.loads(json.dumps(content, default=str)),
            shard_rows=_BLOCK,
            data="a table",
            progress="saving" if progress else None,
        )
        writer.fill(_TableSource(self))
        return open_table(folder)

    def _labels(self) -> NDArray[np.int64]:
        return np.full(len(self), -1) if self.labels is None else self.labels.numpy()


# Of a store's manifest, and what a table's details call it.
_MANIFEST_KEYS = {
    "encoder": "model",
    "weights": "weights",
    "image_size": "image_size",
    "pooling": "pool",
    "compute_dtype": "dtype",
    "value_range": "value_range",
}


def open_table(folder: str | Path) -> FeatureTable:
    """Open a table that `FeatureTable.save` or `extract_features(..., out=folder)` wrote; it is read as needed.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is damaged, or its extraction did not finish.
    """
    return table_of(FeatureStore(folder))


def table_of(store: FeatureStore) -> FeatureTable:
    """A store as a table."""
    manifest = store.manifest
    details = {name: manifest.get(key) for key, name in _MANIFEST_KEYS.items()}
    details["classes"] = next(iter(manifest["outputs"].values())).get("classes")
    details |= manifest.get("table") or {}
    return FeatureTable(
        store,
        store.names,
        labels=torch.from_numpy(store.labels) if (store.labels >= 0).any() else None,
        paths=store.paths,
        status=store.status,
        label_names=store.label_names,
        details=details,
    )


def _mean(values: NDArray[np.float32]) -> Tensor:
    """(n, D) of vectors, or of maps their mean over locations."""
    tensor = torch.from_numpy(values)
    return tensor if tensor.dim() == 2 else tensor.mean(dim=(1, 2))


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))


@dataclass(frozen=True)
class _TableSource:
    """A table as the source of a store; an image is known by its features."""

    table: FeatureTable
    streamed: bool = False
    root: Path | None = None

    @property
    def length(self) -> int:
        return len(self.table)

    @property
    def label_names(self) -> list[str] | None:
        return self.table.label_names

    def records(self) -> list[Record]:
        return [record for images in _slices(len(self.table)) for record in self._block(images).records]

    def read(self, runs: Iterator[Sequence[int]]) -> Iterator[Block]:
        for run in runs:
            yield self._block(slice(run[0], run[-1] + 1))

    def _block(self, images: slice) -> Block:
        table, labels = self.table, self.table._labels()[images].tolist()
        columns = {name: np.ascontiguousarray(table._take(name, images), np.float32) for name in table.specs}
        records = []
        for place, (path, label, status) in enumerate(
            zip(table.paths[images], labels, table.status[images], strict=True)
        ):
            content = [np.ascontiguousarray(values[place]).tobytes() for values in columns.values()]
            records.append(Record(path, label, hash_bytes(*content) if status == OK else UNREADABLE))
        return Block(columns, records, table.status[images])
