from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probes import AttentiveProbe, LogisticProbe
from probes.attentive import AttentiveHead
from probes.classifier import warm_up_cosine
from probes.rows import TensorRows, sharded_rows

WIDTH, HEADS, CLASSES = 12, 3, 4


def scenes(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps (rows, 3, 3, 12) of noise with one token, marked by its first feature, that tells the class; labels 2 … 5.

    Every other token carries another class's pattern, so that the mean over tokens tells little.
    """
    patterns = 2 * np.random.default_rng(99).standard_normal((CLASSES, WIDTH - 1))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, rows)
    shown = generator.integers(0, CLASSES, (rows, 9))
    marked = generator.integers(0, 9, rows)
    shown[np.arange(rows), marked] = labels
    features = 0.5 * generator.standard_normal((rows, 9, WIDTH))
    features[..., 1:] += patterns[shown]
    features[np.arange(rows), marked, 0] += 6
    return features.reshape(rows, 3, 3, WIDTH).astype(np.float32), labels + 2


TRAIN, VALIDATION = scenes(600, 0), scenes(200, 1)


class Published(nn.Module):
    """AIM's head written plainly: every token's key and value, one query."""

    def __init__(self, head: AttentiveHead) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(WIDTH, affine=False, eps=1e-6)
        self.k, self.v = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.linear = nn.Linear(WIDTH, CLASSES, bias=False)
        self.cls_token = nn.Parameter(head.query.detach().clone().view(1, 1, WIDTH))
        for module, weight in ((self.k, head.key), (self.v, head.value), (self.linear, head.output)):
            module.weight.data.copy_(weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        x = self.bn(x.transpose(-2, -1)).transpose(-2, -1)
        q = self.cls_token.expand(batch, -1, -1).reshape(batch, 1, HEADS, width // HEADS).permute(0, 2, 1, 3)
        k = self.k(x).reshape(batch, count, HEADS, width // HEADS).permute(0, 2, 1, 3)
        v = self.v(x).reshape(batch, count, HEADS, width // HEADS).permute(0, 2, 1, 3)
        attention = ((q * (width // HEADS) ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        return self.linear((attention @ v).transpose(1, 2).reshape(batch, 1, width).mean(1))


def trained_as_published(rate: float, epochs: int, batch: int, seed: int) -> Published:
    features = torch.from_numpy(TRAIN[0]).flatten(1, 2)
    labels = torch.from_numpy(TRAIN[1]) - 2
    model = Published(AttentiveHead(WIDTH, HEADS, CLASSES, torch.Generator().manual_seed(seed)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=5e-4)
    iterations = epochs * math.ceil(len(features) / batch)
    warm_up = max(1, iterations // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: warm_up_cosine(done, iterations, warm_up))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(features), generator=generator).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(features[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def test_equals_the_published_head_trained_alone_at_one_learning_rate() -> None:
    options = {"num_heads": HEADS, "epochs": 3, "batch_size": 64, "seed": 3}
    together = AttentiveProbe(learning_rates=(1e-3, 0.01, 0.1), **options).fit(*TRAIN, *VALIDATION)
    references = {rate: trained_as_published(rate, epochs=3, batch=64, seed=3) for rate in (1e-3, 0.01, 0.1)}
    features = torch.from_numpy(VALIDATION[0]).flatten(1, 2)
    with torch.no_grad():
        shares = {rate: model(features).softmax(1).numpy() for rate, model in references.items()}
    for rate, table in shares.items():
        hits = (table.argmax(1) + 2 == VALIDATION[1]).mean()
        assert together.validation_accuracies[rate] == pytest.approx(hits, abs=0.006)
    found = together.predict_proba(VALIDATION[0])
    np.testing.assert_allclose(found, shares[together.learning_rate], atol=2e-3)


def test_finds_the_token_that_matters_where_the_mean_does_not() -> None:
    probe = AttentiveProbe(num_heads=HEADS, learning_rates=(1e-5, 0.01), epochs=15, batch_size=64)
    probe.fit(*TRAIN, *VALIDATION)
    assert probe.learning_rate == 0.01
    assert probe.validation_accuracy == (probe.predict(VALIDATION[0]) == VALIDATION[1]).mean() > 0.9
    assert probe.classes.tolist() == [2, 3, 4, 5]
    mean = LogisticProbe(C_grid=(0.01, 1.0)).fit(
        TRAIN[0].mean((1, 2)), TRAIN[1], VALIDATION[0].mean((1, 2)), VALIDATION[1]
    )
    assert mean.validation_accuracy < 0.75


def test_maps_tokens_and_shards_give_the_same(tmp_path: Path) -> None:
    options = {"num_heads": HEADS, "epochs": 1, "batch_size": 64, "buffer_rows": 128}
    expected = AttentiveProbe(**options).fit(*TRAIN).predict_proba(VALIDATION[0])
    tokens = AttentiveProbe(**options).fit(TRAIN[0].reshape(600, 9, WIDTH), TRAIN[1])
    np.testing.assert_array_equal(tokens.predict_proba(VALIDATION[0].reshape(200, 9, WIDTH)), expected)
    for number, shard in enumerate(np.split(TRAIN[0], [250])):
        np.save(tmp_path / f"{number}.npy", shard)
    shards = sharded_rows([np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(2)])
    np.testing.assert_array_equal(
        AttentiveProbe(**options).fit(shards, TRAIN[1]).predict_proba(VALIDATION[0]), expected
    )


def test_schedule_rises_and_falls_to_zero() -> None:
    factors = [warm_up_cosine(done, 100, 10) for done in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads must divide the width 12 of the features, got 5"):
        AttentiveProbe(num_heads=5).fit(*TRAIN)
    with pytest.raises(ValueError, match=r"shape \(n, T, D\).*\(600, 12\)"):
        AttentiveProbe().fit(TRAIN[0][:, 0, 0], TRAIN[1])
    with pytest.raises(ValueError, match="epochs must be ≥ 1, got 0"):
        AttentiveProbe(epochs=0)
    with pytest.raises(RuntimeError, match="AttentiveProbe has not been fitted"):
        AttentiveProbe().predict(TRAIN[0])


def test_several_queries_give_what_the_formula_gives() -> None:
    """Efficient probing written plainly: M queries, tokens as keys, each query its D/M part of the values."""
    probe = AttentiveProbe(num_queries=4, learning_rates=(0.01,), epochs=1, batch_size=64).fit(*TRAIN)
    tokens = torch.from_numpy(VALIDATION[0]).flatten(1, 2)
    normalized = F.batch_norm(tokens.transpose(1, 2), probe._normalizer.running_mean, probe._normalizer.running_var)
    x, head = normalized.transpose(1, 2), probe.head
    assert head.query.shape == (4, WIDTH)
    attention = (x @ head.query.T / math.sqrt(WIDTH)).softmax(1)  # (n, T, M)
    values = (x @ head.value.T).view(len(x), 9, 4, WIDTH // 4)
    pooled = torch.einsum("ntm,ntmd->nmd", attention, values).flatten(1)
    expected = (pooled @ head.output.T).softmax(1)
    np.testing.assert_allclose(probe.predict_proba(VALIDATION[0]), expected.numpy(), atol=1e-4)


def test_attention_over_layers_finds_the_one_that_tells() -> None:
    """The second of two layers tells the class; the first is noise on another scale."""

    def layers(maps: np.ndarray, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal(maps.shape).astype(np.float32)
        return np.stack([50 * noise + 1000, maps], axis=1)

    train, held = layers(TRAIN[0], 0), layers(VALIDATION[0], 1)
    options = {"num_queries": 3, "learning_rates": (0.03,), "epochs": 12, "batch_size": 64}
    both = AttentiveProbe(**options).fit(train, TRAIN[1], held, VALIDATION[1])
    assert both.validation_accuracy > 0.8
    assert both.validation_accuracy == both.score(held, VALIDATION[1])
    alone = AttentiveProbe(**options).fit(*TRAIN, *VALIDATION).predict_proba(VALIDATION[0])
    one_layer = AttentiveProbe(**options).fit(TRAIN[0][:, None], TRAIN[1], VALIDATION[0][:, None], VALIDATION[1])
    np.testing.assert_allclose(one_layer.predict_proba(VALIDATION[0][:, None]), alone, atol=1e-6)
    with pytest.raises(ValueError, match="2 layers as in fit"):
        both.predict(held[:, :1])
    with pytest.raises(ValueError, match="num_queries must divide the width 12"):
        AttentiveProbe(num_queries=5).fit(*TRAIN)


def test_other_layers_than_in_fit_are_refused() -> None:
    features, labels = TRAIN[0][:60].reshape(60, 1, 3, 3, WIDTH).repeat(3, 1), TRAIN[1][:60]
    probe = AttentiveProbe(num_heads=HEADS, epochs=1, learning_rates=(1e-3,)).fit(features, labels)
    with pytest.raises(ValueError, match="3 layers as in fit"):
        probe.predict(features[:, 0])


class Counted(TensorRows):
    """Rows that remember how many are read at a time."""

    def read(self, rows: np.ndarray) -> Tensor:
        self.most = max(getattr(self, "most", 0), len(rows))
        return super().read(rows)


def test_no_more_images_are_in_memory_than_a_batch() -> None:
    probe = AttentiveProbe(num_heads=HEADS, learning_rates=(1e-3,), epochs=1, batch_size=64).fit(*TRAIN, *VALIDATION)
    counted = Counted(torch.from_numpy(VALIDATION[0]))
    np.testing.assert_array_equal(probe.predict(counted), probe.predict(VALIDATION[0]))
    assert counted.most == 64
