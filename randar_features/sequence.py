"""Token orders, their inverse, and the sequences made of them. No other file defines either.

An image of N tokens on a G×G grid is shown in an order π, a permutation of the N raster locations:

    RandAR     [class] [P_π(1)] [x_π(1)] [P_π(2)] [x_π(2)] … [P_π(N)] [x_π(N)]          length 1 + 2N
    LlamaGen   [class] [x_1] [x_2] … [x_N], in raster order; so ARPG's content half, in any order
    PAR        [class] [t_1] … [t_4] [s_1] [s_2] [s_3] [t_5] … [t_N], in an order of groups of four

where P is the position-instruction token of a location (RandAR, arXiv 2412.01827, section 3), x or t its
image token, and s a special token (PAR, arXiv 2412.15119). As a bidirectional encoder a model is shown the
image twice, see `second_copy`. Training, encoding and decoding all take the layout from here.
"""

import math
import operator
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
import torch
from torch import Tensor

Context = Literal["single", "repeat", "reverse"]
Read = Literal["image", "instruction"]
CONTEXTS: tuple[str, ...] = get_args(Context)
READS: tuple[str, ...] = get_args(Read)
SPREAD_REPULSION = 20.0
GROUP = 4  # PAR's tokens a step: one of each quadrant


def grid_side(num_tokens: int) -> int:
    """Side G of the square grid of `num_tokens` = G² tokens; ValueError if it is not a square."""
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(f"{num_tokens} tokens do not form a square grid (nearest: {side}² = {side * side})")
    return side


def raster_order(num_tokens: int, device: torch.device | str = "cpu") -> Tensor:
    """Row by row, left to right: (1, N) int64."""
    return torch.arange(num_tokens, device=device)[None]


def group_order(num_tokens: int, device: torch.device | str = "cpu") -> Tensor:
    """PAR's order: the tokens at the same place of the four quadrants, place after place; (1, N) int64."""
    half, odd = divmod(grid_side(num_tokens), 2)
    if odd:
        raise ValueError(f"{num_tokens} tokens cannot be cut into four quadrants: the grid's side must be even")
    places = torch.arange(num_tokens, device=device).view(2, half, 2, half)
    return places.permute(1, 3, 0, 2).reshape(1, num_tokens)


def random_orders(batch: int, num_tokens: int, generator: torch.Generator) -> Tensor:
    """One uniformly drawn order for each image, (B, N) int64, on the generator's device."""
    noise = torch.rand(batch, num_tokens, generator=generator, device=generator.device, dtype=torch.float32)
    return noise.argsort(dim=1)


def antithetic_orders(count: int, num_tokens: int, seed: int = 0) -> Tensor:
    """`count` seeded random orders in antithetic pairs, an order and its reverse: (count, N) int64.

    A token that stands early in one order of a pair stands late in the other, so that a mean over
    pairs has less variance than one over independent orders. An odd `count` ends with half a pair.
    The first k of n orders are the same for every n ≥ k.
    """
    if count < 1:
        raise ValueError(f"the number of orders must be at least 1, got {count}")
    generator = torch.Generator().manual_seed(check_seed(seed))
    pairs = [random_orders(1, num_tokens, generator) for _ in range((count + 1) // 2)]
    return torch.cat([order for pair in pairs for order in (pair, pair.flip(1))])[:count]


def spiral_order(num_tokens: int) -> Tensor:
    """From the centre outwards, turn by turn, ending at the upper left corner: (1, N) int64."""
    rest, turns = torch.arange(num_tokens, device="cpu").view(grid_side(num_tokens), -1), []
    while rest.numel():
        turns.append(rest[0])
        rest = rest[1:].rot90()
    return torch.cat(turns).flip(0)[None]


def centre_out_order(num_tokens: int) -> Tensor:
    """By distance from the grid's centre, equals in raster order: (1, N) int64."""
    offsets = 2 * torch.arange(grid_side(num_tokens), device="cpu") - grid_side(num_tokens) + 1
    distance = (offsets[:, None] ** 2 + offsets[None] ** 2).flatten()
    return distance.argsort(stable=True)[None]


def hierarchical_order(num_tokens: int) -> Tensor:
    """Coarse to fine through square and quincunx lattices in turn, as Bayer's dither matrix: (1, N) int64.

    Each lattice is the one before and the centres of its cells (Bayer, ICC 1973). On a side of 2^k the
    first N/4 locations are those of even row and column.
    """
    side = grid_side(num_tokens)
    rows, columns = torch.arange(side, device="cpu")[:, None], torch.arange(side, device="cpu")[None]
    rank = torch.zeros(side, side, dtype=torch.int64, device="cpu")
    for bit in range(max(side - 1, 1).bit_length()):
        rank = 4 * rank + 2 * (((rows ^ columns) >> bit) & 1) + ((rows >> bit) & 1)
    return rank.flatten().argsort()[None]


def spread_order(num_tokens: int, steps: Sequence[int], known: Tensor | None = None) -> Tensor:
    """Each step's locations near what is known and far from each other: (1, N) int64.

    Tokens of one step are predicted without seeing each other, so they should depend little on each other
    and much on what is known (locality-aware decoding, Zhang et al., arXiv 2507.01957). Greedy: the next location
    is the open one with the largest Σ k(known) − 20·Σ k(chosen in this step), with k(d) = exp(−d²/2) of the
    distance d in the grid. The first is the centre.

    Args:
        num_tokens: N.
        steps: number of tokens of each step; their sum is the number of unknown tokens.
        known: (N,) boolean, the locations that are known; they stand first, in raster order.
    """
    side = grid_side(num_tokens)
    points = torch.cartesian_prod(torch.arange(side, device="cpu"), torch.arange(side, device="cpu")).double()
    nearness = torch.exp(-torch.cdist(points, points).square() / 2)
    closed = torch.zeros(num_tokens, dtype=torch.bool, device="cpu") if known is None else known.cpu().clone()
    order = closed.nonzero().flatten().tolist()
    # The slight pull to the centre decides where nothing is known, and between equals.
    score = nearness[closed].sum(0) - 1e-6 * (points - (side - 1) / 2).square().sum(1)
    for count in steps:
        chosen: list[int] = []
        for _ in range(count):
            repelled = score - SPREAD_REPULSION * nearness[chosen].sum(0) if chosen else score
            chosen.append(int(repelled.masked_fill(closed, -torch.inf).argmax()))
            closed[chosen[-1]] = True
        score = score + nearness[chosen].sum(0)
        order += chosen
    return torch.tensor(order, device="cpu")[None]


def known_first(order: Tensor, known: Tensor) -> Tensor:
    """Move the known locations, boolean (B, N) raster, to the front; both parts of (B, N) keep their order."""
    unknown = ~to_order(known, order)
    return order.gather(1, unknown.byte().argsort(dim=1, stable=True))


def as_tensor(values: object) -> Tensor:
    """A tensor, or numbers as one on the CPU, whatever torch's default device; TypeError for anything else."""
    try:
        if isinstance(values, bytes | bytearray):  # torch takes their bytes for numbers
            raise TypeError
        if isinstance(values, Tensor):
            return values
        # Torch would look up the first number of a pandas Series in its index, which a filter leaves out of order.
        return torch.as_tensor(np.array(values) if hasattr(values, "iloc") else values, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"numbers are expected, got {reprlib.repr(values)}") from None


def has_several(given: Any) -> TypeGuard[Iterable[Any]]:
    """Whether it holds several things; tensors and arrays without a dimension can be iterated and are one."""
    return isinstance(given, Iterable) and not isinstance(given, bytes) and getattr(given, "ndim", 1) > 0


def are_whole(values: Tensor) -> bool:
    """Whether a tensor holds integers: no fractions, complex numbers or truth values."""
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def check_order(order: Tensor | Sequence[int], num_tokens: int, batch: int | None = None) -> Tensor:
    """`order` as (B or 1, N) int64, or ValueError if a row is no permutation of 0 … N−1; B is `batch` if given."""
    order = check_order_shape(order, num_tokens, batch)
    expected = torch.arange(num_tokens, device=order.device).expand_as(order)
    wrong = (order.sort(dim=1).values != expected).any(dim=1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        found = f"{order[row, :8].tolist()}{' …' if num_tokens > 8 else ''}"
        raise ValueError(f"row {row} of the order is no permutation of 0 … {num_tokens - 1}: {found}")
    return order


def check_order_shape(order: Tensor | Sequence[int], num_tokens: int, batch: int | None = None) -> Tensor:
    """`check_order` of shape and dtype alone; the values are not looked at."""
    expected = f"an order must hold {num_tokens} integers per image, shape (N,) or (B, N)"
    try:
        order = as_tensor(order)
    except TypeError:
        raise TypeError(f"{expected}; got {reprlib.repr(order)}") from None
    order = order[None] if order.dim() == 1 else order
    if order.dim() != 2 or order.shape[1] != num_tokens or not are_whole(order):
        raise ValueError(f"{expected}; got shape {tuple(order.shape)}, {order.dtype}")
    if batch is not None and len(order) not in (1, batch):
        raise ValueError(f"{len(order)} orders for {batch} images: give one for all or one for each")
    return order.long()


def invert(order: Tensor) -> Tensor:
    """The inverse permutations: at a raster location, its index in the order. (B, N) → (B, N)."""
    return order.argsort(dim=-1)


def to_order(values: Tensor, order: Tensor) -> Tensor:
    """Raster values (B, N, …) put into the order (B or 1, N)."""
    if order.shape[0] == 1:
        return values[:, order[0]]
    return values[torch.arange(values.shape[0], device=values.device)[:, None], order]


def to_raster(values: Tensor, order: Tensor) -> Tensor:
    """Values in the order (B, N, …) put back into raster; the inverse of `to_order`."""
    return to_order(values, invert(order))


def second_copy(values: Tensor, context: str) -> Tensor | None:
    """What is shown after the first copy: (B, N, …) in the order it is shown, or None for `single`.

    `repeat` shows the image again in the same order. `reverse` shows it in the reversed order, so that
    each token is as near to as far from its own first showing.
    """
    check_choice("context", context, CONTEXTS)
    if context == "single":
        return None
    return values if context == "repeat" else values.flip(1)


def shown(values: Tensor, context: str) -> Tensor:
    """All copies, one after the other: (B, N or 2N, …) from (B, N, …) in the first copy's order."""
    copy = second_copy(values, context)
    return values if copy is None else torch.cat([values, copy], dim=1)


def interleave(instructions: Tensor, tokens: Tensor) -> Tensor:
    """[P1, x1, P2, x2, …]: two (B, M, …) → (B, 2M, …)."""
    return torch.stack([instructions, tokens], dim=2).flatten(1, 2)


def with_instructions(first: Tensor, tokens: Tensor, instructions: Tensor) -> Tensor:
    """[class, P1, x1, …, Pn, xn, P of the next m]: (B, 1, …), (B, n, …), (B, n + m, …) → (B, 1 + 2n + m, …)."""
    done = tokens.shape[1]
    return torch.cat([first, interleave(instructions[:, :done], tokens), instructions[:, done:]], dim=1)


def with_specials(first: Tensor, tokens: Tensor, specials: Tensor, before: int = 0) -> Tensor:
    """[class, t1 … t4, specials, t5 … tn]: (B, 1, …), (B, n, …), (B, 3, …); no specials where n < 4.

    With `before` the tokens are those after that many others, and the specials stand where they stand among all.
    """
    missing = GROUP - before
    if missing <= 0 or tokens.shape[1] < missing:
        return torch.cat([first, tokens], dim=1)
    return torch.cat([first, tokens[:, :missing], specials, tokens[:, missing:]], dim=1)


def group_mask(length: int, device: torch.device | str = "cpu") -> Tensor:
    """Whether position p of PAR's sequence sees q: q ≤ p, or p ≥ 4 and both in one group of four. (L, L) boolean."""
    positions = torch.arange(length, device=device)
    groups = positions // GROUP
    same = (groups[:, None] == groups) & (positions >= GROUP)[:, None]
    return (positions <= positions[:, None]) | same


def leave_one_out_mask(num_tokens: int, device: torch.device | str = "cpu") -> Tensor:
    """What query i sees of an image shown in both directions, [class, x1 … xN] [x1 … xN]: (N, 1 + 2N) boolean.

    A token of the first part has seen the tokens before it, one of the second part those after it. Query i sees the
    class and the tokens before i in the first part, and those after i in the second: all tokens but x_i, and none
    that has seen x_i.
    """
    places = torch.arange(num_tokens, device=device)
    before = places < places[:, None]
    every = torch.ones(num_tokens, 1, dtype=torch.bool, device=device)
    return torch.cat([every, before, before.T], dim=1)


def sequence_length(num_tokens: int, context: str = "single", tokens_per_location: int = 2) -> int:
    """1 + 2N with one copy, 1 + 4N with two; without instructions, one token a location, 1 + N and 1 + 2N."""
    check_choice("context", context, CONTEXTS)
    return 1 + tokens_per_location * num_tokens * (1 if context == "single" else 2)


def read_positions(num_tokens: int, context: str = "single", read: str = "image") -> slice:
    """Positions of RandAR's sequence (class token at 0) at which the last copy's N tokens are read."""
    check_choice("read", read, READS)
    length = sequence_length(num_tokens, context)
    return slice(length - 2 * num_tokens + READS[::-1].index(read), length, 2)


def read_order(order: Tensor, context: str) -> Tensor:
    """The order of the last copy, (B, N), from that of the first."""
    copy = second_copy(order, context)
    return order if copy is None else copy


def as_index(name: str, value: Any) -> int:
    """An integer of any kind as an int; TypeError for anything else, fractions and booleans among them."""
    truth = isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool)
    try:
        if not truth and getattr(value, "ndim", 0) == 0:
            return operator.index(value)
    except TypeError:  # of an array or a tensor, whose message does not say what is wrong
        pass
    raise TypeError(f"{name}: an integer is expected, got {value!r}")


def as_flag(name: str, value: Any) -> bool:
    """A truth value of Python or NumPy as a bool; TypeError for anything else, 1 and 0 among them."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_seed(seed: Any, end: int = 2**64) -> int:
    """`seed` as an int; TypeError if it is none, ValueError outside −2⁶³ … end − 1, which a `torch.Generator` takes."""
    seed = as_index("seed", seed)
    if not -(2**63) <= seed < end:
        raise ValueError(f"seed must be an integer from -2**63 to 2**{end.bit_length() - 1} - 1, got {seed}")
    return seed


def can_look_at(values: Tensor) -> bool:
    """Whether values may be checked: not on an accelerator, which would have to finish first, nor in a traced graph."""
    return values.device.type == "cpu" and values.numel() > 0 and not torch.compiler.is_compiling()


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ValueError that lists the choices if `value` is none of them."""
    if not isinstance(value, str) or value not in choices:  # an array is not compared: it may hold several
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
