from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from benchmarks import demo, demo_sections
from benchmarks.datasets import digit_pairs, digits, photographs
from benchmarks.report import figures, page
from probes import LogisticProbe, bootstrap_interval
from randar_features import Model, extract_features

SETTINGS = demo.Settings(
    placements=2,
    held_out=2,
    scans=30,
    validation_pairs=4,
    test_pairs=5,
    points=6,
    photograph_scale=2,
    classes=2,
    samples=2,
)


@pytest.fixture(scope="module")
def data(small_model: Model) -> digits.Digits:
    return digits.load_digits(small_model.image_size, placements=2, held_out=2, scans=30, seed=0)


@pytest.fixture(scope="module")
def finished(small_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a whole run writes."""
    out = tmp_path_factory.mktemp("demo")
    run = demo.Demo(small_model, SETTINGS, command="python -m benchmarks.demo --out 'a b'")
    demo.run(run)
    assert demo.write(run, out) == out / "report.html"
    return out


@pytest.fixture(scope="module")
def results(finished: Path) -> dict:
    return json.loads((finished / "results.json").read_text())


def by_name(rows: list[dict]) -> dict[str, dict]:
    return {row["representation"]: row for row in rows}


def test_splits_are_stacked_with_their_own_labels_and_scans(data: digits.Digits):
    assert data.rows == {"train": slice(0, 60), "validation": slice(60, 120), "test": slice(120, 180)}
    sample = digits.PhotoDigits("test", 16, 2, 0)[3]
    assert np.array_equal(data.of("test", data.pixels)[3].permute(1, 2, 0).numpy(), sample.image)
    assert data.labels("test")[3] == sample.label


@pytest.mark.parametrize("context", demo.CONTEXTS)
def test_the_layer_is_the_best_on_validation_and_the_accuracy_that_of_its_probe(
    context: str, data: digits.Digits, small_model: Model, results: dict
):
    given = data.pixels.float() / 255
    features = extract_features(given, small_model, layers=range(3), context=context, pool="mean", progress=False)
    vectors = features.pooled()
    probes = []
    for layer in range(3):
        train, validation = (data.of(split, vectors[:, layer]) for split in ("train", "validation"))
        probe = LogisticProbe(C_grid=digits.C_GRID, refit=False, max_iterations=digits.MAX_ITERATIONS)
        probes.append(probe.fit(train, data.labels("train"), validation, data.labels("validation")))
    scores = [probe.validation_accuracy for probe in probes]
    layer = scores.index(max(scores))
    both = torch.cat([data.of(split, vectors[:, layer]) for split in ("train", "validation")])
    refitted = LogisticRegression(C=probes[layer].C, tol=1e-4, max_iter=digits.MAX_ITERATIONS)
    scale = StandardScaler().fit(both.double())
    refitted.fit(scale.transform(both.double()), np.concatenate([data.labels("train"), data.labels("validation")]))
    tested = scale.transform(data.of("test", vectors[:, layer]).double())
    hits = refitted.predict(tested) == data.labels("test")
    row = by_name(results["classification"])[context]
    assert list(row["validation"].values()) == scores
    assert row["layer"] == layer
    assert row["accuracy"] == hits.mean()
    assert row["interval"] == list(bootstrap_interval(hits.reshape(30, 2).mean(axis=1)))


def test_what_has_no_layers_is_a_level_of_the_chart_and_named_by_its_variant(
    results: dict, finished: Path, monkeypatch: pytest.MonkeyPatch
):
    drawn: list[tuple[dict, dict]] = []
    monkeypatch.setattr(figures, "layer_chart", lambda curves, levels, label: drawn.append((curves, levels)) or b"")
    counts = dict.fromkeys(("train", "validation", "test"), 60)
    demo_sections.classification(results["classification"], counts, lambda *figure: page.Html(""))
    rows = by_name(results["classification"])
    [(curves, levels)] = drawn
    assert curves == {context: list(rows[context]["validation"].values()) for context in demo.CONTEXTS}
    assert levels == {name: max(rows[name]["validation"].values()) for name in ("pixels", "codes")}
    chosen = [cells[1] for cells in demo_sections.classification_table(results["classification"])[1]]
    assert chosen[:2] == ["32x32", rows["codes"]["chosen"]]
    assert chosen[2:] == [f"layer {rows[context]['layer']}" for context in demo.CONTEXTS]
    report = (finished / "report.html").read_text()
    assert "layer None" not in report and "within a tenth of the image" in report


def test_differences_are_to_reverse(results: dict):
    rows = by_name(results["classification"])
    assert list(rows) == ["pixels", "codes", "single", "repeat", "reverse"]
    for row in rows.values():
        assert row["difference"] == pytest.approx(row["accuracy"] - rows["reverse"]["accuracy"])
    assert rows["reverse"]["difference_interval"] == [0, 0]


def test_recall_is_that_of_the_cosines(data: digits.Digits, results: dict):
    pixels = F.adaptive_avg_pool2d(data.pixels.float() / 255, 32).flatten(1)
    cosines = F.normalize(data.of("test", pixels)) @ F.normalize(data.of("train", pixels)).T
    nearest = data.labels("train")[cosines.argsort(dim=1, descending=True)[:, :5].numpy()]
    right = nearest == data.labels("test")[:, None]
    rows = by_name(results["retrieval"])
    assert rows["pixels"]["recall_at_1"] == right[:, 0].mean()
    assert rows["pixels"]["recall_at_5"] == right.any(axis=1).mean()
    drawn = np.random.default_rng(0).permuted(np.tile(data.labels("train"), (4000, 1)), axis=1)[:, :5]
    by_chance = np.mean([(drawn == label).any(axis=1).mean() for label in data.labels("test")])
    assert rows["chance"]["recall_at_5"] == pytest.approx(by_chance, abs=0.02)


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[digit_pairs.Pair]]:
    counts = {"validation": 4, "test": 5}
    return {split: digit_pairs.load_pairs(split, 16, count=n, points=6, seed=0) for split, n in counts.items()}


def brute_force(source: torch.Tensor, target: torch.Tensor, pair: digit_pairs.Pair) -> np.ndarray:
    """Points of `pair` found by the cosines of all pixels of up-sampled maps (G, G, D)."""
    first, second = (
        F.normalize(F.interpolate(maps.permute(2, 0, 1)[None], size=16, mode="bilinear")[0], dim=0)
        for maps in (source, target)
    )
    columns, rows = np.floor(pair.points + 0.5).astype(int).T
    cosines = torch.einsum("dk,dhw->khw", first[:, rows, columns], second)
    best = cosines.flatten(1).argmax(1).numpy()
    return np.stack([best % 16, best // 16], axis=1)


def test_pairs_are_the_same_points_of_one_scan(pairs: dict[str, list[digit_pairs.Pair]]):
    for pair in (*pairs["validation"], *pairs["test"]):
        assert pair.first.scan == pair.second.scan
        assert pair.first.placement != pair.second.placement
        for sample, points in ((pair.first, pair.points), (pair.second, pair.targets)):
            columns, rows = np.floor(points + 0.5).astype(int).T
            assert (sample.mask[rows, columns] == sample.label + 1).all()


def test_the_matching_layer_is_the_best_on_validation_and_its_pck_that_of_all_pixels_compared(
    small_model: Model, pairs: dict[str, list[digit_pairs.Pair]], results: dict
):
    shares: dict[str, list[float]] = {}
    for split, own in pairs.items():
        images = [sample.image for pair in own for sample in (pair.first, pair.second)]
        maps = extract_features(images, small_model, layers=range(3), context="reverse", progress=False).maps
        assert maps is not None
        shares[split] = []
        for layer in range(3):
            hits = []
            for pair, (source, target) in zip(own, maps[:, layer].unflatten(0, (-1, 2)), strict=True):
                distances = np.linalg.norm(brute_force(source, target, pair) - pair.targets, axis=1)
                hits.append((distances <= 1.6).mean())
            shares[split].append(float(np.mean(hits)))
    row = by_name(results["matching"])["reverse"]
    assert row["validation"] == pytest.approx(shares["validation"])
    assert row["layer"] == int(np.argmax(shares["validation"]))
    assert row["image_per_image"] == pytest.approx(shares["test"][row["layer"]])


def test_pixels_and_codes_are_matched_at_the_size_of_tokens(
    small_model: Model, pairs: dict[str, list[digit_pairs.Pair]]
):
    own = pairs["test"]
    pixels, codes = (digit_pairs.pair_maps(name, own, small_model) for name in ("pixels", "codes"))
    second = torch.from_numpy(own[1].second.image).float() / 255
    assert pixels.shape == (5, 2, 1, 4, 4, 48)
    torch.testing.assert_close(pixels[1, 1, 0, 2, 3].view(3, 4, 4).permute(1, 2, 0), second[8:12, 12:16])
    tokens = small_model.tokenizer.encode(second.permute(2, 0, 1)[None])
    torch.testing.assert_close(codes[1, 1, 0].flatten(0, 1), small_model.tokenizer.codes(tokens)[0])


def test_aligned_colours_differ_by_exchanged_and_inverted_channels_alone():
    reference = list(np.random.default_rng(0).random((2, 5, 6, 3)))
    turned = [np.stack([image[..., 2], 1 - image[..., 0], image[..., 1]], axis=-1) for image in reference]
    for image, aligned in zip(reference, photographs.align_colours(turned, reference), strict=True):
        np.testing.assert_allclose(aligned, image)


def test_photographs_keep_their_shape():
    whole = photographs.load_photograph("china.jpg", 427, 1)
    assert whole.shape == (3, 427, 640)
    small = photographs.load_photograph("china.jpg", 64, 16)
    assert small.shape == (3, 64, 96)
    torch.testing.assert_close(small.mean(), whole.mean(), atol=0.01, rtol=0)
    assert photographs.square_crops(16).shape == (4, 3, 16, 16)


def test_the_box_of_a_mask_counts_its_edges():
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[2:5, 1] = mask[3, 6] = 4
    assert digit_pairs.box_size(mask) == (6, 3)


def test_the_report_holds_every_picture_and_fetches_nothing(finished: Path):
    page = (finished / "report.html").read_text()
    names = {"inpainting", "layers", "matches", "neighbours", "outpainting", "photographs", "samples", "steps"}
    pictures = {path.stem: path.read_bytes() for path in finished.glob("*.png")}
    assert set(pictures) == names
    inside = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]*)"', page)]
    assert sorted(inside) == sorted(pictures.values())
    assert not re.search(r"https?:|<script|<link", page)
    assert page.count("<code>python -m benchmarks.demo --out &#x27;a b&#x27;</code></figcaption>") == len(names)


def test_results_say_what_they_were_got_with(small_model: Model, results: dict):
    assert results["weights"] == small_model.weights_hash
    assert results["settings"]["scans"] == 30
    assert results["machine"]["torch"] == torch.__version__
    assert set(results["seconds"]) >= {"classify digits", "match points", "generate"}


def test_the_same_seed_gives_the_same_numbers_and_pictures(small_model: Model, finished: Path, results: dict):
    again = demo.Demo(small_model, SETTINGS)
    demo.run(again)
    for name in ("classification", "retrieval", "matching"):
        assert json.loads(json.dumps(again.results[name])) == results[name]
    for name, png in again.pictures.items():
        assert png == (finished / f"{name}.png").read_bytes(), name
