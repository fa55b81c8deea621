"""What an index is made of: its kind and sizes, chosen by how many vectors it is for."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

KINDS = ("flat", "hnsw", "ivfpq")
NORMALIZATIONS = ("unit", "standardized")
FLAT_UP_TO = 50_000
HNSW_UP_TO = 300_000
POINTS_PER_LIST = 40  # faiss asks for at least 39 to train a centroid
CODES = 256  # of a part of a vector: one byte
MOST_CODE_BYTES = 128


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """Everything that decides what an index becomes, besides its vectors. Zero: the kind has no such thing.

    Attributes:
        kind: "flat" compares with every vector; "hnsw" walks a graph of neighbours (Malkov and Yashunin 2016);
            "ivfpq" looks into the nearest of many lists, at vectors of a few bytes (Jégou et al. 2011), and
            compares what it finds with the vectors themselves, kept in half precision on disk.
        dim: D, numbers of a vector.
        normalization: "unit": vectors are brought to length 1, so that products are cosines; "standardized":
            before that, to zero mean and unit variance per feature, as measured on the training sample.
        links: hnsw: neighbours of a vector in each upper layer of the graph, twice as many in the lowest.
        construction: hnsw: candidates looked at while a vector is added.
        lists: ivfpq: how many lists the vectors are divided among.
        code_bytes: ivfpq: bytes of a vector, which must divide D.
        training_rows: vectors in the sample that lists, codes, means and variances are learned from.
        block_rows: vectors that are added at once.
        seed: of the sample, the centroids and the graph.
    """

    kind: str
    dim: int
    normalization: str = "unit"
    links: int = 0
    construction: int = 0
    lists: int = 0
    code_bytes: int = 0
    training_rows: int = 0
    block_rows: int = 16384
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """For the manifest; `IndexSettings(**it)` gives the settings back."""
        return asdict(self)


def choose_settings(
    count: int,
    dim: int,
    *,
    kind: str = "auto",
    normalization: str = "unit",
    links: int = 32,
    construction: int = 64,
    lists: int | None = None,
    code_bytes: int | None = None,
    training_rows: int | None = None,
    block_rows: int = 16384,
    seed: int = 0,
) -> IndexSettings:
    """Settings for about `count` vectors (count, dim); what is None, and kind "auto", follows from their number.

    "auto" is flat up to 50 000 vectors, hnsw up to 300 000, ivfpq beyond. Lists: the power of two next to
    2 √count that leaves 40 training rows for each. Code bytes: the largest divisor of D up to D/4
    and 128.

    Raises:
        ValueError: an unknown kind or normalization, sizes below 1, code bytes that do not divide D, or too
            few vectors to train on.
    """
    if kind == "auto":
        kind = "flat" if count <= FLAT_UP_TO else "hnsw" if count <= HNSW_UP_TO else "ivfpq"
    for name, value, choices in (("kind", kind, KINDS), ("normalization", normalization, NORMALIZATIONS)):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if min(count, dim, links, construction, block_rows) < 1:
        raise ValueError(f"expected at least 1 of each, got {count=}, {dim=}, {links=}, {construction=}, {block_rows=}")
    if min(size for size in (lists, code_bytes, training_rows, 1) if size is not None) < 1:
        raise ValueError(
            "expected None, to follow from the number of vectors, or at least 1, got "
            f"{lists=}, {code_bytes=}, {training_rows=}"
        )
    settings = IndexSettings(kind=kind, dim=dim, normalization=normalization, block_rows=block_rows, seed=seed)
    if kind == "hnsw":
        settings = replace(settings, links=links, construction=construction)
    if kind == "ivfpq":
        settings = _with_lists(settings, count, lists, code_bytes, training_rows)
    elif normalization == "standardized":
        settings = replace(settings, training_rows=min(count, training_rows or 2**16))
    return settings


def _with_lists(
    settings: IndexSettings, count: int, lists: int | None, code_bytes: int | None, training_rows: int | None
) -> IndexSettings:
    if lists is None:
        most = max(1, min(count, training_rows or count) // POINTS_PER_LIST)
        lists = 2 ** min(int(math.log2(most)), round(math.log2(2 * math.sqrt(count))))
    training_rows = min(count, training_rows or max(CODES * POINTS_PER_LIST, lists * POINTS_PER_LIST))
    if training_rows < max(CODES, lists):
        raise ValueError(
            f"ivfpq needs at least {max(CODES, lists)} vectors to learn {lists} lists and {CODES} codes from, "
            f"got {training_rows}: choose flat, or fewer lists"
        )
    dim = settings.dim
    code_bytes = code_bytes or max(m for m in range(1, max(1, min(dim // 4, MOST_CODE_BYTES)) + 1) if dim % m == 0)
    if code_bytes < 1 or dim % code_bytes:
        raise ValueError(f"code bytes must divide the {dim} numbers of a vector, got {code_bytes}")
    return replace(settings, lists=lists, code_bytes=code_bytes, training_rows=training_rows)
