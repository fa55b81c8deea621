"""Which images of one set are nearly the same as images of another, and the warning that a card gives of them.

An index of the features of one set finds the candidates: for each image of the other set its nearest images, if their
cosine (standardised) reaches a threshold. Pixels then decide: at 32×32, the fine detail of both pictures, or of one and
the mirror image of the other, must agree. The threshold is higher if one picture is first shifted, cropped or turned
(`alignment.py`). Changes of brightness, contrast, colour and compression and small movements are found;
other pictures of the same thing, and two skies or seas, are not. `RECALL` states how many are found.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.datasets import open_data
from benchmarks.encoders import DEFAULT_MODEL, Encoder, extract, load_encoder
from benchmarks.tasks.duplicates.alignment import DETAIL, aligned_correlations
from probes.index import VectorIndex, build_index, choose_settings
from randar_features.data import ImageSource
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.features.store import FeatureStore

COMPARED_SIDE = 32
COMPARED_AT_ONCE = 4096
SIMILARITY = 0.6  # cosine of standardised features from which on a pair is looked at
ALIGNED = 0.9  # of detail after alignment: at 0.85 two horizons count
CORRELATION = 0.85  # of detail, from which on a pair counts: from 0.8 on, half of CIFAR-10's pairs are two pictures
NEIGHBOURS = 5
RECALL = (
    "of changed copies, found are all that are shifted by 1/32 of the width and 98 % at 2/32, 99 % of 90 % crops of "
    "the middle and 90 % of a corner, all that are rotated by 3 degrees, but only 6 % of 80 % crops"
)
"""Of 200 images among 2,000 of CIFAR-10, by `benchmarks.duplicate_recall`; of 1,000 others none was found.

Cards say it beside every count.
"""


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same.

    Attributes:
        row, other: rows of the two sets.
        path, other_path: their files, or None.
        similarity: cosine of their standardised features.
        correlation: of their detail at 32×32, of the better one of the image and its mirror image.
        mirrored: whether that was the mirror image.
        moved: whether one had to be shifted, cropped or turned; the correlation is the one after that.
        identical: whether all those pixels are equal.
    """

    row: int
    other: int
    path: str | None
    other_path: str | None
    similarity: float
    correlation: float
    mirrored: bool
    moved: bool
    identical: bool


def find(
    store: FeatureStore,
    other: FeatureStore,
    output: str,
    images: ImageSource,
    other_images: ImageSource,
    *,
    similarity: float = SIMILARITY,
    correlation: float = CORRELATION,
    aligned: float = ALIGNED,
    neighbours: int = NEIGHBOURS,
    rows: np.ndarray | None = None,
    other_rows: np.ndarray | None = None,
) -> list[Pair]:
    """Pairs of an image of `store` and one of `other`, sorted by the latter's row, then by correlation.

    `other` may be `store` itself, of which no image is paired with itself, and without `rows` and `other_rows` each
    pair comes once.

    Args:
        store, other: features of both, of which `store` is indexed.
        output: which of their outputs.
        images, other_images: what the stores were made of, for the pixels.
        similarity, correlation, aligned: thresholds, of the cosine, and of the correlation of detail as the pictures
            are and after alignment; the last is at least `correlation`.
        neighbours: candidates of each image of `other` at most.
        rows, other_rows: those of `store` and of `other` that count; None: all.
    """
    searched, queried = (_readable(*each) for each in ((store, rows), (other, other_rows)))
    same = other.folder == store.folder
    candidates = _nearest(store, searched, other, queried, output, neighbours)
    if same and rows is None and other_rows is None:
        ends = np.stack([candidates["row"], candidates["other"]])
        candidates["row"], candidates["other"] = ends.min(0), ends.max(0)
        candidates = candidates[np.unique(candidates[["row", "other"]], return_index=True)[1]]
    candidates = np.sort(candidates[candidates["cosine"] >= similarity], order=("other", "row"))
    pairs: list[Pair] = []
    for start in range(0, len(candidates), COMPARED_AT_ONCE):
        block = candidates[start : start + COMPARED_AT_ONCE]
        pictures = images.pictures(block["row"], COMPARED_SIDE)
        other_pictures = other_images.pictures(block["other"], COMPARED_SIDE)
        pairs += _compared(block, pictures, other_pictures, (store.paths, other.paths), (correlation, aligned))
    return sorted(pairs, key=lambda pair: (pair.other, -pair.correlation, pair.row))


def _readable(store: FeatureStore, rows: np.ndarray | None) -> np.ndarray:
    return np.flatnonzero(store.ok) if rows is None else np.sort(rows[store.ok[rows]])


def _nearest(
    store: FeatureStore, searched: np.ndarray, other: FeatureStore, queried: np.ndarray, output: str, neighbours: int
) -> np.ndarray:
    """The nearest of the rows `searched` to each row `queried` of `other`: row, other and cosine of each pair."""
    places = np.searchsorted(searched, queried).clip(max=max(0, len(searched) - 1))
    own = np.full(len(queried), -1)
    if other.folder == store.folder and len(searched):
        own = np.where(searched[places] == queried, places, -1)
    k = max(0, min(neighbours, len(searched) - bool((own >= 0).any()))) if len(queried) else 0
    found = np.empty(len(queried) * k, [("row", np.int64), ("other", np.int64), ("cosine", np.float64)])
    if not k:
        return found

    def blocks(size: int) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(searched), size):
            yield start, store.array(output, searched[start : start + size])

    settings = choose_settings(len(searched), store.shape(output)[0], kind="flat", normalization="standardized")
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"threads": torch.get_num_threads(), "progress": False}
        build_index(blocks, len(searched), Path(folder), settings=settings, features={}, **options)
        ids, cosines = VectorIndex(Path(folder)).search(other.array(output, queried), k, exclude=own)
    found["row"], found["other"], found["cosine"] = searched[ids.ravel()], queried.repeat(k), cosines.ravel()
    return found


def _compared(
    candidates: np.ndarray,
    pictures: dict[int, np.ndarray],
    other_pictures: dict[int, np.ndarray],
    paths: tuple[Sequence[str | None], Sequence[str | None]],
    thresholds: tuple[float, float],
) -> Iterator[Pair]:
    """Pairs of candidates whose pictures could be read and agree: as they are, or after alignment."""
    correlation, aligned = thresholds[0], max(thresholds)
    details, other_details = ({n: detail(p) for n, p in each.items()} for each in (pictures, other_pictures))
    moved = []
    for row, other, cosine in candidates.tolist():
        if row not in details or other not in other_details:
            continue
        one, two = details[row], other_details[other]
        straight, mirrored = float((one * two).sum()), float((one * two[:, ::-1]).sum())
        pair = Pair(
            row=row,
            other=other,
            path=paths[0][row],
            other_path=paths[1][other],
            similarity=cosine,
            correlation=max(straight, mirrored),
            mirrored=mirrored > straight,
            moved=False,
            identical=bool((pictures[row] == other_pictures[other]).all()),
        )
        if pair.correlation >= correlation:
            yield pair
        else:
            moved.append(pair)
    if moved:
        stacked = np.stack([pictures[p.row] for p in moved]), np.stack([other_pictures[p.other] for p in moved])
        for pair, found, flipped in zip(
            moved, *(each.tolist() for each in aligned_correlations(*stacked)), strict=True
        ):
            if found >= aligned:
                yield replace(pair, correlation=found, mirrored=flipped, moved=True)


def detail(picture: np.ndarray) -> np.ndarray:
    """What is between Gaussians of 0.7 and 4 pixels in each channel of a picture (S, S, 3), of length 1 altogether.

    The product of two is their correlation. Coarser shapes are alike in many pictures, as of sky above a field; finer
    ones change with a compression. A plain picture has no detail: all zeros.
    """
    fine, coarse = (gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0)) for sigma in DETAIL)
    length = np.linalg.norm(fine - coarse)
    return (fine - coarse) / length if length > 1e-3 else np.zeros_like(fine)


def concerned(pairs: Sequence[Pair], *, within: bool) -> set[int]:
    """The images that have a near-duplicate: rows of the other set, or, `within` one set, of both ends."""
    return {row for pair in pairs for row in ((pair.row, pair.other) if within else (pair.other,))}


class Part(NamedTuple):
    """Images that a benchmark trains on, searches, or evaluates: what `extract` takes, and which rows of it count."""

    data: Any
    split: str | None = None
    max_images: int | None = None
    rows: np.ndarray | None = None
    name: str | None = None
    reading: Reading = DEFAULT_READING


def middle_output(encoder: Encoder) -> str:
    """The middle layer of a single showing: it finds more of CIFAR-10's images, if they are changed, than others do."""
    single = [n for n, about in encoder.outputs.items() if (about["context"], about["read"]) == ("single", "image")]
    return single[len(single) // 2]


def between(part: Part, other: Part, cache: str) -> list[str]:
    """The warning of a benchmark, if images of `other`, which are evaluated, have a near-duplicate in `part`.

    Found by one encoder whatever is measured, so that cards of different encoders agree. What cannot be looked for, for
    lack of memory or space, is a warning too: the benchmark's numbers are not lost by it. cache: keeps features.
    """
    encoder = load_encoder(DEFAULT_MODEL)
    output = middle_output(encoder)
    try:
        about: dict[str, Any] = {"folder": cache, "outputs": [output]}
        store, other_store = (
            extract(encoder, p.data, split=p.split, max_images=p.max_images, name=p.name, reading=p.reading, **about)
            for p in (part, other)
        )
        images = (open_data(p.data, p.split, encoder.image_size, p.reading) for p in (part, other))
        pairs = find(store, other_store, output, *images, rows=part.rows, other_rows=other.rows)
    except (MemoryError, OSError) as error:
        return [f"near-duplicates could not be looked for: {error}"]
    return warnings(pairs, len(_readable(other_store, other.rows)), f"{encoder.name}, {output}")


def warnings(pairs: Sequence[Pair], count: int, found_by: str) -> list[str]:
    """What a protocol card says of the pairs with `count` evaluated images: nothing if there are none."""
    if not pairs:
        return []
    affected = len(concerned(pairs, within=False))
    identical = len(concerned([pair for pair in pairs if pair.identical], within=False))
    return [
        f"{affected} of {count} evaluation images have a near-duplicate among those trained on or searched, "
        f"{identical} of them with equal pixels at {COMPARED_SIDE}×{COMPARED_SIDE} (found by {found_by}: "
        f"cosine of standardised features ≥ {SIMILARITY}, correlation of detail ≥ {CORRELATION}, after alignment "
        f"≥ {ALIGNED}); {RECALL}"
    ]
