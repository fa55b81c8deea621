from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from randar_features.models import RandAR, RandARConfig
from randar_features.training.optimizer import Muon, Optimizer, build_optimizer, orthogonalize, split_stack

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_orthogonalize_keeps_singular_vectors_and_evens_values(shape: tuple[int, int]):
    matrices = normal(5, *shape) * torch.tensor([1e-3, 1.0, 1.0, 7.0, 1e4])[:, None, None]
    left, _, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    rotated = left.mT @ orthogonalize(matrices).double() @ right.mT  # diagonal, if the vectors are the same
    values = rotated.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.6
    assert values.max() < 1.3
    torch.testing.assert_close(rotated, torch.diag_embed(values), atol=1e-4, rtol=0)


def test_orthogonalize_of_nothing_is_nothing():
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def plain_muon(weight: Tensor, gradients: list[Tensor], lr: float, weight_decay: float) -> Tensor:
    """Muon on one matrix with Nesterov momentum 0.95, in float64, one formula a line."""
    weight, momentum = weight.double(), torch.zeros_like(weight).double()
    a, b, c = COEFFICIENTS
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient.double()
        direction = 0.05 * gradient.double() + 0.95 * momentum
        x = direction / torch.linalg.matrix_norm(direction)
        for _ in range(5):
            x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
        weight = weight * (1 - lr * weight_decay) - lr * 0.2 * max(weight.shape) ** 0.5 * x
    return weight


def run_muon(weights: list[Tensor], gradients: list[list[Tensor]], **options: float) -> list[Tensor]:
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    muon = Muon(parameters, **options)  # type: ignore[arg-type]
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        muon.step()
    return [parameter.detach() for parameter in parameters]


def test_muon_equals_a_plain_restatement():
    shapes = [(6, 6), (8, 5), (5, 8), (6, 6)]  # two of one shape: one batch
    weights = [normal(*shape, seed=index) for index, shape in enumerate(shapes)]
    gradients = [[normal(*shape, seed=10 * step + i) for i, shape in enumerate(shapes)] for step in range(1, 4)]
    found = run_muon(weights, gradients, lr=0.1, weight_decay=0.5)
    for index, weight in enumerate(weights):
        expected = plain_muon(weight, [step[index] for step in gradients], lr=0.1, weight_decay=0.5)
        torch.testing.assert_close(found[index].double(), expected, atol=1e-4, rtol=1e-4)


def test_stacked_projections_are_treated_one_by_one():
    weight, gradient = normal(12, 4), normal(12, 4, seed=1)
    [stacked] = run_muon([weight], [[gradient]], lr=0.1, stack=3)
    apart = run_muon(list(weight.split(4)), [list(gradient.split(4))], lr=0.1)
    torch.testing.assert_close(stacked, torch.cat(apart))
    [whole] = run_muon([weight], [[gradient]], lr=0.1)
    torch.testing.assert_close(
        whole.double(), plain_muon(weight, [gradient], lr=0.1, weight_decay=0), atol=1e-4, rtol=1e-4
    )
    assert torch.equal(split_stack(weight, 3)[1], weight[4:8])


@pytest.mark.parametrize(("kv_heads", "stacked"), [(None, True), (1, False)])
def test_only_queries_keys_and_values_are_stacked(kv_heads: int | None, stacked: bool):
    """At width 8 the feed-forward's 16 rows are two times the width, and yet one matrix."""
    model = small_randar(num_kv_heads=kv_heads)
    muon = build_optimizer(model, learning_rate=0.1, weight_decay=0.0, muon_learning_rate=0.7).parts[1]
    stacks = {group["stack"]: names_in(model, group["params"]) for group in muon.param_groups}
    wqkv = {"layers.0.attention.wqkv.weight", "layers.1.attention.wqkv.weight"}
    assert stacks.pop(3, set()) == (wqkv if stacked else set())
    assert len(stacks.pop(1)) == (8 if stacked else 10)
    assert not stacks


def test_muon_leaves_what_has_no_gradient():
    parameter = nn.Parameter(normal(4, 4))
    before = parameter.detach().clone()
    Muon([parameter], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(parameter, before)


def small_randar(**options: Any) -> RandAR:
    sizes = {"num_layers": 2, "num_heads": 2, "dim": 8, "vocab_size": 6, "num_tokens": 4, "num_classes": 2}
    config = RandARConfig(**sizes, ffn_multiple_of=16, **options)
    model = RandAR(config).eval()
    model.initialize(torch.Generator().manual_seed(0))
    nn.init.normal_(model.output.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return model


def names_in(model: RandAR, parameters: list[nn.Parameter]) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


def test_decay_is_for_matrices_and_muon_for_those_of_the_blocks():
    model = small_randar()
    everything = {name for name, _ in model.named_parameters()}
    norms = {name for name in everything if name.endswith("norm.weight")}
    blocks = {name for name in everything if name.startswith("layers.")} - norms
    assert len(norms) == 5
    assert len(blocks) == 10

    [adamw] = build_optimizer(model, learning_rate=0.1, weight_decay=0.3).parts
    decayed, plain = adamw.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0)
    assert names_in(model, decayed["params"]) == everything - norms
    assert names_in(model, plain["params"]) == norms

    adamw, muon = build_optimizer(model, learning_rate=0.1, weight_decay=0.3, muon_learning_rate=0.7).parts
    decayed, plain = adamw.param_groups
    assert names_in(model, decayed["params"]) == everything - norms - blocks
    assert names_in(model, plain["params"]) == norms
    assert names_in(model, [p for group in muon.param_groups for p in group["params"]]) == blocks
    assert {(group["lr"], group["weight_decay"]) for group in muon.param_groups} == {(0.7, 0.3)}


def step_on_random_gradients(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        for index, parameter in enumerate(model.parameters()):
            parameter.grad = normal(*parameter.shape, seed=100 * step + index)
        optimizer.step(multiplier=1 / (1 + step))


def test_adamw_is_torchs_with_the_multiplier_on_its_rate():
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(ours, learning_rate=0.1, weight_decay=0.3)
    step_on_random_gradients(ours, optimizer, range(3))
    groups = [{"params": [theirs.weight], "weight_decay": 0.3}, {"params": [theirs.bias], "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    for step in range(3):
        for index, parameter in enumerate(theirs.parameters()):
            parameter.grad = normal(*parameter.shape, seed=100 * step + index)
        for group in plain.param_groups:
            group["lr"] = 0.1 / (1 + step)
        plain.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_a_step_clears_the_gradients():
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, learning_rate=0.1, weight_decay=0.0)
    step_on_random_gradients(model, optimizer, range(1))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_continues_from_its_saved_state():
    whole, part = small_randar(), small_randar()
    options = {"learning_rate": 0.01, "weight_decay": 0.1, "muon_learning_rate": 0.02}
    step_on_random_gradients(whole, build_optimizer(whole, **options), range(5))

    first = build_optimizer(part, **options)
    step_on_random_gradients(part, first, range(3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = build_optimizer(part, **options)
    second.load_state_dict(torch.load(file, weights_only=True))
    step_on_random_gradients(part, second, range(3, 5))
    for name, value in whole.state_dict().items():
        assert torch.equal(part.state_dict()[name], value), name


def test_a_state_of_other_parameters_is_refused():
    model = small_randar()
    optimizer = build_optimizer(model, learning_rate=0.01, weight_decay=0.1)
    step_on_random_gradients(model, optimizer, range(1))
    state = optimizer.state_dict()
    del state["norm.weight"]
    with pytest.raises(KeyError, match=r"lacks norm\.weight"):
        optimizer.load_state_dict(state)
