"""Decoding by a recording: on CUDA as it is, elsewhere with what stands in for the device and for its graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from randar_features import generate
from randar_features.generation import compile_steps, new_cache, recording
from randar_features.generation.decode import DecodingTask, Guidance, decode
from randar_features.generation.recording import Recording, RecordingCache
from randar_features.generation.sampling import Sampling
from randar_features.generation.schedule import Scale
from randar_features.generation.stepping import stepper_of
from randar_features.layers.packed_linear import pack_weights
from randar_features.models import ImageTransformer
from tests.golden.models import golden_model, golden_randar

NAMES = ("randar_small", "llamagen_small", "par_small", "arpg_small")


def task_of(model: ImageTransformer, seed: int, device: str = "cpu", **changes: Any) -> DecodingTask:
    """Four of sixteen tokens of three images, from the others."""
    generator = torch.Generator().manual_seed(seed)
    order = model.own_order().cpu().expand(3, -1)
    if not model.fixed_order:
        order = torch.rand(3, 16, generator=generator).argsort(dim=1)
    task = DecodingTask(
        classes=torch.randint(10, (3,), generator=generator).to(device),
        order=order.to(device),
        known=torch.randint(64, (3, 12), generator=generator).to(device),
        schedule={"llamagen": [1] * 4, "par": [4]}.get(type(model).__name__.lower(), [1, 3]),
        guidance=Guidance(scale=Scale(1.0, 3.0)),
        sampling=Sampling(top_k=9, top_p=0.9),
        seeds=torch.randint(1000, (3,), generator=generator).to(device),
        rotary=model.rotary,
    )
    return replace(task, **changes)


class OnDevice(TorchDispatchMode):
    """Every operation is on the device alone: nothing is copied from it or to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)]
        assert all(tensor.device.type == "cuda" for tensor in tensors), func
        return found


@pytest.mark.parametrize(("name", "by_confidence"), [*((name, False) for name in NAMES), ("randar_small", True)])
def test_no_step_needs_a_value_or_the_host(name: str, by_confidence: bool) -> None:
    """Tensors without values, on a device that is not there: what looks at one raises, `.item()` or a boolean index."""
    model = golden_model(name)
    with FakeTensorMode():
        for module in model.modules():
            for own, parameter in module.named_parameters(recurse=False):
                empty = torch.empty(parameter.shape, device="cuda")
                setattr(module, own, torch.nn.Parameter(empty, requires_grad=False))
        model.rotary = torch.empty(model.rotary.shape, device="cuda")
        packed = pack_weights(model, torch.bfloat16)
        task = task_of(packed, 0, "cuda", by_confidence=by_confidence)
        with OnDevice():
            assert decode(packed, task).tokens.shape == (3, 16)
        with pytest.raises(AssertionError), OnDevice():
            task.known.cpu()
        with pytest.raises(RuntimeError, match="scalar"):
            task.known[0, 0].item()


class Tape(TorchDispatchMode):
    """A graph without a device: the operations between tensors of fixed addresses, to be done again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        for func, args, kwargs, found in self.calls:
            for old, new in zip(tree_leaves(found), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def wait_stream(self, other: Stream) -> None:
            """Nothing runs beside the host."""

    @contextmanager
    def graph(tape: Tape) -> Iterator[None]:
        with tape:
            yield

    for name, stand_in in {"Stream": Stream, "current_stream": Stream, "CUDAGraph": Tape, "graph": graph}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())


def recording_cache(model: ImageTransformer, sequences: int) -> RecordingCache:
    return RecordingCache(stepper_of(model).cache_shape(model, sequences, 16), torch.float32, model.device)


@pytest.mark.usefixtures("taped")
@pytest.mark.parametrize("name", NAMES)
def test_a_recording_draws_other_tasks_of_its_kind(name: str) -> None:
    model = golden_model(name)
    cache = recording_cache(model, 6)
    for seed in range(3):
        task = task_of(model, seed)
        drawn, expected = cache.draw(model, task), decode(model, task)
        assert torch.equal(drawn.tokens, expected.tokens) and torch.equal(drawn.order, expected.order)
    assert len(cache.recordings) == 1


@pytest.mark.usefixtures("taped")
def test_another_kind_of_task_or_model_is_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST", 3)
    model = golden_randar()
    cache, task = recording_cache(model, 6), task_of(model, 0)
    changes: list[dict[str, Any]] = [
        {},
        {"schedule": [2, 2]},
        {"guidance": Guidance(scale=Scale(1.0, 1.0))},
        {"sampling": Sampling(top_k=1)},
        {"by_confidence": True},
    ]
    for number, change in enumerate(changes, 1):
        other = replace(task, **change)
        assert torch.equal(cache.draw(model, other).tokens, decode(model, other).tokens)
        assert len(cache.recordings) == min(number, 3)
    kinds = list(cache.recordings)
    cache.draw(golden_randar(), task)
    assert list(cache.recordings)[:2] == kinds[1:]
    model.tok_embeddings.weight = torch.nn.Parameter(model.tok_embeddings.weight.flip(0), False)
    assert torch.equal(cache.draw(model, task).tokens, decode(model, task).tokens)


@pytest.mark.usefixtures("taped")
def test_every_call_takes_a_recording_cache() -> None:
    model = golden_randar()
    cache = recording_cache(model, 4)
    for seed in (0, 1):
        expected = generate(model, [1, 2], generator=seed, steps=5)
        assert torch.equal(generate(model, [1, 2], generator=seed, steps=5, cache=cache), expected)
    assert len(cache.recordings) == 1
    assert not isinstance(new_cache(model, 4, record=True), RecordingCache)  # on a CPU there is nothing to record


def test_compiled_steps_draw_the_same_and_are_compiled_once() -> None:
    model = golden_randar()
    expected = {steps: generate(model, [1, 2, 3], generator=0, steps=steps) for steps in (4, 6)}
    torch._dynamo.reset()
    counters.clear()
    compile_steps(model, backend="eager", fullgraph=True)
    assert torch.equal(generate(model, [1, 2, 3], generator=0, steps=4), expected[4])
    graphs = counters["stats"]["unique_graphs"]
    assert 2 <= graphs <= 6  # of two parts, not of five steps in three blocks
    assert torch.equal(generate(model, [1, 2, 3], generator=0, steps=6), expected[6])
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.cuda
@pytest.mark.parametrize("name", NAMES)
def test_cuda_recordings_draw_what_the_loop_draws(name: str) -> None:
    model = pack_weights(golden_model(name).to("cuda"), torch.bfloat16)
    cache = new_cache(model, 6, record=True)
    assert isinstance(cache, RecordingCache)
    for seed in range(3):
        task = task_of(model, seed, "cuda")
        assert torch.equal(cache.draw(model, task).tokens, decode(model, task).tokens)
    assert len(cache.recordings) == 1
    assert all(isinstance(one, Recording) for one in cache.recordings.values())


@pytest.mark.cuda
def test_cuda_compiled_steps_are_recorded() -> None:
    model = golden_randar().to("cuda")
    task = task_of(model, 0, "cuda", sampling=Sampling(top_k=1))
    expected = decode(model, task).tokens
    compile_steps(model)
    drawn = new_cache(model, 6, record=True).draw(model, task).tokens  # type: ignore[attr-defined]
    assert (drawn == expected).float().mean() > 0.9


@pytest.mark.usefixtures("taped")
def test_a_recording_holds_the_angles_that_its_steps_read() -> None:
    """A move of the model, even to where it is, makes new ones."""
    model = golden_model("arpg_small")
    recorded, address = Recording(model, task_of(model, 0), recording_cache(model, 6)), model.rotary.data_ptr()
    model.to("cpu")
    assert model.rotary.data_ptr() != address and address in [held.data_ptr() for held in recorded.held[1]]
