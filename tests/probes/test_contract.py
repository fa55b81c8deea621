"""What every classifier among the probes promises, whatever its method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from probes import (
    AttentiveProbe,
    KNNProbe,
    LinearProbe,
    LinearSegmenter,
    LogisticProbe,
    LogisticSegmenter,
    match_points,
    positional_basis,
    rank_all,
    remove_basis,
    similarity_maps,
)
from probes.generation import kernel_distance, manifold_scores
from probes.retrieval import ExactGallery, best_rows

PROBES: dict[str, Callable[[], Any]] = {
    "logistic": lambda: LogisticProbe(C_grid=(0.01, 1.0)),
    "linear": lambda: LinearProbe(learning_rates=(0.1, 1.0), epochs=10, batch_size=32),
    "knn": lambda: KNNProbe(k=(3, 9)),
}


@pytest.fixture(params=PROBES)
def make(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return PROBES[request.param]


def clusters(rows_per_class: int = 40, width: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three well separated clusters with labels 3, 7 and 42, float32 (3 rows_per_class, width)."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([3, 7, 42], rows_per_class)
    centres = {3: np.eye(width)[0], 7: np.eye(width)[1], 42: np.eye(width)[2]}
    noise = generator.standard_normal((len(labels), width))
    features = 5 * np.stack([centres[label] for label in labels]) + 0.5 * noise
    return features.astype(np.float32), labels


def predictions(probe: Any, features: Any) -> np.ndarray:
    """One array whatever the probe returns."""
    predicted = probe.predict(features)
    return np.stack(list(predicted.values())) if isinstance(predicted, dict) else predicted


def probabilities(probe: Any, features: Any) -> np.ndarray:
    predicted = probe.predict_proba(features)
    return np.stack(list(predicted.values())) if isinstance(predicted, dict) else predicted


def test_separated_clusters_are_told_apart_with_their_own_labels(make: Callable[[], Any]) -> None:
    features, labels = clusters()
    probe = make().fit(features, labels)
    test_features, test_labels = clusters(seed=1)
    predicted = predictions(probe, test_features)
    assert predicted.dtype == np.int64
    assert (predicted == test_labels).mean() == 1.0
    assert probe.classes.tolist() == [3, 7, 42]


def test_probabilities_sum_to_one_and_agree_with_predictions(make: Callable[[], Any]) -> None:
    features, labels = clusters()
    probe = make().fit(features, labels)
    table = probabilities(probe, features[::7])
    np.testing.assert_allclose(table.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(probe.classes[table.argmax(-1)], predictions(probe, features[::7]))


def test_the_same_seed_gives_the_same_result(make: Callable[[], Any]) -> None:
    features, labels = clusters()
    first, second = (probabilities(make().fit(features, labels), features) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
@pytest.mark.parametrize("name", [*PROBES, "attentive", "segmenter", "logistic segmenter"])
def test_numbers_do_not_depend_on_the_modes_of_the_caller(name: str, mode: Callable[[], Any]) -> None:
    def found(kind: Callable[[Tensor], Tensor]) -> np.ndarray:
        features, labels = clusters(rows_per_class=16, width=8)
        tokens = kind(torch.from_numpy(features).reshape(16, 3, 1, 8))
        if name == "attentive":
            probe = AttentiveProbe(num_heads=2, learning_rates=[0.01], epochs=1, batch_size=16, validation_fraction=0.5)
            return probe.fit(tokens[:, :, 0], np.arange(16) % 2).predict_proba(tokens[:, :, 0])
        if "segmenter" in name:
            probe = LinearSegmenter(2, learning_rates=[0.01], iterations=3, pixels=9, batch_size=2)
            probe = probe if name == "segmenter" else LogisticSegmenter(2, C_grid=[1.0])
            masks = [np.uint8([[row % 2] * 4, [1] * 4, [0] * 4]) for row in range(16)]
            return probe.fit(list(tokens), masks).scores(tokens[0]).numpy()
        return probabilities(PROBES[name]().fit(kind(torch.from_numpy(features)), labels), features)

    expected = found(lambda values: values)
    with mode():
        np.testing.assert_array_equal(found(lambda values: values * 1), expected)


def of_vectors(values: Tensor) -> dict[str, Any]:
    """Numbers of vectors (64, 32) by functions that are no estimators."""
    maps, points = values.view(4, 4, 4, 32), np.array([[0.0, 1.0], [9.0, 5.0]])
    sizes = {"source_size": (11, 12), "target_size": (13, 11)}
    gallery = ExactGallery(values, values.device)
    return {
        "manifold_scores": np.array(manifold_scores(values[:24], values[24:])),
        "kernel_distance": kernel_distance(values[:24], values[24:]),
        "similarity_maps": similarity_maps(maps[0], maps[1], points, **sizes),
        "match_points": match_points(maps[0], maps[1], points, **sizes),
        "remove_basis": remove_basis(maps, positional_basis(maps, 2)),
        "nearest of a gallery": best_rows(values, gallery, torch.full((64,), -1), 3).similarities,
        "rank_all": rank_all(values, values).similarities,
    }


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_functions_do_not_depend_on_the_modes_of_the_caller_either(mode: Callable[[], Any]) -> None:
    values = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    expected = of_vectors(values)
    with mode():
        found = of_vectors(values * 1)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_numbers_do_not_depend_on_the_default_format_of_torch(make: Callable[[], Any]) -> None:
    features, labels = clusters()
    expected = probabilities(make().fit(features, labels), features)
    torch.set_default_dtype(torch.float64)
    try:
        found = probabilities(make().fit(features, labels), features)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found, expected)


def test_torch_and_numpy_and_read_only_and_strided_inputs_agree(make: Callable[[], Any]) -> None:
    features, labels = clusters()
    read_only = features.copy()
    read_only.flags.writeable = False
    backwards = np.ascontiguousarray(features[::-1])[::-1]
    expected = probabilities(make().fit(features, labels), features)
    for same in (torch.from_numpy(features), read_only, backwards):
        found = probabilities(make().fit(same, torch.from_numpy(labels)), same)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_accepted(make: Callable[[], Any], dtype: torch.dtype) -> None:
    features, labels = clusters()
    probe = make().fit(torch.from_numpy(features).to(dtype), labels)
    assert (predictions(probe, torch.from_numpy(features).to(dtype)) == labels).mean() == 1.0


def test_inputs_are_left_as_they_were(make: Callable[[], Any]) -> None:
    features, labels = clusters()
    features_before, labels_before = features.copy(), labels.copy()
    predictions(make().fit(features, labels), features)
    np.testing.assert_array_equal(features, features_before)
    np.testing.assert_array_equal(labels, labels_before)


def test_prediction_of_a_row_does_not_depend_on_its_company(make: Callable[[], Any]) -> None:
    features, labels = clusters()
    probe = make().fit(features, labels)
    together = probabilities(probe, features[:20])
    alone = np.concatenate([probabilities(probe, features[i : i + 1]) for i in range(20)], axis=-2)
    np.testing.assert_allclose(together, alone, atol=1e-6)


def replaced(features: np.ndarray, row: int, value: float) -> np.ndarray:
    changed = features.copy()
    changed[row, 1] = value
    return changed


FEATURES, LABELS = clusters()
BAD_INPUT = {
    "three axes": (FEATURES[None], LABELS, ValueError, r"shape \(n, D\).*\(1, 120, 6\)"),
    "no rows": (FEATURES[:0], LABELS[:0], ValueError, r"not be empty.*\(0, 6\)"),
    "NaN": (replaced(FEATURES, 17, np.nan), LABELS, ValueError, "row 17 of 120 holds NaN or infinity"),
    "infinity": (replaced(FEATURES, 5, np.inf), LABELS, ValueError, "row 5 of 120 holds NaN or infinity"),
    "integers": (FEATURES.astype(np.uint8), LABELS, TypeError, "floats.*uint8"),
    "objects": (FEATURES.astype(object), LABELS, TypeError, "floats.*object"),
    "a list": (FEATURES.tolist(), LABELS, TypeError, "numpy array or a torch tensor, got list"),
    "fewer labels": (FEATURES, LABELS[:-1], ValueError, r"labels must have shape \(120,\), got \(119,\)"),
    "float labels": (FEATURES, LABELS.astype(float), TypeError, "labels must be integers.*float64"),
    "missing label": (FEATURES, [None, *LABELS[1:]], TypeError, "labels must be integers.*object"),
    "negative label": (FEATURES, LABELS - 4, ValueError, "labels must be ≥ 0, got -1"),
    "one class": (FEATURES, np.full(120, 7), ValueError, "at least 2 classes.*only class 7"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_training_data_is_refused(make: Callable[[], Any], case: str) -> None:
    features, labels, error, message = BAD_INPUT[case]
    with pytest.raises(error, match=message):
        make().fit(features, labels)


def test_bad_queries_are_refused(make: Callable[[], Any]) -> None:
    probe = make().fit(FEATURES, LABELS)
    with pytest.raises(ValueError, match=r"\(n, 6\) as in fit, got \(120, 5\)"):
        probe.predict(FEATURES[:, :5])
    with pytest.raises(ValueError, match="row 2 of 120 holds NaN"):
        probe.predict(replaced(FEATURES, 2, np.nan))


@pytest.mark.parametrize("name", ["logistic", "linear"])
def test_validation_rows_of_another_width_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"validation_features must have shape \(n, 6\) as in fit, got \(120, 5\)"):
        PROBES[name]().fit(FEATURES, LABELS, FEATURES[:, :5], LABELS)


def test_predicting_before_fitting_says_so(make: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match="call fit"):
        predictions(make(), FEATURES)
