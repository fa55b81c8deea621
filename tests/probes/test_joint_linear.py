from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probes import JointLinearProbe, LinearProbe
from probes.linear import shuffled_batches
from probes.rows import TensorRows, sharded_rows

RATES = (1e-3, 0.05, 0.5)


def outputs(rows: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three outputs of the same images: of 6 and 4 features about 3 classes, and of noise."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    found = {}
    for name, width, strength in (("layer 0", 6, 1.0), ("layer 1", 4, 2.0), ("noise", 5, 0.0)):
        centres = strength * np.random.default_rng(width).standard_normal((3, width))
        found[name] = (centres[labels] + generator.standard_normal((rows, width))).astype(np.float32)
    return found, labels


TRAIN, LABELS = outputs(900, 0)
VALIDATION, VALIDATION_LABELS = outputs(300, 1)


def probe(**options: object) -> JointLinearProbe:
    return JointLinearProbe(learning_rates=RATES, epochs=2, batch_size=64, **options)


@pytest.mark.parametrize("normalization", ["standardize", "batch", "none"])
@pytest.mark.parametrize("buffer_rows", [None, 256])
def test_outputs_together_equal_each_alone(normalization: str, buffer_rows: int | None) -> None:
    options = {"normalization": normalization, "buffer_rows": buffer_rows}
    together = probe(**options).fit(TRAIN, LABELS, VALIDATION, VALIDATION_LABELS)
    found = together.predict_proba(VALIDATION)
    for name in TRAIN:
        alone = LinearProbe(learning_rates=RATES, epochs=2, batch_size=64, **options)
        alone.fit(TRAIN[name], LABELS, VALIDATION[name], VALIDATION_LABELS)
        head = together.heads[name]
        assert head.validation_accuracies == alone.validation_accuracies
        assert head.learning_rate == alone.learning_rate
        torch.testing.assert_close(head.weight, alone.weight)
        np.testing.assert_allclose(found[name], alone.predict_proba(VALIDATION[name]), atol=1e-6)


def test_the_output_that_tells_the_classes_apart_best_is_named() -> None:
    fitted = probe().fit(TRAIN, LABELS, VALIDATION, VALIDATION_LABELS)
    curve = [fitted.heads[name].validation_accuracy for name in TRAIN]
    assert fitted.best == "layer 1"
    assert curve[1] > curve[0] > 0.5 > curve[2]
    predicted = fitted.predict(VALIDATION)
    assert [np.mean(predicted[name] == VALIDATION_LABELS) for name in TRAIN] == curve


@pytest.mark.parametrize("buffer_rows", [None, 256])
def test_streamed_from_memory_mapped_shards_equals_memory(tmp_path: Path, buffer_rows: int | None) -> None:
    streamed = {}
    for name, values in TRAIN.items():
        shards = []
        for number, shard in enumerate(np.split(values.astype(np.float16), [100, 101, 640])):
            np.save(tmp_path / f"{name}-{number}.npy", shard)
            shards.append(np.load(tmp_path / f"{name}-{number}.npy", mmap_mode="r"))
        streamed[name] = sharded_rows(shards)
    in_memory = {name: torch.from_numpy(values).half() for name, values in TRAIN.items()}
    expected, found = (probe(buffer_rows=buffer_rows).fit(values, LABELS) for values in (in_memory, streamed))
    for name in TRAIN:
        assert torch.equal(expected.heads[name].weight, found.heads[name].weight)
        assert expected.heads[name].validation_accuracies == found.heads[name].validation_accuracies


def test_buffers_read_whole_runs_and_give_every_row_once() -> None:
    source = {"rows": TensorRows(torch.arange(1000.0)[:, None])}
    batches = list(shuffled_batches(source, 64, 512, torch.Generator().manual_seed(0)))
    rows = torch.cat([numbers for numbers, _ in batches])
    assert [len(numbers) for numbers, _ in batches] == [64] * 15 + [40]
    assert rows.sort().values.tolist() == list(range(1000))
    assert all(values["rows"].flatten().tolist() == numbers.tolist() for numbers, values in batches)
    runs = {int(number) // 256 for number in rows[:512]}
    assert len(runs) == 2 or (len(runs) == 3 and 3 in runs)  # the last run has 232 rows
    assert rows[:20].tolist() != sorted(rows[:20].tolist())


def test_batch_normalization_equals_torch() -> None:
    """A head on `BatchNorm1d(affine=False)` trained by torch: MAE's linear probe but for LARS."""
    features, targets = torch.from_numpy(TRAIN["layer 0"]), torch.from_numpy(LABELS)
    head = nn.Sequential(nn.BatchNorm1d(6, affine=False, eps=1e-6), nn.Linear(6, 3))
    start = torch.empty(6, 3).normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head[1].weight.copy_(start.T)
        head[1].bias.zero_()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5 * 100 / 256, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    for rows in torch.randperm(900, generator=torch.Generator().manual_seed(0)).split(100):
        optimizer.zero_grad()
        F.cross_entropy(head(features[rows]), targets[rows]).backward()
        optimizer.step()
        schedule.step()
    expected = head.eval()(torch.from_numpy(VALIDATION["layer 0"])).softmax(1).detach()
    ours = LinearProbe(learning_rates=(0.5,), epochs=1, batch_size=100, normalization="batch")
    ours.fit(features, LABELS, VALIDATION["layer 0"], VALIDATION_LABELS)
    np.testing.assert_allclose(ours.predict_proba(VALIDATION["layer 0"]), expected, atol=1e-5)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="normalization must be one of standardize, batch, none, got 'layer'"):
        JointLinearProbe(normalization="layer")
    with pytest.raises(ValueError, match="buffer_rows must be a multiple of batch_size 256, got 300"):
        JointLinearProbe(buffer_rows=300)
    with pytest.raises(ValueError, match=r"labels must have shape \(899,\)"):
        probe().fit({"a": TRAIN["noise"], "b": TRAIN["noise"][:-1]}, LABELS)
    with pytest.raises(TypeError, match="mapping of names"):
        probe().fit(TRAIN["noise"], LABELS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"outputs \['a'\], validation_features of \['b'\]"):
        probe().fit({"a": TRAIN["noise"]}, LABELS, {"b": TRAIN["noise"]}, LABELS)
    with pytest.raises(RuntimeError, match="JointLinearProbe has not been fitted"):
        probe().predict(TRAIN)
