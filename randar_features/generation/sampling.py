"""Drawing tokens: one draw for all tokens of a step, from a stream of random numbers for each image.

Every image has a seed. Its order and its draws are functions of that seed, the location and the code
alone (a counter-based generator: SplitMix64, Steele et al., OOPSLA 2014), so that an image does not
depend on which images it is generated with, on the number of them, or on the device. Seeds come
from a `torch.Generator` one after the other: calls on parts of a batch that share the generator give
the same images as one call on the whole.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import IntEnum
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from randar_features.sequence import are_whole, as_tensor, check_seed, has_several

SeedLike = torch.Generator | int | Tensor | Sequence[int] | None

GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # as int64, like the next two
FIRST_MIX = 0xBF58476D1CE4E5B9 - (1 << 64)
SECOND_MIX = 0x94D049BB133111EB - (1 << 64)
COLD = 1e-6  # below this temperature quotients of logits can leave float32
COLDEST = 1e-30  # any difference of logits is then far above the noise
UNIFORM_BITS = 23  # the midpoints of 2²³ intervals are exact in float32


class Stream(IntEnum):
    """Uses of an image's seed, each with random numbers of its own."""

    ORDER = 1
    TOKENS = 2
    FINE_TOKENS = 4
    SPATIAL_DROP = 5
    WINDOW = 6  # and all above: one a window of an outpainting


def image_seeds(generator: SeedLike, batch: int, device: torch.device | str = "cpu") -> Tensor:
    """A seed for each image, (B,) int64.

    Args:
        generator: a `torch.Generator`, from which one number an image is drawn; a number, as a fresh
            generator of that seed; (B,) integers, the images' own seeds; None, as torch's default
            generator.
        batch: B.
        device: where the seeds are put.
    """
    if isinstance(generator, Integral | int):
        generator = torch.Generator().manual_seed(check_seed(generator))
    source = torch.default_generator if generator is None else generator
    if not isinstance(source, torch.Generator):
        return _own_seeds(source, batch).to(device)
    drawn = [int(torch.randint(2**63 - 1, (), generator=source, device=source.device)) for _ in range(batch)]
    return torch.tensor(drawn, dtype=torch.int64, device=device)


def _own_seeds(seeds: Tensor | Sequence[int], batch: int) -> Tensor:
    """(B,) int64: a seed an image."""
    if not isinstance(seeds, Tensor):
        unordered = isinstance(seeds, str | bytearray | Set | Mapping)
        several: list[Any] = list(seeds) if has_several(seeds) and not unordered else [seeds]
        seeds = [check_seed(seed, 2**63) if isinstance(seed, Integral) else seed for seed in several]
    try:
        given = as_tensor(seeds)
    except TypeError:
        raise ValueError(f"seeds must be {batch} integers, one an image; got {seeds!r}") from None
    if given.shape != (batch,) or not are_whole(given):
        raise ValueError(f"seeds must be {batch} integers, one an image; got {tuple(given.shape)}, {given.dtype}")
    return given.to(torch.int64)


def substream(seeds: Tensor, stream: int) -> Tensor:
    """Seeds for one use of the images' seeds: (B,) → (B,)."""
    return random_keys(seeds, torch.full((1, 1), stream, device=seeds.device))[:, 0]


def random_keys(seeds: Tensor, counters: Tensor) -> Tensor:
    """Random 64-bit integers, one for each seed (B,) and counter (B or 1, M): (B, M)."""
    return _mix(seeds[:, None] + (counters + 1) * GOLDEN_GAMMA)


def random_order(seeds: Tensor, num_tokens: int) -> Tensor:
    """A uniformly random order for each seed: (B,) → (B, N)."""
    return random_keys(seeds, torch.arange(num_tokens, device=seeds.device)[None]).argsort(dim=1, stable=True)


def gumbel_noise(seeds: Tensor, locations: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel numbers for each image, location and code: (B,), (B or 1, M) → (B, M, V) float32."""
    keys = random_keys(seeds, locations)
    codes = torch.arange(1, vocab_size + 1, device=seeds.device) * GOLDEN_GAMMA
    bits = _shift(_mix(keys[..., None] + codes), 64 - UNIFORM_BITS)
    uniform = (bits.float() + 0.5) * 2.0**-UNIFORM_BITS
    return uniform.log_().neg_().log_().neg_()


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap around."""
    x = (x ^ _shift(x, 30)) * FIRST_MIX
    x = (x ^ _shift(x, 27)) * SECOND_MIX
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen from its logits.

    `temperature` > 0 divides the logits; near 0 the choice is greedy. `top_k` > 0 keeps the k most likely codes (1 is
    the greedy choice, of the lowest index among equals); `top_p` < 1 keeps the smallest set of codes whose
    probability reaches p (Holtzman et al., arXiv 1904.09751). In this order, as published.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (is_number(self.temperature) and 0 < self.temperature < math.inf):
            raise ValueError(
                f"temperature must be above 0, and finite; got {self.temperature!r}; for the greedy choice take top_k=1"
            )
        if not isinstance(self.top_k, Integral) or isinstance(self.top_k, bool) or self.top_k < 0:
            raise ValueError(f"top_k must be at least 1, or 0 for all codes, and an integer; got {self.top_k!r}")
        if not (is_number(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p!r}")

    def draw(self, logits: Tensor, seeds: Tensor, locations: Tensor) -> Tensor:
        """Logits (B, M, V) float32, seeds (B,), locations (B or 1, M) → tokens (B, M)."""
        if self.top_k == 1:
            return logits.argmax(dim=-1)
        kept = keep_top_p(keep_top_k(cooled(logits, self.temperature), self.top_k), self.top_p)
        return kept.add(gumbel_noise(seeds, locations, logits.shape[-1])).argmax(dim=-1)


def is_number(value: object) -> bool:
    """Whether it is a real number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def cooled(logits: Tensor, temperature: float) -> Tensor:
    """Logits (…, V) divided by the temperature.

    Near 0 the quotients would overflow: there the largest logit is taken off first, which changes no probability.
    """
    if temperature >= COLD:
        return logits / float(temperature)
    return (logits - logits.amax(dim=-1, keepdim=True)) / max(temperature, COLDEST)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Logits (…, V) with all below the k-th largest at −∞; 0 keeps all."""
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(top_k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, float("-inf"))


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Logits (…, V) without the codes that follow after more than p, counted from the likeliest down: these are −∞."""
    if top_p == 1:
        return logits
    descending, codes = logits.sort(dim=-1, descending=True, stable=True)
    probability = descending.softmax(dim=-1)
    before = F.pad(probability.cumsum(dim=-1)[..., :-1], (1, 0))
    removed = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, codes, before > top_p)
    return logits.masked_fill(removed, float("-inf"))
