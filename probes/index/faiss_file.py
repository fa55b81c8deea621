"""Files of faiss, checked before faiss reads them.

faiss trusts a file: an inverted list on disk may name another file, which faiss maps for writing, and counts decide how
much memory it takes. So the layout (faiss's `impl/index_write.cpp`) is checked first. Only what `build_index` writes is
read: vectors, a graph over vectors, or product codes in lists in memory.
"""

import importlib
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from probes.index.files import IndexFilesError

faiss: Any = importlib.import_module("faiss")  # its type stubs lack half of what it has
FaissIndex = Any

FLAT, GRAPH, CODES_IN_LISTS, LISTS_IN_MEMORY = "IxFI", "IHNf", "IwPQ", "ilar"
KIND_OF = {FLAT: "flat", GRAPH: "hnsw", CODES_IN_LISTS: "ivfpq"}
INNER_PRODUCT = 0
_READ_BYTES = 1 << 18  # larger pieces are returned to the system each time, which costs more than the calls


def read_faiss(path: Path, kind: str, dim: int) -> FaissIndex:
    """The index in `path`, which must be of this kind and width.

    Raises:
        IndexFilesError: the file is torn, of another kind, or refers to another file.
    """
    with path.open("rb", buffering=0) as file:  # read in large pieces, which a buffer would only copy
        found, numbers = checked_header(path, file)
        if (found, numbers) != (kind, dim):
            raise IndexFilesError(f"{path} is a {found} index of {numbers} numbers, its manifest says {kind} of {dim}")
        file.seek(0)
        try:
            return faiss.read_index(faiss.PyCallbackIOReader(file.read, _READ_BYTES))
        except RuntimeError as error:  # of faiss from 1.15 on, for links that lead nowhere too
            raise IndexFilesError(f"{path} is damaged: faiss could not read it. Build the index again") from error


def write_faiss(path: Path, index: FaissIndex) -> None:
    """Write an index of faiss, through Python: faiss itself takes only names in UTF-8."""
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, _READ_BYTES))


def checked_header(path: Path, file: BinaryIO) -> tuple[str, int]:
    """Walk a whole file of faiss: kind and width of its index; IndexFilesError unless `build_index` could write it."""
    layout = _Layout(path, file)
    name, dim, count = layout.header()
    if name == FLAT:
        layout.flat(dim, count)
    elif name == GRAPH:
        layout.graph(dim, count)
    elif name == CODES_IN_LISTS:
        layout.codes_in_lists(dim, count)
    else:
        raise layout.refused(name)
    layout.end()
    return KIND_OF[name], dim


class _Layout:
    """Walks a file part by part; whatever it names must be in the file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size

    def refused(self, name: str) -> IndexFilesError:
        return IndexFilesError(
            f"{self.path} holds {name!r}, which build_index does not write and which may refer to other files: "
            "it is not opened. Build the index again"
        )

    def torn(self) -> IndexFilesError:
        return IndexFilesError(f"{self.path} is torn: it is shorter or longer than it says. Build the index again")

    def take(self, layout: str) -> tuple[Any, ...]:
        layout = "<" + layout
        found = self.file.read(struct.calcsize(layout))
        if len(found) < struct.calcsize(layout):
            raise self.torn()
        return struct.unpack(layout, found)

    def name(self) -> str:
        return self.take("4s")[0].decode("latin-1")

    def skip(self, count: int, item: int) -> None:
        if count < 0 or count * item > self.size - self.file.tell():
            raise self.torn()
        self.file.seek(count * item, os.SEEK_CUR)

    def vector(self, item: int) -> int:
        """Skip a vector of items of this size; how many they are."""
        (count,) = self.take("Q")
        self.skip(count, item)
        return count

    def end(self) -> None:
        if self.file.tell() != self.size:
            raise self.torn()

    def header(self) -> tuple[str, int, int]:
        """Name, width and count at the beginning of an index."""
        name = self.name()
        if name not in KIND_OF:
            raise self.refused(name)
        dim, count, _, _, _, metric = self.take("iqqq?i")
        if dim < 1 or count < 0 or metric != INNER_PRODUCT:
            raise self.torn()
        return name, dim, count

    def flat(self, dim: int, count: int) -> None:
        if self.vector(4) != dim * count:
            raise self.torn()

    def inner_flat(self, dim: int, count: int) -> None:
        name, own_dim, own_count = self.header()
        if name != FLAT:
            raise self.refused(name)
        if (own_dim, own_count) != (dim, count):
            raise self.torn()
        self.flat(dim, count)

    def graph(self, dim: int, count: int) -> None:
        for item in (8, 4):  # chances and links of each layer
            self.vector(item)
        layers, offsets = self.vector(4), self.vector(8)
        if layers != count or offsets != count + 1:
            raise self.torn()
        self.vector(4)  # neighbours
        self.take("iiiii")  # entry point, layers, efConstruction, efSearch, one that is no longer used
        self.inner_flat(dim, count)

    def codes_in_lists(self, dim: int, count: int) -> None:
        lists, _ = self.take("QQ")
        self.inner_flat(dim, lists)
        (direct,) = self.take("b")
        if direct != 0 or self.vector(8):
            raise self.torn()
        _, code_bytes, pq_dim, parts, bits = self.take("?QQQQ")
        if (pq_dim, parts, bits) != (dim, code_bytes, 8) or self.vector(4) != 256 * dim:
            raise self.torn()
        name = self.name()
        if name != LISTS_IN_MEMORY:
            raise self.refused(name)
        if self.take("QQ") != (lists, code_bytes):
            raise self.torn()
        if sum(sizes := self._list_sizes(lists)) != count:
            raise self.torn()
        for size in sizes:
            self.skip(size, code_bytes + 8)

    def _list_sizes(self, lists: int) -> list[int]:
        """The sizes of all lists: either all ("full"), or pairs of number and size ("sprs")."""
        form = self.name()
        (count,) = self.take("Q")
        if count * 8 > self.size or (form, count) not in (("full", lists), ("sprs", count & ~1)):
            raise self.torn()
        values = list(self.take(f"{count}Q"))
        return values if form == "full" else values[1::2]
