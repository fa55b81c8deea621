"""Settings of an index: its kind and sizes, chosen by the number of vectors."""

import math
from dataclasses import dataclass, replace

from probes.transforms import NORMALIZATIONS

KINDS = ("flat", "hnsw", "ivfpq")
FLAT_UP_TO = 50_000
HNSW_UP_TO = 300_000
POINTS_PER_LIST = 40  # faiss asks for at least 39 to train a centroid
CODES = 256  # of a part of a vector: one byte
MOST_CODE_BYTES = 128
NORMALIZATION_ROWS = 2**16  # vectors that means, deviations and axes are measured on
LEAST = {"M": 2, "seed": 0}
"""The least value of a size of `choose_settings`, where it is not 1. faiss divides by the logarithm of M."""


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """All settings of an index, named as in faiss; 0 where its kind has no such setting.

    Attributes:
        kind: "flat" compares with every vector; "hnsw" walks a graph of neighbours (Malkov and Yashunin 2016);
            "ivfpq" looks into the nearest of many lists, at vectors of a few bytes (Jégou et al. 2011), and
            compares what it finds with the vectors themselves, kept in half precision on disk.
        dim: D, numbers of a vector as it is given.
        normalization: "unit": vectors are brought to length 1, so that products are cosines; before that,
            "standardized": to zero mean and unit variance per feature, "whitened": to unit variance in the principal
            axes (`Whitener`), as measured on the training sample.
        components: whitened: how many axes.
        M: hnsw: neighbours of a vector in each upper layer of the graph, twice as many in the lowest.
        efConstruction: hnsw: candidates looked at while a vector is added.
        nlist: ivfpq: how many lists the vectors are divided among.
        code_bytes: ivfpq: bytes of a vector, which must divide its width (M of faiss's `IndexIVFPQ`).
        training_rows: vectors in the sample that lists, codes, means and axes are learned from.
        block_rows: vectors that are added at once.
        seed: of the sample, the centroids and the graph.
    """

    kind: str
    dim: int
    normalization: str = "unit"
    components: int = 0
    M: int = 0
    efConstruction: int = 0
    nlist: int = 0
    code_bytes: int = 0
    training_rows: int = 0
    block_rows: int = 16384
    seed: int = 0

    @property
    def width(self) -> int:
        """Numbers of a vector as the index holds it."""
        return self.components or self.dim


def choose_settings(
    count: int,
    dim: int,
    *,
    kind: str | None = None,
    normalization: str = "unit",
    components: int | None = None,
    M: int = 32,
    efConstruction: int = 64,
    nlist: int | None = None,
    code_bytes: int | None = None,
    training_rows: int | None = None,
    block_rows: int = 16384,
    seed: int = 0,
) -> IndexSettings:
    """Settings for about `count` vectors (count, dim); what is None, and kind "auto", follows from their number.

    "auto" is flat up to 50 000 vectors, hnsw up to 300 000, ivfpq beyond. nlist: the power of two next to
    2 √count that leaves 40 training vectors for each. Code bytes: the largest divisor of the width up to a quarter
    of it and 128. Components: half of D, less where there are fewer vectors.

    Raises:
        ValueError: an unknown kind or normalization, sizes below 1, more components than D, components without
            whitening, code bytes that do not divide the width, or more lists than vectors.
    """
    if kind in (None, "auto"):
        kind = "flat" if count <= FLAT_UP_TO else "hnsw" if count <= HNSW_UP_TO else "ivfpq"
    for name, value, choices in (("kind", kind, KINDS), ("normalization", normalization, NORMALIZATIONS)):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    sizes: dict[str, int | None] = {
        "count": count,
        "dim": dim,
        "M": M,
        "efConstruction": efConstruction,
        "block_rows": block_rows,
    }
    sizes |= {"nlist": nlist, "code_bytes": code_bytes, "training_rows": training_rows, "components": components}
    if wrong := {name: size for name, size in sizes.items() if size is not None and size < 1}:
        raise ValueError(f"expected at least 1, or None where it follows from the number of vectors, got {wrong}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be an integer from 0 to 2**63 - 1, got {seed}")
    settings = IndexSettings(kind=str(kind), dim=dim, normalization=normalization, block_rows=block_rows, seed=seed)
    settings = replace(settings, components=_components(normalization, components, count, dim))
    if kind == "hnsw":
        if LEAST["M"] > M:
            raise ValueError(f"M must be at least {LEAST['M']}, neighbours of a vector in the graph; got {M}")
        if efConstruction >= 2**31:
            raise ValueError(f"efConstruction must be below 2**31, got {efConstruction}")
        settings = replace(settings, M=M, efConstruction=efConstruction)
    if kind == "ivfpq":
        settings = _with_lists(settings, count, nlist, code_bytes, training_rows)
    elif normalization != "unit":
        settings = replace(settings, training_rows=min(count, training_rows or NORMALIZATION_ROWS))
    return settings


def _components(normalization: str, components: int | None, count: int, dim: int) -> int:
    if normalization != "whitened":
        if components is not None:
            raise ValueError(f"components are for normalization whitened, got {components} for {normalization}")
        return 0
    if components is None:
        return max(1, min(dim // 2, count // 2))
    if components > dim:
        raise ValueError(f"components must be at most {dim}, the numbers of a vector, got {components}")
    return components


def _with_lists(
    settings: IndexSettings, count: int, nlist: int | None, code_bytes: int | None, training_rows: int | None
) -> IndexSettings:
    if nlist is None:
        most = max(1, min(count, training_rows or count) // POINTS_PER_LIST)
        nlist = 2 ** min(int(math.log2(most)), round(math.log2(2 * math.sqrt(count))))
    training_rows = min(count, training_rows or max(CODES * POINTS_PER_LIST, nlist * POINTS_PER_LIST))
    if training_rows < nlist:
        raise ValueError(f"{nlist} lists need at least as many vectors to learn from, got {training_rows}: lower nlist")
    width = settings.width
    code_bytes = code_bytes or max(m for m in range(1, max(1, min(width // 4, MOST_CODE_BYTES)) + 1) if width % m == 0)
    if width % code_bytes:
        raise ValueError(f"code bytes must divide the {width} numbers of a vector, got {code_bytes}")
    return replace(settings, nlist=nlist, code_bytes=code_bytes, training_rows=training_rows)
