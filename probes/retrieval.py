"""Exact nearest neighbours by cosine similarity, in bounded memory and with a defined order of ties."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from probes.inputs import Array, Labels, feature_matrix, own_modes, row_ids, whole_number

_QUERY_ROWS = 1024
_GALLERY_ROWS = 16384
_DOUBLE_ROWS = 4096
_SPARE = 16
_ROUNDED = 2.0**12  # added and taken off, it rounds float64 to multiples of 2⁻⁴⁰
_SHORTEST = 1e-12  # shorter rows are made longer before their squares are summed
_CANDIDATE_VALUES = 2**24


class Neighbours(NamedTuple):
    """The k nearest gallery rows of each query, best first."""

    ids: np.ndarray
    """int64 (Q, k), rows of the gallery."""
    similarities: np.ndarray
    """float32 (Q, k), cosines."""


@own_modes()
def search(
    queries: Array,
    gallery: Array,
    k: int,
    exclude: Labels | None = None,
    *,
    device: torch.device | str | None = None,
) -> Neighbours:
    """The `k` rows of `gallery` (M, D) with the largest cosine to each row of `queries` (Q, D).

    Equal similarities rank by lowest id, and the ids depend neither on how many queries are given at once nor
    on the block size: whatever float32 products cannot tell apart is compared again pair by pair.
    `exclude` (Q,): a gallery row that must not be found, such as the query itself; -1 for none.
    A row of zeros has cosine 0 to everything.

    Features stay where they are, `device` (default: that of a torch gallery, else the CPU) holds one block of
    queries, one of the gallery and their product at a time, so a memory-mapped gallery may exceed memory.
    """
    gallery_rows = feature_matrix(gallery, "gallery")
    query_rows = feature_matrix(queries, "queries", gallery_rows.shape[1])
    own = row_ids(exclude, "exclude", len(query_rows), len(gallery_rows))
    available = len(gallery_rows) - int((own >= 0).any())
    if not 1 <= whole_number(k, "k") <= available:
        raise ValueError(f"k must lie within 1 … {available}, the gallery rows that can be found, got {k}")
    searched = ExactGallery(gallery_rows, torch.device(device or gallery_rows.device))
    return best_rows(query_rows, searched, torch.from_numpy(own), k)


def rank_all(queries: Array, gallery: Array, exclude: Labels | None = None) -> Neighbours:
    """The whole `gallery` (n, D), ranked for each row of `queries` (Q, D): what average precision needs.

    As `search` for every row there is, at the cost of one matrix product in float64: cosines, rounded to 1e-12, so that
    how their sums were rounded decides nothing, and to float32; descending, equal ones by lowest id.
    `exclude` (Q,): a row to leave out of each ranking, which are then n − 1 long, so it is for all queries or none.
    All (Q, n) is held in memory: ask for some queries at a time.
    """
    gallery_rows = feature_matrix(gallery, "gallery")
    query_rows = feature_matrix(queries, "queries", gallery_rows.shape[1])
    own = row_ids(exclude, "exclude", len(query_rows), len(gallery_rows))
    if (own >= 0).any() and (own < 0).any():
        raise ValueError("exclude must name a row for every query or for none: rankings are of one length")
    shortest = torch.finfo(torch.float64).tiny  # rows of any length are comparable, as in `search`
    unit = F.normalize(query_rows.double(), dim=1, eps=shortest)
    blocks = (F.normalize(block.double(), dim=1, eps=shortest) for block in gallery_rows.split(_DOUBLE_ROWS))
    cosines = torch.cat([(unit @ block.T).add_(_ROUNDED).sub_(_ROUNDED).float() for block in blocks], dim=1)
    if (own >= 0).any():
        cosines[torch.arange(len(own), device="cpu"), torch.from_numpy(own)] = -torch.inf
    similarities, ids = cosines.sort(dim=1, descending=True, stable=True)
    length = len(gallery_rows) - int((own >= 0).any())
    return Neighbours(ids[:, :length].cpu().numpy(), similarities[:, :length].cpu().numpy())


class Gallery(Protocol):
    """Rows that can be searched: what `best_rows` needs of an array or of an index."""

    count: int
    """M, how many rows."""
    device: torch.device
    """Where cosines are computed."""
    estimates: bool
    """Whether `nearest` gives estimates, so that each candidate must be compared again."""
    least_candidates: int
    """Candidates of a query to compare at least."""

    def nearest(self, queries: Tensor, own: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Cosines, descending, and rows (q, width) of unit `queries` (q, D); `own` (q,) must not be found.

        Where fewer are found, the last cosines are −inf.
        """

    def unit(self, ids: Tensor) -> Tensor:
        """These rows (n, D), float32, of length 1."""


@own_modes()
def best_rows(queries: Tensor, gallery: Gallery, own: Tensor, k: int) -> Neighbours:
    """The first `k` rows of `gallery` for each of `queries` (Q, D): by cosine, equal ones by lowest id.

    own: (Q,) the row that must not be found, -1 for none.
    """
    ids, similarities = _Finder(queries, gallery, own).find(k)
    return Neighbours(ids.numpy(), similarities.numpy())


class ExactGallery:
    """All rows of a matrix, compared block by block; `normal`: they are `normalized` already, for many searches."""

    estimates, least_candidates = False, 0

    def __init__(self, rows: Tensor, device: torch.device, normal: bool = False) -> None:
        self.rows, self.device, self.normal, self.count = rows, device, normal, len(rows)

    def nearest(self, queries: Tensor, own: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Cosines, descending, and rows (q, width) of unit `queries` (q, D); `own` (q,) is left out."""
        values = torch.empty(len(queries), 0, dtype=torch.float32, device=self.device)
        ids = torch.empty(len(queries), 0, dtype=torch.int64, device=self.device)
        for start in range(0, len(self.rows), _GALLERY_ROWS):
            block = self._normalized(self.rows[start : start + _GALLERY_ROWS])
            products = queries @ block.T
            inside = torch.nonzero((own >= start) & (own < start + len(block))).squeeze(1)
            products[inside, own[inside] - start] = -torch.inf
            best, columns = products.topk(min(width, len(block)), dim=1)
            values, ids = torch.cat([values, best], 1), torch.cat([ids, columns + start], 1)
            values, columns = values.topk(min(width, values.shape[1]), dim=1)
            ids = ids.gather(1, columns)
        return values, ids

    def unit(self, ids: Tensor) -> Tensor:
        """These rows (n, D), float32, of length 1."""
        return self._normalized(self.rows[ids.to(self.rows.device)])

    def _normalized(self, rows: Tensor) -> Tensor:
        return rows.to(self.device) if self.normal else normalized(rows.to(self.device))


@dataclass(frozen=True)
class _Finder:
    queries: Tensor
    gallery: Gallery
    own: Tensor

    def find(self, k: int) -> tuple[Tensor, Tensor]:
        ids = torch.empty(len(self.queries), k, dtype=torch.int64, device="cpu")
        similarities = torch.empty(len(self.queries), k, dtype=torch.float32, device="cpu")
        pending, width = torch.arange(len(self.queries), device="cpu"), k
        while len(pending):
            width = 4 * width if width > k else max(k + _SPARE, self.gallery.least_candidates)
            width = min(width, self.gallery.count)
            block_rows = max(1, min(_QUERY_ROWS, _CANDIDATE_VALUES // width))
            settled = []
            for rows in pending.split(block_rows):
                queries, own = self._unit(rows), self.own[rows].to(self.gallery.device)
                values, found = self.gallery.nearest(queries, own, width)
                ranked = self._ranked(rows, values, found)
                ids[rows], similarities[rows] = (part[:, :k].cpu() for part in ranked)
                settled.append(self._beyond_doubt(values, k).cpu())
            pending = pending[~torch.cat(settled)]
        return ids, similarities

    @property
    def _tolerance(self) -> float:
        """Bound on the rounding of the difference of two float32 products of unit vectors.

        λ √D ε with λ = 4, the probabilistic bound of Higham and Mary (2019); measured errors are far smaller.
        """
        return 4 * math.sqrt(self.queries.shape[1]) * torch.finfo(torch.float32).eps

    def _beyond_doubt(self, values: Tensor, k: int) -> Tensor:
        """Whether no other row can tie with the first k of the candidates, bool (q,)."""
        if values.shape[1] == self.gallery.count:
            return torch.ones(len(values), dtype=torch.bool, device="cpu")
        return values[:, k - 1] - values[:, -1] > self._tolerance

    def _ranked(self, rows: Tensor, values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates by similarity, then id; those closer than rounding are first compared exactly."""
        values = values.double()
        for pair in torch.nonzero(self._doubtful(values)).split(max(1, _CANDIDATE_VALUES // self.queries.shape[1])):
            place = pair[:, 0], pair[:, 1]
            queries = self._unit(rows.to(self.gallery.device)[place[0]])
            values[place] = (queries * self.gallery.unit(ids[place])).sum(1, dtype=torch.float64)
        ids, columns = ids.sort(dim=1)
        # Lengths of unit vectors are rounded, so that a product may come out a little above 1.
        values = values.float().gather(1, columns)
        values = torch.where(values > -torch.inf, values.clamp(-1, 1), values)
        values, order = values.sort(dim=1, descending=True, stable=True)
        return ids.gather(1, order), values

    def _doubtful(self, values: Tensor) -> Tensor:
        """Which candidates (q, width) must be compared exactly."""
        if self.gallery.estimates:
            return values > -torch.inf
        close = values[:, :-1] - values[:, 1:] <= self._tolerance
        return F.pad(close, (1, 0)) | F.pad(close, (0, 1))

    def _unit(self, rows: Tensor) -> Tensor:
        return normalized(self.queries[rows.to(self.queries.device)].to(self.gallery.device))


def normalized(rows: Tensor) -> Tensor:
    """Rows (n, D) as float32 of length 1, however small or large; zeros stay zeros."""
    unit = rows.float()
    lengths = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    unit = unit / lengths.clamp_min(_SHORTEST)
    odd = ~((lengths > _SHORTEST) & (lengths < torch.inf)).squeeze(1)
    if odd.any():
        wide = rows[odd].double()
        wide = wide / wide.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        unit[odd] = F.normalize(wide, dim=1).float()
    return unit
