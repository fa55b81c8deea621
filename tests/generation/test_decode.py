from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from randar_features import generate, log_likelihood, sequence
from randar_features.generation import new_cache
from randar_features.generation.complete import ORDERS
from randar_features.generation.decode import DecodingTask, Guidance, decode
from randar_features.generation.sampling import Sampling
from randar_features.generation.schedule import Scale, decoding_schedule
from randar_features.generation.stepping import stepper_of
from randar_features.layers.attention import continued_mask
from randar_features.layers.block import run
from randar_features.layers.packed_linear import pack_weights
from randar_features.models import RandAR, RandARConfig
from tests.generation.full_pass import greedy_decode, step_logits
from tests.golden.models import golden, golden_randar

MODEL = golden_randar()
RECORDED = golden("randar_small")[0]
CLASSES, ORDER = RECORDED["cond"], RECORDED["order"]
GENERATED = [name for name in RECORDED if name.startswith("generate.")]


def settings_of(name: str) -> tuple[int, tuple[float, float]]:
    steps, scales = name.removeprefix("generate.steps").split(".cfg")
    start, end = map(float, scales.split("-"))
    # The published code leaves guidance out where the end is at most 1; here that is said by a guidance of 1.
    return int(steps), (start, end) if end > 1 else (1.0, 1.0)


def task(**changes) -> DecodingTask:
    """All of the recorded images in their orders, greedy, three tokens a step but for the first and the last."""
    plain = DecodingTask(
        classes=CLASSES,
        order=ORDER,
        known=ORDER[:, :0],
        schedule=[1, 3, 3, 3, 3, 3],
        guidance=Guidance(scale=Scale(2.0, 2.0)),
        sampling=Sampling(top_k=1),
        seeds=torch.tensor([1, 2, 3]),
        rotary=MODEL.rotary,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize("name", GENERATED)
def test_greedy_tokens_equal_the_published(name: str):
    steps, guidance = settings_of(name)
    tokens = generate(MODEL, CLASSES, steps=steps, guidance=guidance, order=ORDER, top_k=1)
    assert torch.equal(tokens, RECORDED[name])


def test_every_recorded_generation_is_there():
    assert len(GENERATED) == 24


@pytest.mark.parametrize("steps", [1, 5, -1])
def test_tokens_equal_a_full_pass_at_every_step(steps: int):
    tokens = generate(MODEL, CLASSES, steps=steps, guidance=(1.0, 3.0), order=ORDER, top_k=1)
    schedule = decoding_schedule(16, steps)
    for image in range(3):
        order = ORDER[image].tolist()
        expected = greedy_decode(MODEL, int(CLASSES[image]), order, schedule, (1.0, 3.0))
        assert tokens[image, order].tolist() == expected


def test_one_token_a_step_equals_teacher_forcing():
    tokens = generate(MODEL, CLASSES, steps=-1, guidance=1.0, order=ORDER, top_k=1)
    forced = MODEL(tokens, CLASSES, ORDER).argmax(dim=-1)
    assert torch.equal(tokens, sequence.to_raster(forced, ORDER))


class Recorder(Sampling):
    """The greedy choice, which keeps the logits."""

    def __init__(self) -> None:
        super().__init__(top_k=1)
        object.__setattr__(self, "logits", list[Tensor]())

    def draw(self, logits: Tensor, seeds: Tensor, locations: Tensor) -> Tensor:
        self.logits.append(logits)  # type: ignore[attr-defined]
        return super().draw(logits, seeds, locations)


ALONE = Guidance(scale=Scale(1, 1))


def test_the_first_query_of_each_parallel_step_equals_teacher_forcing_and_all_equal_a_full_pass():
    recorder = Recorder()
    tokens = decode(MODEL, task(guidance=ALONE, sampling=recorder)).tokens
    forced = MODEL(tokens, CLASSES, ORDER)  # in decoding order
    done = 0
    for logits in recorder.logits:
        torch.testing.assert_close(logits[:, 0], forced[:, done], atol=1e-5, rtol=0)
        for image in range(3):
            order = ORDER[image].tolist()
            before = [int(tokens[image, place]) for place in order[:done]]
            full = step_logits(MODEL, int(CLASSES[image]), order, before, logits.shape[1])
            torch.testing.assert_close(logits[image], full, atol=1e-5, rtol=0)
        done += logits.shape[1]
    assert done == 16


def test_a_step_is_placed_after_the_first_instruction_of_the_step_before():
    seen: list[tuple[int, int]] = []
    hook = MODEL.blocks[0].register_forward_hook(lambda _, given, __: seen.append((given[4].start, given[0].shape[1])))
    decode(MODEL, task())
    hook.remove()
    # [class P1] [x1 P2 P3 P4] [x2 P3 x3 P4 x4 P5 P6 P7] …
    assert seen == [(0, 2), (2, 4), (4, 8), (10, 8), (16, 8), (22, 8)]


def test_the_rewritten_cache_equals_the_interleaved_prefix():
    cache, uncached = new_cache(MODEL, 3), new_cache(MODEL, 3)
    tokens = decode(MODEL, task(guidance=ALONE), cache).tokens
    run(MODEL.blocks, *MODEL.embed(tokens, CLASSES, ORDER), "causal", windows=uncached.windows(3, start=0))
    fed = 1 + 2 * 13 + 1  # the last step's tokens are not fed back, its first instruction stays
    torch.testing.assert_close(cache.keys[..., :fed, :], uncached.keys[..., :fed, :], atol=1e-5, rtol=0)
    torch.testing.assert_close(cache.values[..., :fed, :], uncached.values[..., :fed, :], atol=1e-5, rtol=0)


@pytest.mark.parametrize("separate", [False, True])
def test_what_the_steps_feed_is_the_training_sequence(separate: bool):
    x, rotary = MODEL.embed(RECORDED["idx"], CLASSES, ORDER)
    image, done = MODEL.tok_embeddings(sequence.to_order(RECORDED["idx"], ORDER)), 0
    stepper = stepper_of(MODEL)(MODEL, CLASSES, MODEL.rotary)
    fed: list[tuple[Tensor, Tensor]] = []
    hook = MODEL.blocks[0].register_forward_hook(lambda _, given, __: fed.append(given[:2]))
    for known in (5, 6, 7, 10):
        start = stepper.start
        stepper.step(image[:, done:known], ORDER[:, done : known + 1], separate)
        part = slice(start, 2 * known + 2)
        assert torch.equal(fed[-1][0], x[:, part]) and torch.equal(fed[-1][1], rotary[:, part])
        done = known
    hook.remove()


class NoHostSynchronisation(TorchDispatchMode):
    """Refuses operations that read a value back, or whose shape depends on one."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        assert not any(bad in name for bad in ("_local_scalar_dense", "nonzero", "masked_select", "unique")), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("by_confidence", [False, True])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=5, top_p=0.9)])
def test_no_step_waits_for_the_device(by_confidence: bool, sampling: Sampling):
    tokens = torch.zeros(3, 4, dtype=torch.int64)
    wanted = task(known=tokens, schedule=[1, 3, 4, 4], sampling=sampling, by_confidence=by_confidence)
    cls_embedding, MODEL.cls_embedding.forward = MODEL.cls_embedding.forward, unchecked_classes  # type: ignore
    try:
        with NoHostSynchronisation():
            decode(MODEL, wanted)
    finally:
        MODEL.cls_embedding.forward = cls_embedding  # type: ignore[method-assign]


def unchecked_classes(classes: Tensor, batch: int) -> Tensor:
    """On an accelerator the class embedding does not look at the values, as it does on a CPU."""
    return MODEL.cls_embedding.embedding_table(classes)


def rows_through(module: torch.nn.Module, run) -> list[int]:
    seen: list[int] = []
    hook = module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[:-1].numel()))
    try:
        run()
    finally:
        hook.remove()
    return seen


def test_logits_are_computed_at_the_instructions_of_the_step_only():
    assert rows_through(MODEL.output, lambda: decode(MODEL, task())) == [2 * 3 * m for m in (1, 3, 3, 3, 3, 3)]


def test_no_unconditional_branch_runs_without_guidance():
    def run(start: float, end: float) -> list[int]:
        return rows_through(MODEL.layers[0].attention_norm, lambda: decode(MODEL, task_with(start, end)))

    def task_with(start: float, end: float) -> DecodingTask:
        return task(guidance=Guidance(scale=Scale(start, end)))

    assert run(1.0, 1.0) == [3 * rows for rows in (2, 4, 8, 8, 8, 8)]
    for pair in ((2.0, 2.0), (2.0, 1.0), (0.5, 0.5), (-1.0, 0.0)):
        assert run(*pair) == [2 * rows for rows in run(1.0, 1.0)]


def test_guidance_of_0_draws_without_the_class():
    null = generate(MODEL, [MODEL.config.num_classes] * 2, guidance=1.0, generator=4)
    assert torch.equal(generate(MODEL, [0, 1], guidance=0.0, generator=4), null)
    assert torch.equal(generate(MODEL, [0, 1], guidance=(0, 0), generator=4), null)


def test_guidance_is_what_its_formula_says_at_every_scale():
    logits = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0))
    full, null = logits.chunk(2)
    torch.testing.assert_close(Guidance(scale=Scale(0.5, 0.5)).combine(logits, 0.3), (full + null) / 2)
    torch.testing.assert_close(Guidance(scale=Scale(6, 1)).combine(logits, 0.4), null + 4 * (full - null))
    torch.testing.assert_close(Guidance(scale=Scale(-1, -1)).combine(logits, 0.4), 2 * null - full)


@pytest.mark.parametrize("guidance", [0.5, (6.0, 1.0), (0.0, 1.0), -2.0])
def test_every_guidance_changes_what_is_drawn(guidance: float | tuple[float, float]):
    assert not torch.equal(
        generate(MODEL, [0, 1], guidance=guidance, generator=4), generate(MODEL, [0, 1], guidance=1.0, generator=4)
    )


def test_guidance_of_one_equals_no_guidance():
    # An end just above 1 runs both branches; at a scale of 1 the mix is the conditional one.
    guided = decode(MODEL, task(guidance=Guidance(scale=Scale(1.0, 1.0 + 1e-6)))).tokens
    assert torch.equal(guided, decode(MODEL, task(guidance=Guidance(scale=Scale(1.0, 1.0)))).tokens)
    logits = torch.randn(4, 2, 8)
    torch.testing.assert_close(Guidance(scale=Scale(1, 2)).combine(logits, 0.0), logits[:2])


def test_guidance_mixes_the_branches_as_written():
    full, spatial, none = (torch.full((1, 1, 2), value) for value in (1.0, 10.0, 100.0))
    two = Guidance(scale=Scale(1, 3)).combine(torch.cat([full, none]), 0.5)
    assert two.unique().tolist() == [100 + 2 * (1 - 100)]
    three = Guidance(scale=Scale(3, 3), spatial=Scale(1, 2))
    assert three.branches == 3
    mixed = three.combine(torch.cat([full, spatial, none]), 0.5)
    assert mixed.unique().tolist() == [100 + 3 * (1 - 10) + 1.5 * (10 - 100)]
    assert Guidance(scale=Scale(3, 3), spatial=Scale(1, 1)).branches == 2
    assert Guidance(scale=Scale(1, 1), spatial=Scale(2, 2)).branches == 1


def test_a_held_cache_gives_the_same_and_may_be_larger():
    cache = new_cache(MODEL, 10, num_tokens=25)
    for classes in ([1, 2, 3], [4, 5]):
        fresh = generate(MODEL, classes, generator=3)
        assert torch.equal(fresh, generate(MODEL, classes, generator=3, cache=cache))


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("given", ["cache", 0, [], torch.zeros(3)])
def test_what_is_no_cache_is_refused(given: object, scale: int):
    with pytest.raises(TypeError, match=rf"cache must be .*new_cache.* got {type(given).__name__}"):
        generate(MODEL, CLASSES, cache=given, scale=scale)  # type: ignore[arg-type]


def test_a_cache_too_small_is_refused():
    message = "holds 3 sequences of 33 tokens; needed are 6 of 33"
    with pytest.raises(ValueError, match=message):
        generate(MODEL, CLASSES, cache=new_cache(MODEL, 3))


def grouped_model() -> RandAR:
    config = replace(MODEL.config, num_kv_heads=2)
    model = RandAR(config).eval().requires_grad_(False)
    model.initialize(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.output.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return model


def test_grouped_queries_decode_as_the_full_pass():
    model = grouped_model()
    cache = new_cache(model, 6)
    assert cache.keys.shape == (3, 6, 2, 33, 16)
    tokens = generate(model, CLASSES, steps=5, guidance=(1, 3), order=ORDER, top_k=1, cache=cache)
    expected = greedy_decode(model, int(CLASSES[0]), ORDER[0].tolist(), decoding_schedule(16, 5), (1, 3))
    assert tokens[0, ORDER[0]].tolist() == expected and len(set(expected)) > 2


def test_learned_instructions_decode_as_the_full_pass_and_have_no_finer_grid():
    model = RandAR(replace(MODEL.config, free_instructions=True)).eval()
    assert model.instructions().shape == (16, 64)
    model.initialize(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.output.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    tokens = generate(model, CLASSES, steps=5, guidance=(1, 3), order=ORDER, top_k=1)
    expected = greedy_decode(model, int(CLASSES[0]), ORDER[0].tolist(), decoding_schedule(16, 5), (1, 3))
    assert tokens[0, ORDER[0]].tolist() == expected and len(set(expected)) > 2
    with pytest.raises(ValueError, match="free_instructions=True"):
        generate(model, CLASSES, scale=2)


@pytest.mark.parametrize("order", [None, *ORDERS])
def test_same_seed_same_images_whatever_the_batch(order: str | None):
    classes = [1, 2, 3, 4, 5]
    whole = generate(MODEL, classes, order=order, generator=11)
    generator = torch.Generator().manual_seed(11)
    parts = [
        generate(MODEL, part, order=order, generator=generator) for part in (classes[:2], classes[2:3], classes[3:])
    ]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, generate(MODEL, classes, order=order, generator=12))


def test_images_of_a_batch_differ_by_their_own_seeds():
    tokens = generate(MODEL, [3, 3, 3], generator=torch.tensor([8, 9, 8]), guidance=1.0)
    assert torch.equal(tokens[0], tokens[2]) and not torch.equal(tokens[0], tokens[1])


@pytest.mark.parametrize("order", ORDERS)
def test_known_tokens_stay_and_the_others_are_those_of_a_full_pass(order: str):
    known = torch.rand(3, 16, generator=torch.Generator().manual_seed(5)) < 0.4
    known[2] = False  # one image has nothing to go on
    tokens = generate(MODEL, CLASSES, tokens=RECORDED["idx"], known=known, order=order, generator=0)
    assert torch.equal(tokens[known], RECORDED["idx"][known])
    assert tokens.shape == (3, 16) and tokens.min() >= 0 and tokens.max() < 64


def test_continuation_equals_a_full_pass():
    known = torch.zeros(16, dtype=torch.bool)
    known[ORDER[0, :6]] = True
    own = ORDER[:1]
    tokens = generate(
        MODEL, CLASSES[:1], tokens=RECORDED["idx"][:1], known=known, order=own, steps=4, guidance=(1, 3), top_k=1
    )
    given = RECORDED["idx"][0, own[0, :6]].tolist()
    schedule = decoding_schedule(10, 4)
    expected = greedy_decode(MODEL, int(CLASSES[0]), own[0].tolist(), schedule, (1, 3), known=given)
    assert tokens[0, own[0]].tolist() == expected


def test_values_of_unknown_tokens_do_not_matter():
    known = torch.arange(16) < 8
    one = generate(MODEL, CLASSES, tokens=RECORDED["idx"], known=known, generator=2)
    other = torch.where(known, RECORDED["idx"], -1)
    assert torch.equal(one, generate(MODEL, CLASSES, tokens=other, known=known, generator=2))


def test_images_with_different_numbers_of_known_tokens_are_as_alone():
    known = torch.arange(16)[None] < torch.tensor([[3], [9], [3]])
    together = generate(MODEL, CLASSES, tokens=RECORDED["idx"], known=known, generator=4)
    generator = torch.Generator().manual_seed(4)
    for i in range(3):
        row = slice(i, i + 1)
        alone = generate(MODEL, CLASSES[row], tokens=RECORDED["idx"][row], known=known[row], generator=generator)
        assert torch.equal(together[row], alone)


def test_confidence_reads_each_open_location_as_if_it_were_the_only_one():
    first = stepper_of(MODEL)(MODEL, CLASSES, MODEL.rotary).step(MODEL.tok_embeddings(ORDER[:, :0]), ORDER, True)
    for location in range(16):
        alone = step_logits(MODEL, int(CLASSES[0]), [int(ORDER[0, location])], [], 1)
        torch.testing.assert_close(first[0, location], alone[0], atol=1e-5, rtol=0)


def test_confidence_takes_the_surest_locations_first():
    plain = decode(MODEL, task(by_confidence=True, guidance=ALONE, schedule=[1] * 16))
    for image in range(3):
        order, tokens = [], []
        for _ in range(16):
            open_ = [place for place in range(16) if place not in order]
            logits = [step_logits(MODEL, int(CLASSES[image]), [*order, place], tokens, 1)[0] for place in open_]
            surest = max(range(len(open_)), key=lambda i: float(logits[i].softmax(0).max()))
            order.append(open_[surest])
            tokens.append(int(logits[surest].argmax()))
        assert plain.order[image].tolist() == order
        assert plain.tokens[image, order].tolist() == tokens


def test_separate_queries_mask():
    mask = continued_mask(4, 2, separate=3, dtype=torch.float32, device=torch.device("cpu"))
    assert isinstance(mask, Tensor)
    seen = [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 1]]
    assert (mask == 0).int().tolist() == seen


def test_dropout_is_off_while_generating_and_on_again_after():
    expected = generate(MODEL, CLASSES, generator=1)
    MODEL.train()
    MODEL.layers[1].eval()
    try:
        assert torch.equal(generate(MODEL, CLASSES, generator=1), expected)
        assert MODEL.training and MODEL.layers[0].training and not MODEL.layers[1].training
    finally:
        MODEL.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_packed_weights_decode_the_same(dtype: torch.dtype):
    rounded = golden_randar()
    for parameter in rounded.parameters():
        parameter.data = parameter.data.half().float()
    packed = pack_weights(rounded, dtype)
    tokens = RECORDED["idx"]
    torch.testing.assert_close(packed(tokens, CLASSES, ORDER), rounded(tokens, CLASSES, ORDER), atol=1e-5, rtol=0)
    expected = generate(rounded, CLASSES, order=ORDER, top_k=1)
    assert torch.equal(generate(packed, CLASSES, order=ORDER, top_k=1), expected)
    assert packed.tok_embeddings.weight is rounded.tok_embeddings.weight


def test_packing_leaves_the_model_as_it_was():
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    pack_weights(MODEL, torch.float16)
    assert all(torch.equal(before[name], value) for name, value in MODEL.state_dict().items())


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match=r"torch.float32, torch.bfloat16, torch.float16; got torch.float64"):
        pack_weights(MODEL, torch.float64)
    with pytest.raises(ValueError, match="only float32 weights"):
        pack_weights(
            RandAR(RandARConfig(num_layers=1, num_heads=1, dim=8, vocab_size=4, num_tokens=4, num_classes=1)).half()
        )
    with pytest.raises(ValueError, match="has a bias"):
        pack_weights(torch.nn.Sequential(torch.nn.Linear(4, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": [1, 11]}, "classes must lie in 0 … 9, or be 10 for the null class; got 1 … 11"),
        ({"classes": [-1]}, "got -1 … -1"),
        ({"classes": None}, "classes must be integers, 10 for the null class; got None"),
        ({"classes": []}, "one integer an image"),
        ({"classes": [0.5]}, "classes must be 1 integers"),
        ({"steps": 0}, "steps must lie in 1 … 16"),
        ({"steps": 17}, "got 17"),
        ({"order": "zigzag"}, "order must be one of random, raster, .* got 'zigzag'"),
        ({"order": torch.zeros(16, dtype=torch.int64)}, "row 0 of the order is no permutation"),
        ({"order": torch.arange(15)}, r"16 integers per image.* got shape \(1, 15\)"),
        ({"order": torch.arange(16).repeat(3, 1)}, "3 orders for 2 images"),
        ({"scale": 3}, "scale must be 1 or 2, got 3"),
        ({"guidance": (1.0, 2.0, 3.0)}, "one scale or a pair"),
        ({"classes": [None, 1]}, r"classes must be one integer an image; got \[None, 1\]"),
        ({"classes": {1, 2}}, r"classes must be one integer an image; got \{1, 2\}"),
        ({"tokens": torch.zeros(2, 16, dtype=torch.int64)}, "tokens and known go together"),
        (
            {"tokens": torch.zeros(2, 16, dtype=torch.int64), "known": torch.ones(16, dtype=torch.bool)},
            "nothing is left to generate",
        ),
        (
            {"tokens": torch.zeros(2, 16, dtype=torch.int64), "known": torch.ones(9, dtype=torch.bool)},
            r"known must be boolean of shape \(16,\) or \(2, 16\); got \(9,\)",
        ),
        (
            {"tokens": torch.full((2, 16), 64), "known": torch.arange(16) < 3},
            "tokens must lie in 0 … 63; got 0 … 64",
        ),
        (
            {"tokens": torch.zeros(3, 16, dtype=torch.int64), "known": torch.arange(16) < 3},
            "tokens of 3 images for 2 classes",
        ),
        (
            {"tokens": torch.zeros(2, 4, 4, dtype=torch.int64), "known": torch.arange(16) < 3},
            r"tokens must be integers of shape \(B, 16\); got \(2, 4, 4\)",
        ),
        (
            {"tokens": torch.ones(2, 16, dtype=torch.bool), "known": torch.arange(16) < 3},
            r"tokens must be integers of shape \(B, 16\); got \(2, 16\), torch.bool",
        ),
    ],
)
def test_bad_input_is_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        generate(MODEL, **({"classes": [1, 2]} | arguments))


def test_tokens_that_are_no_tensor_are_refused():
    tokens = np.zeros((2, 16), np.int64)
    with pytest.raises(TypeError, match="tokens and known must be tensors; got ndarray and Tensor"):
        generate(MODEL, [1, 2], tokens=tokens, known=torch.arange(16) < 3)
    with pytest.raises(TypeError, match=r"tokens must be a tensor of integers \(B, 16\); got ndarray"):
        log_likelihood(MODEL, tokens, [1, 2])


@pytest.mark.parametrize("order", [None, "confidence"])
def test_half_precision_models_decode(order: str | None):
    half = golden_randar().to(torch.bfloat16)
    cache = new_cache(half, 9, num_tokens=64)
    assert cache.keys.dtype == torch.bfloat16
    tokens = generate(half, CLASSES, order=order, generator=0, cache=cache)
    assert tokens.shape == (3, 16) and tokens.dtype == torch.int64
    assert generate(half, CLASSES, order=order, generator=0, scale=2, cache=cache).shape == (3, 64)


@pytest.mark.parametrize("given", ["randar-tiny", None])
def test_what_is_neither_a_model_nor_a_transformer_is_refused(given):
    with pytest.raises(TypeError, match=f"load_model.* got '{given}'"):
        generate(given, [1])
    with pytest.raises(TypeError, match=f"load_model.* got '{given}'"):
        log_likelihood(given, CLASSES[:, None])


@pytest.mark.parametrize("wrong", [True, 1.0, torch.tensor([1, 2])])
def test_the_scale_is_an_integer(wrong: object):
    with pytest.raises(TypeError, match="scale"):
        generate(golden_randar(), [0], scale=wrong)
