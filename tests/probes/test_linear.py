from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from probes import LinearProbe, Standardizer
from probes.linear import LEARNING_RATES


def overlapping(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four classes that overlap, float32 (rows, 8)."""
    centres = np.random.default_rng(99).standard_normal((4, 8))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, rows)
    features = 2 + centres[labels] + generator.standard_normal((rows, 8))
    return features.astype(np.float32), labels


TRAIN, VALIDATION = overlapping(500, 0), overlapping(200, 1)


def trained_by_torch(rate: float, epochs: int, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """One head the plain way: torch's SGD, cross-entropy and cosine schedule; weight (D, C) and bias (C,)."""
    features = Standardizer().fit(TRAIN[0]).transform(TRAIN[0])
    labels = torch.from_numpy(TRAIN[1])
    weight = torch.empty(8, 4).normal_(0, 0.01, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    bias = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=rate * batch / 256, momentum=0.9)
    steps = epochs * math.ceil(len(features) / batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(features), generator=generator).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(features[rows] @ weight + bias, labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return weight.detach(), bias.detach()


def test_a_head_equals_torch_sgd() -> None:
    probe = LinearProbe(learning_rates=(0.05,), epochs=3, batch_size=64, seed=5).fit(*TRAIN, *VALIDATION)
    weight, bias = trained_by_torch(0.05, epochs=3, batch=64, seed=5)
    torch.testing.assert_close(probe.weight, weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(probe.bias, bias, atol=1e-5, rtol=0)


def test_many_heads_at_once_equal_each_alone() -> None:
    rates = (1e-4, 1e-2, 0.1, 1.0)
    together = LinearProbe(learning_rates=rates, epochs=3, batch_size=64).fit(*TRAIN, *VALIDATION)
    alone = {r: LinearProbe(learning_rates=(r,), epochs=3, batch_size=64).fit(*TRAIN, *VALIDATION) for r in rates}
    found = together.validation_accuracies
    assert {r: found[r] for r in rates} == {r: alone[r].validation_accuracy for r in rates}
    winner = alone[together.learning_rate]
    torch.testing.assert_close(together.weight, winner.weight, atol=1e-5, rtol=0)
    np.testing.assert_allclose(together.predict_proba(TRAIN[0]), winner.predict_proba(TRAIN[0]), atol=1e-5)


def test_the_best_on_validation_is_kept() -> None:
    probe = LinearProbe(learning_rates=(1e-7, 0.02), epochs=5, batch_size=64).fit(*TRAIN, *VALIDATION)
    assert probe.learning_rate == 0.02
    assert probe.validation_accuracies[1e-7] < 0.5 < 0.7 < probe.validation_accuracies[0.02]
    assert probe.validation_accuracy == (probe.predict(VALIDATION[0]) == VALIDATION[1]).mean()


def test_lowest_of_equally_good_rates_wins() -> None:
    features = np.array([[-1.0], [1.0]] * 40, np.float32)
    probe = LinearProbe(learning_rates=(0.5, 0.1, 0.2), epochs=5).fit(features, np.array([0, 1] * 40))
    assert probe.validation_accuracies == {0.1: 1.0, 0.2: 1.0, 0.5: 1.0}
    assert probe.learning_rate == 0.1


def test_half_precision_features_stay_half_and_agree() -> None:
    half = torch.from_numpy(TRAIN[0]).half()
    low = LinearProbe(epochs=2).fit(half, TRAIN[1], *VALIDATION)
    full = LinearProbe(epochs=2).fit(half.float(), TRAIN[1], *VALIDATION)
    torch.testing.assert_close(low.weight, full.weight)


def test_published_learning_rates() -> None:
    assert len(LEARNING_RATES) == 13
    assert (LEARNING_RATES[0], LEARNING_RATES[-1]) == (1e-5, 0.1)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="learning_rates"):
        LinearProbe(learning_rates=(0.1, -1.0))
    with pytest.raises(ValueError, match=r"learning_rates.*finite"):
        LinearProbe(learning_rates=(0.1, float("inf")))
    with pytest.raises(ValueError, match=r"momentum.*got 1\.5"):
        LinearProbe(momentum=1.5)
    with pytest.raises(ValueError, match="epochs must be ≥ 1, got 0"):
        LinearProbe(epochs=0)
    with pytest.raises(TypeError, match=r"batch_size.*2\.5"):
        LinearProbe(batch_size=2.5)
    with pytest.raises(ValueError, match=r"learning_rates.*0\.1"):
        LinearProbe(learning_rates=0.1)


@pytest.mark.cuda
def test_cuda_equals_cpu() -> None:
    cpu, cuda = (
        LinearProbe(learning_rates=(0.01, 0.1), epochs=3, batch_size=64, device=device).fit(*TRAIN, *VALIDATION)
        for device in ("cpu", "cuda")
    )
    assert cuda.weight.is_cuda
    torch.testing.assert_close(cuda.weight.cpu(), cpu.weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows", [33, 34])
def test_batch_normalization_takes_a_last_batch_of_one_row(rows: int) -> None:
    probe = LinearProbe(normalization="batch", epochs=5, batch_size=32, learning_rates=(0.1, 1.0))
    probe.fit(TRAIN[0][:rows], TRAIN[1][:rows], *VALIDATION)
    assert probe.validation_accuracy > 0.5
