"""Faster decoding on CUDA: the loop recorded as a graph, without a launch for each kernel; parts of blocks compiled.

Everything in the loop but the numbers in its tensors is known before it starts: the tokens of each step, the guidance
scales, the lengths. So a recording holds all the steps, of static shapes, and is replayed for other classes, orders,
known tokens and seeds.
"""

from collections.abc import Hashable
from dataclasses import fields, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from randar_features.generation.decode import Decoded, DecodingTask, decode
from randar_features.generation.stepping import stepper_of
from randar_features.layers.attention import SelfAttention
from randar_features.layers.block import PreNormBlock
from randar_features.layers.kv_cache import CacheShape, KVCache
from randar_features.layers.packed_linear import product_dtype
from randar_features.models import ImageTransformer

MOST = 8  # recordings of a cache: each keeps the memory of its steps


class Recording:
    """A task of one kind, drawn by a graph; the same tokens as `decode`.

    Args:
        transformer: the model, whose weights may change in place after that, and not move.
        task: of that kind.
        cache: for it alone while a replay runs.
    """

    def __init__(self, transformer: ImageTransformer, task: DecodingTask, cache: KVCache) -> None:
        held = (*transformer.parameters(), *transformer.buffers())
        self.held = transformer, [tensor.data for tensor in held]  # their addresses stay
        own: dict[str, Any] = {name: value.clone() for name, value in _tensors(task).items()}
        self.task = replace(task, **own)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what happens once, such as compilation, cannot be recorded
            decode(transformer, self.task, cache)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.decoded = decode(transformer, self.task, cache)

    def draw(self, task: DecodingTask) -> Decoded:
        """Tokens and orders of another task of the kind."""
        for name, value in _tensors(task).items():
            getattr(self.task, name).copy_(value)
        self.graph.replay()
        return Decoded(*(part.clone() for part in self.decoded))


class RecordingCache(KVCache):
    """A cache that keeps a recording for each kind of task and model it is used with, the last `MOST` of them."""

    def __init__(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shape, dtype, device)
        self.recordings: dict[Hashable, Recording] = {}

    def draw(self, transformer: ImageTransformer, task: DecodingTask) -> Decoded:
        """`decode` in this cache."""
        kind = _kind(transformer, task)
        with torch.cuda.device(self.keys.device):
            if kind not in self.recordings:
                if len(self.recordings) == MOST:
                    del self.recordings[next(iter(self.recordings))]
                self.recordings[kind] = Recording(transformer, task, self)
            return self.recordings[kind].draw(task)


def new_cache(
    transformer: ImageTransformer, sequences: int, num_tokens: int | None = None, *, record: bool = False
) -> KVCache:
    """A key-value cache for some sequences at once of images of N tokens; None: of the model's own size.

    `record`: on CUDA, record the steps in it once for each kind of call (batch, steps, guidance, sampling), and replay
    them. What is given as `transformer` must then be the same object in each call: packed once, and no `dtype` stated.
    """
    num_tokens = transformer.config.num_tokens if num_tokens is None else num_tokens
    shape = stepper_of(transformer).cache_shape(transformer, sequences, num_tokens)
    kind = RecordingCache if record and transformer.device.type == "cuda" else KVCache
    return kind(shape, product_dtype(transformer), transformer.device)


def draw(transformer: ImageTransformer, task: DecodingTask, cache: KVCache | None) -> Decoded:
    """`decode`, by a recording where the cache keeps them."""
    if isinstance(cache, RecordingCache):
        return cache.draw(transformer, task)
    return decode(transformer, task, cache)


def compile_steps(transformer: ImageTransformer, **options: Any) -> None:
    """Compile, in place, the parts of the blocks that know nothing of the cache: any number of tokens fits them.

    Projections with their rotation, and feed-forward layers, each compiled once for one token and once for several.
    What attends has another length at every step, and is one kernel already. `options` are `torch.compile`'s.
    """
    for block in transformer.blocks:
        assert isinstance(block, PreNormBlock)
        _, attention, _, feed_forward = block.parts()
        feed_forward.compile(dynamic=True, **options)
        if isinstance(attention, SelfAttention):
            project = torch.compile(type(attention).project, dynamic=True, **options)
            attention.project = MethodType(project, attention)  # type: ignore[method-assign]


def _kind(transformer: ImageTransformer, task: DecodingTask) -> Hashable:
    """All that a recording holds fixed."""
    tensors = _tensors(task)
    others = [value for field in fields(task) if not isinstance(value := getattr(task, field.name), Tensor)]
    device = transformer.device.type
    return (
        id(transformer),
        tuple(parameter.data_ptr() for parameter in transformer.parameters()),
        tuple((name, value.shape, value.dtype) for name, value in tensors.items()),
        tuple(tuple(value) if isinstance(value, list) else value for value in others),
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
    )


def _tensors(task: DecodingTask) -> dict[str, Tensor]:
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
