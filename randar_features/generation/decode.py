"""The decode loop: any order, any number of tokens a step, known tokens first, up to three guidance branches.

The cache always ends up as the training sequence [class, P1, x1, P2, x2, …] (`sequence.py`). A step asks m
instruction tokens, one behind the other. The next step's input is [x1, P2, x2, …, Pm, xm, next
instructions …], placed right behind P1 of the step before, so that P2 … Pm move to their places. All
lengths are host integers known before the loop starts, so no step waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from randar_features import sequence
from randar_features.generation.schedule import Scale
from randar_features.layers import KVCache
from randar_features.models import RandAR


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598), with RandAR's spatial branch if wanted.

    Branches, in the order they are stacked: the class and the known tokens ("full"), the null class and
    the same tokens ("spatial"), the null class and a part of them ("none").
    """

    scale: Scale
    spatial: Scale | None = None

    @property
    def branches(self) -> int:
        """How many sequences run for an image: 1 without guidance, 2, or 3 with the spatial branch."""
        if not self.scale.active:
            return 1
        return 3 if self.spatial is not None and self.spatial.active else 2

    def combine(self, logits: Tensor, progress: float) -> Tensor:
        """Logits (branches·B, M, V) → (B, M, V), at a step before which this share of all tokens is done."""
        if self.branches == 1:
            return logits
        scale = self.scale.at(progress)
        if self.branches == 2:
            full, null = logits.chunk(2)
            return null + scale * (full - null)
        assert self.spatial is not None
        full, spatial, none = logits.chunk(3)
        return none + scale * (full - spatial) + self.spatial.at(progress) * (spatial - none)


class Chooser(Protocol):
    """How a step's tokens are chosen: `sampling.Sampling`, or what a benchmark puts in its place."""

    def draw(self, logits: Tensor, seeds: Tensor, locations: Tensor) -> Tensor:
        """Logits (B, M, V) float32, seeds (B,), locations (B, M) → tokens (B, M)."""


@dataclass(frozen=True, kw_only=True)
class DecodingTask:
    """Everything the loop needs, decided before it starts."""

    classes: Tensor
    """(B,) class indices."""
    order: Tensor
    """(B, N) locations, the known ones first."""
    known: Tensor
    """(B, K) tokens at the first K locations of the order."""
    schedule: list[int]
    """Tokens a step; N − K together."""
    guidance: Guidance
    sampling: Chooser
    seeds: Tensor
    """(B,) seeds of the draws."""
    rotary: Tensor
    """(1 + N, d/2, 2) angles of the class token and of the grid."""
    dropped: Tensor | None = None
    """(B, K) known tokens that the branch "none" does not see."""
    by_confidence: bool = False
    """Whether each step takes the open locations the model is surest of, instead of the next of the order."""

    @property
    def rows(self) -> int:
        """Sequences that run at once."""
        return self.guidance.branches * len(self.classes)


class Decoded(NamedTuple):
    """What the loop gives."""

    tokens: Tensor
    """(B, N) int64 in raster order, known tokens included."""
    order: Tensor
    """(B, N) the locations as they were decoded, known ones first."""


class SequenceRows:
    """Embeddings and angles of any stretch of a task's sequences."""

    def __init__(self, transformer: RandAR, task: DecodingTask) -> None:
        self.transformer, self.task = transformer, task
        self.instructions = transformer.instructions(task.rotary[1:])  # (N, D)

    def behind(self, start: int, order: Tensor, tokens: Tensor, asked: int) -> tuple[Tensor, Tensor]:
        """What stands behind the first `start` tokens, up to the `asked` instructions next in the order.

        `tokens` (B, n) are all chosen so far. Gives (branches·B, L, D) embeddings and (…, L, d/2, 2) angles.
        """
        done = tokens.shape[1]
        first, skip = divmod(start - 1, 2) if start else (0, 0)
        pairs = sequence.interleave(order[:, first:done], order[:, first:done])[:, skip:]
        locations = torch.cat([pairs, order[:, done : done + asked]], dim=1)
        x = self.embed(order, tokens, first, asked)[:, skip:]
        index = locations + 1
        if start == 0:
            x = torch.cat([self.class_rows(), x], dim=1)
            index = torch.nn.functional.pad(index, (1, 0))
        return x, self.task.rotary[index].repeat(self.task.guidance.branches, 1, 1, 1)

    def embed(self, order: Tensor, tokens: Tensor, first: int, asked: int) -> Tensor:
        """[P, x of the tokens from `first` on] [P of the next `asked`]: (branches·B, L, D)."""
        done = tokens.shape[1]
        image = self.transformer.tok_embeddings(tokens[:, first:])
        instructions = self.instructions[order[:, first : done + asked]]
        asking = instructions[:, done - first :]

        def rows(image: Tensor) -> Tensor:
            return torch.cat([sequence.interleave(instructions[:, : done - first], image), asking], dim=1)

        branches = self.task.guidance.branches
        if branches == 3 and self.task.dropped is not None and done == self.task.dropped.shape[1]:
            partly = image.masked_fill(self.task.dropped[..., None], 0)
            return torch.cat([rows(image), rows(image), rows(partly)])
        return rows(image).repeat(branches, 1, 1)

    def class_rows(self) -> Tensor:
        """(branches·B, 1, D): the classes, then the null class for every other branch."""
        embedding, classes = self.transformer.cls_embedding, self.task.classes
        null = torch.full_like(classes, embedding.null_class)
        stacked = torch.cat([classes] + [null] * (self.task.guidance.branches - 1))
        return embedding(stacked, len(stacked))[:, None]


def decode(transformer: RandAR, task: DecodingTask, cache: KVCache | None = None) -> Decoded:
    """Run the task.

    `cache`, if given, must hold at least `task.rows` sequences of 1 + 2N tokens; ValueError otherwise.
    """
    num_tokens = task.order.shape[1]
    length = sequence.sequence_length(num_tokens)
    cache = transformer.new_cache(task.rows, length) if cache is None else cache
    cache.require(rows=task.rows, length=length)
    rows = SequenceRows(transformer, task)
    order, tokens, start = task.order, task.known, 0
    for count in task.schedule:
        done = tokens.shape[1]
        asked = num_tokens - done if task.by_confidence else count
        x, rotary = rows.behind(start, order, tokens, asked)
        mask = separate_queries_mask(x, start, asked) if task.by_confidence else None
        logits = transformer.continue_from(cache, start, x, rotary, read=asked, mask=mask)
        logits = task.guidance.combine(logits, done / num_tokens)
        if task.by_confidence:
            order, logits = surest_first(order, logits, done, count)
        drawn = task.sampling.draw(logits, task.seeds, order[:, done : done + count])
        tokens = torch.cat([tokens, drawn], dim=1)
        # In a fixed order P1 of this step is already where it belongs.
        start = 1 + 2 * done + (0 if task.by_confidence else 1)
    return Decoded(sequence.to_raster(tokens, order), order)


def separate_queries_mask(x: Tensor, start: int, asked: int) -> Tensor:
    """Additive mask (L, start + L) under which the last `asked` rows do not see each other.

    Each is then read as if it were the only instruction behind the tokens chosen so far.
    """
    count = x.shape[1]
    mask = torch.full((count, start + count), float("-inf"), dtype=x.dtype, device=x.device).triu_(start + 1)
    mask[-asked:, -asked:] = float("-inf")
    mask[-asked:, -asked:].fill_diagonal_(0)
    return mask


def surest_first(order: Tensor, logits: Tensor, done: int, count: int) -> tuple[Tensor, Tensor]:
    """The open locations sorted by the probability of their likeliest code, and the first `count`'s logits.

    `order` (B, N) with `done` locations closed; `logits` (B, N − done, V) of the others.
    """
    confidence = logits.log_softmax(dim=-1).amax(dim=-1)
    ranks = confidence.argsort(dim=1, descending=True, stable=True)
    order = torch.cat([order[:, :done], order[:, done:].gather(1, ranks)], dim=1)
    chosen = ranks[:, :count, None].expand(-1, -1, logits.shape[-1])
    return order, logits.gather(1, chosen)
