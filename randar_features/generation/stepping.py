"""How each model takes a step of decoding: what it is fed, where that goes in the cache, where it predicts.

The cache always ends up as the training sequence (`sequence.py`). A step feeds the tokens that were chosen in the
step before, and where the model has them instructions or queries for the next ones. With RandAR a step that predicts
m tokens feeds m instructions, one after the other. The next step's input is [x1, P2, x2, …, Pm, xm, next
instructions …], placed right after P1 of the step before, so that P2 … Pm move to their places. All lengths are host
integers.
"""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from randar_features import sequence
from randar_features.layers.attention import Mask, Memory, continued_mask
from randar_features.layers.block import run
from randar_features.layers.kv_cache import CacheShape, KVCache
from randar_features.layers.packed_linear import product_dtype
from randar_features.models import ARPG, PAR, ImageTransformer, LlamaGen, RandAR
from randar_features.sequence import GROUP


class Stepper:
    """Steps of LlamaGen: [class] [x1] [x2] …, each token predicted at the position before its own.

    Args:
        transformer: the model.
        classes: (S,) class indices of the sequences.
        rotary: (1 + N, d/2, 2) angles of the class token and of the grid.
        cache: of at least S sequences of the grid's length; None: a new one.

    Raises:
        ValueError: a cache that is too small, or of another model.
    """

    def __init__(self, transformer: Any, classes: Tensor, rotary: Tensor, cache: KVCache | None = None) -> None:
        self.transformer, self.rotary = transformer, rotary
        shape = self.cache_shape(transformer, len(classes), len(rotary) - 1)
        self.dtype = product_dtype(transformer)
        self.cache = KVCache(shape, self.dtype, transformer.device) if cache is None else cache
        self.cache.require(shape, self.dtype, transformer.device)
        self.first = transformer.cls_embedding(classes, len(classes))[:, None]
        self.start = 0
        """Where the next tokens go in the cache."""
        self.skip = 0
        """How many of the tokens that `arrange` gives are in the cache already."""

    @staticmethod
    def cache_shape(transformer: ImageTransformer, sequences: int, num_tokens: int) -> CacheShape:
        """The cache that sequences of a grid of N tokens take."""
        config = transformer.config
        length = 1 + (transformer.sequence_length() - 1) * num_tokens // config.num_tokens
        return CacheShape(config.num_layers, sequences, config.kv_heads, length, config.head_dim)

    def arrange(self, image: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """[class], the tokens that are new, and the instructions for the next: embeddings (S, L, D), locations (S, L).

        Arguments as for `step`. Location −1 is nowhere, as the class token is.
        """
        return torch.cat([self.first, image], dim=1), torch.cat([nowhere(order, 1), order[:, : image.shape[1]]], dim=1)

    def mask(self, count: int, separate: int) -> Mask:
        """What `count` tokens that follow those in the cache see; the last `separate` do not see each other."""
        if not self.start and not separate:
            return "causal"
        return continued_mask(count, self.start, separate=separate, dtype=self.dtype, device=self.transformer.device)

    def step(self, image: Tensor, order: Tensor, separate: bool = False) -> Tensor:
        """Logits (S, m, V) float32 of the next m tokens.

        Args:
            image: (S, n, D) embeddings of the tokens that were chosen since the last step; at first of the known ones.
            order: (S, n + m) the locations of these, and of the next.
            separate: each of the m is predicted as if it alone were the next.
        """
        x, locations = self.arrange(image, order)
        x, rotary = x[:, self.skip :], self.rotary[locations[:, self.skip :] + 1]
        fed, wanted = x.shape[1], order.shape[1] - image.shape[1]
        mask = self.mask(fed, wanted if separate else 0)
        windows = self.cache.windows(len(x), self.start)
        x = run(
            self.transformer.blocks,
            x,
            rotary,
            mask,
            positions=torch.arange(fed - wanted, fed, device=x.device),
            windows=windows,
        )
        self.settle(fed, wanted, separate)
        return self.transformer.logits(x)

    def settle(self, fed: int, wanted: int, separate: bool) -> None:
        """Note what is at its place in the cache after a step that fed `fed` tokens and predicted `wanted`."""
        self.start += fed
        self.skip = 1


class RandARStepper(Stepper):
    """Steps of RandAR, see the top of the file."""

    def __init__(self, transformer: RandAR, classes: Tensor, rotary: Tensor, cache: KVCache | None = None) -> None:
        super().__init__(transformer, classes, rotary, cache)
        self.instructions = transformer.instructions(rotary[1:])

    @override
    def arrange(self, image: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        instructions = self.instructions[order].expand(len(image), -1, -1)
        x = sequence.with_instructions(self.first, image, instructions)
        return x, sequence.with_instructions(nowhere(order, 1), order[:, : image.shape[1]], order)

    @override
    def settle(self, fed: int, wanted: int, separate: bool) -> None:
        # In order the first instruction is at its place already; which of several comes first is open otherwise.
        in_order = 0 if separate else 1
        self.start += fed - wanted + in_order
        self.skip = 1 + in_order


class PARStepper(Stepper):
    """Steps of PAR: the special tokens follow the first four, and groups see each other."""

    done = 0

    @override
    def arrange(self, image: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        count, specials = image.shape[1], self.transformer.special_tokens.expand(len(image), -1, -1)
        x = sequence.with_specials(self.first, image, specials, self.done)
        lost = nowhere(order, GROUP - 1)
        locations = sequence.with_specials(lost[:, :1], order[:, :count], lost, self.done)
        self.done += count
        return x, locations

    @override
    def mask(self, count: int, separate: int) -> Mask:
        if count == 1 or (count == GROUP and self.start and self.start % GROUP == 0):
            return None  # all see everything before them, and each other
        return sequence.group_mask(self.start + count, self.transformer.device)[self.start :]


class ARPGStepper(Stepper):
    """Steps of ARPG: content as LlamaGen's, and queries, which leave nothing in the cache.

    Tokens of one step see each other, as published; those that are known from the start are seen as in training.
    """

    @staticmethod
    @override
    def cache_shape(transformer: ImageTransformer, sequences: int, num_tokens: int) -> CacheShape:
        shape = Stepper.cache_shape(transformer, sequences, num_tokens)
        return shape._replace(layers=shape.layers // 2 + 1)  # the last is of the keys and values for the queries

    @override
    def step(self, image: Tensor, order: Tensor, separate: bool = False) -> Tensor:
        model: ARPG = self.transformer
        x, locations = self.arrange(image, order)
        x, rotary = x[:, self.skip :], self.rotary[locations[:, self.skip :] + 1]
        *windows, last = self.cache.windows(len(x), self.start)
        content = run(model.layers.self_dec, x, rotary, None if self.start else "causal", windows=windows)
        memory = Memory(*last.extend(*model.layers.remember(content, rotary)))
        self.settle(x.shape[1], 0, separate)
        return model.logits(model.answer(*model.queries(order[:, image.shape[1] :], len(x)), None, memory))


STEPPERS: dict[type[ImageTransformer], type[Stepper]] = {
    RandAR: RandARStepper,
    LlamaGen: Stepper,
    PAR: PARStepper,
    ARPG: ARPGStepper,
}


def stepper_of(transformer: ImageTransformer) -> type[Stepper]:
    """The steps of a model's kind."""
    return next(stepper for kind, stepper in STEPPERS.items() if isinstance(transformer, kind))


def nowhere(order: Tensor, count: int) -> Tensor:
    """Locations (S, count) of tokens that are at none."""
    return order.new_full((len(order), count), -1)
