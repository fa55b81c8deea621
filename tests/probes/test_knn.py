from __future__ import annotations

import math

import faiss
import numpy as np
import pytest

from probes import KNNProbe


def random_data(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((rows, 6), dtype=np.float32), generator.integers(0, 3, rows)


def voted(
    query: np.ndarray, features: np.ndarray, labels: np.ndarray, k: int, temperature: float, banned: int
) -> list[float]:
    """Votes for classes 0, 1, 2, one pair after another."""
    pairs = []
    for row, item in enumerate(features.astype(float)):
        cosine = float(query @ item) / math.sqrt(float(query @ query) * float(item @ item))
        if row != banned:
            pairs.append((-cosine, row))
    votes = [0.0, 0.0, 0.0]
    for negative, row in sorted(pairs)[:k]:
        votes[labels[row]] += math.exp(-negative / temperature)
    return [vote / sum(votes) for vote in votes]


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_a_loop_over_pairs(exclude_self: bool, temperature: float) -> None:
    features, labels = random_data(80, 0)
    queries = features[:20]
    exclude = np.arange(20) if exclude_self else None
    found = KNNProbe(k=(1, 5, 20), temperature=temperature).fit(features, labels).predict_proba(queries, exclude)
    for k in (1, 5, 20):
        expected = [
            voted(query.astype(float), features, labels, k, temperature, row if exclude_self else -1)
            for row, query in enumerate(queries)
        ]
        np.testing.assert_allclose(found[k], expected, atol=1e-5)


def test_one_neighbour_equals_faiss() -> None:
    features, labels = random_data(3000, 0)
    queries, _ = random_data(500, 1)
    index = faiss.IndexFlatIP(6)
    index.add(features / np.linalg.norm(features, axis=1, keepdims=True))
    _, nearest = index.search(queries / np.linalg.norm(queries, axis=1, keepdims=True), 1)
    predicted = KNNProbe(k=1).fit(features, labels).predict(queries)
    np.testing.assert_array_equal(predicted[1], labels[nearest[:, 0]])


def test_a_row_without_itself_follows_its_neighbours() -> None:
    """The first row is mislabelled: it only finds its own label as long as it may vote."""
    features = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0]], np.float32)
    probe = KNNProbe(k=1).fit(features, np.array([5, 2, 2, 5]))
    assert probe.predict(features[:1])[1].tolist() == [5]
    assert probe.predict(features[:1], exclude=[0])[1].tolist() == [2]


def test_ties_go_to_the_lowest_row_and_the_lowest_label() -> None:
    features = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], np.float32)
    probe = KNNProbe(k=(1, 2)).fit(features, np.array([9, 4, 4]))
    assert probe.predict(features[:1]) == {1: [9], 2: [4]}


def test_score_is_the_accuracy_by_k() -> None:
    features, labels = random_data(50, 0)
    probe = KNNProbe(k=(1, 3)).fit(features, labels)
    assert probe.score(features, labels)[1] == 1
    predicted = probe.predict(features, exclude=np.arange(50))
    expected = {k: (found == labels).mean() for k, found in predicted.items()}
    assert probe.score(features, labels, exclude=np.arange(50)) == expected


def test_low_temperatures_do_not_overflow() -> None:
    features, labels = random_data(50, 0)
    found = KNNProbe(k=10, temperature=1e-4).fit(features, labels).predict_proba(features)[10]
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found.argmax(1), labels)


def test_bad_settings_are_refused() -> None:
    features, labels = random_data(50, 0)
    with pytest.raises(ValueError, match="k = 200 needs as many training rows, got 50"):
        KNNProbe().fit(features, labels)
    with pytest.raises(ValueError, match="every k must be ≥ 1"):
        KNNProbe(k=(0, 5))
    with pytest.raises(ValueError, match=r"1 … 49, .*got 50"):
        KNNProbe(k=50).fit(features, labels).predict(features, exclude=np.arange(50))


def shifted_classes(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Four classes in 12 numbers, hidden by a common mean and by one loud axis."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, count)
    centres = generator.standard_normal((4, 12))
    features = centres[labels] + 0.7 * generator.standard_normal((count, 12))
    features[:, 0] *= 40
    return (features + 30).astype(np.float32), labels


def test_whitened_neighbours_are_those_of_scikit_learns_pca() -> None:
    from sklearn.decomposition import PCA

    features, labels = shifted_classes()
    probe = KNNProbe(k=9, normalization="whitened", components=8).fit(features[:300], labels[:300])
    white = PCA(8, whiten=True).fit(features[:300].astype(float))
    expected = KNNProbe(k=9).fit(white.transform(features[:300]), labels[:300]).predict(white.transform(features[300:]))
    np.testing.assert_array_equal(probe.predict(features[300:])[9], expected[9])


def test_normalization_is_chosen_on_held_out_training_images() -> None:
    features, labels = shifted_classes()
    plain = KNNProbe(k=9).fit(features[:300], labels[:300])
    probe = KNNProbe(k=9, normalization="auto").fit(features[:300], labels[:300])
    assert probe.chosen_normalization != "unit"
    key = probe.chosen_normalization, probe.chosen_components
    assert probe.validation_accuracies[key] == max(probe.validation_accuracies.values())
    accuracies = [(each.predict(features[300:])[9] == labels[300:]).mean() for each in (plain, probe)]
    assert accuracies[1] > accuracies[0] + 0.1
    again = KNNProbe(k=9, normalization="auto").fit(features[:300], labels[:300])
    assert again.validation_accuracies == probe.validation_accuracies


def test_impossible_normalizations_are_refused() -> None:
    with pytest.raises(ValueError, match="unit, standardized, whitened, auto"):
        KNNProbe(normalization="white")
    with pytest.raises(ValueError, match="components"):
        KNNProbe(components=3)


@pytest.mark.parametrize("k", [2.7, (1, 2.5), True])
def test_a_number_of_neighbours_is_whole(k: object) -> None:
    with pytest.raises(TypeError, match="k must be integers"):
        KNNProbe(k=k)
