"""The decode loop: any order, any number of tokens a step, known tokens first, up to three guidance branches.

What a model is fed in a step is in `stepping`. All lengths are host integers known before the loop starts, so no step
waits for the device.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from randar_features import sequence
from randar_features.generation.schedule import Scale
from randar_features.generation.stepping import stepper_of
from randar_features.layers.kv_cache import KVCache
from randar_features.models import ImageTransformer


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598), with RandAR's spatial branch if wanted.

    Branches, in the order they are stacked: the class and the known tokens ("full"), the null class and
    the same tokens ("spatial"), the null class and a part of them ("none").
    """

    scale: Scale
    spatial: Scale | None = None
    counts_own_step: bool = False

    def progress(self, done: int, count: int, num_tokens: int) -> float:
        """Share of all tokens that counts as done in a step of `count` tokens, with `done` before it."""
        return (done + count * self.counts_own_step) / num_tokens

    @property
    def branches(self) -> int:
        """How many sequences run for an image: 1 where the scale is 1 throughout, 2, or 3 with the spatial branch."""
        if not self.scale.active:
            return 1
        return 3 if self.spatial is not None and self.spatial.active else 2

    def combine(self, logits: Tensor, progress: float) -> Tensor:
        """Logits (branches·B, M, V) → (B, M, V), at a step where this share of all tokens counts as done."""
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

    def embed_known(self, transformer: ImageTransformer) -> Tensor:
        """Embeddings (branches·B, K, D) of the known tokens as each branch sees them."""
        image = transformer.code_embedding(self.known)
        images = [image] * self.guidance.branches
        if self.dropped is not None and self.guidance.branches == 3:
            images[-1] = image.masked_fill(self.dropped[..., None], 0)
        return torch.cat(images)


class Decoded(NamedTuple):
    """What the loop gives."""

    tokens: Tensor
    """(B, N) int64 in raster order, known tokens included."""
    order: Tensor
    """(B, N) the locations as they were decoded, known ones first."""


def decode(transformer: ImageTransformer, task: DecodingTask, cache: KVCache | None = None) -> Decoded:
    """Run the task; ValueError if a given `cache` is too small for it, or of another model."""
    branches, num_tokens = task.guidance.branches, task.order.shape[1]
    null = torch.full_like(task.classes, transformer.config.num_classes)
    classes = torch.cat([task.classes] + [null] * (branches - 1))
    stepper = stepper_of(transformer)(transformer, classes, task.rotary, cache)
    order, tokens, image = task.order, task.known, task.embed_known(transformer)
    for count in task.schedule:
        done = tokens.shape[1]
        wanted = num_tokens - done if task.by_confidence else count
        fed = order[:, done - image.shape[1] : done + wanted].repeat(branches, 1)
        logits = stepper.step(image, fed, separate=task.by_confidence)
        logits = task.guidance.combine(logits, task.guidance.progress(done, count, num_tokens))
        if task.by_confidence:
            order, logits = surest_first(order, logits, done, count)
        drawn = task.sampling.draw(logits, task.seeds, order[:, done : done + count])
        tokens = torch.cat([tokens, drawn], dim=1)
        image = transformer.code_embedding(drawn).repeat(branches, 1, 1)
    return Decoded(sequence.to_raster(tokens, order), order)


def surest_first(order: Tensor, logits: Tensor, done: int, count: int) -> tuple[Tensor, Tensor]:
    """The open locations sorted by the probability of their likeliest code, and the first `count`'s logits.

    `order` (B, N) with `done` locations closed; `logits` (B, N − done, V) of the others.
    """
    confidence = logits.log_softmax(dim=-1).amax(dim=-1)
    ranks = confidence.argsort(dim=1, descending=True, stable=True)
    order = torch.cat([order[:, :done], order[:, done:].gather(1, ranks)], dim=1)
    chosen = ranks[:, :count, None].expand(-1, -1, logits.shape[-1])
    return order, logits.gather(1, chosen)
