from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.result import read_result
from benchmarks.run import main
from benchmarks.tasks.whole_images import generative_classification as generative
from benchmarks.tasks.whole_images.generative_classification import (
    Config,
    chosen_classes,
    class_log_likelihoods,
    resumed_log_likelihoods,
)
from randar_features import Model, load_model, log_likelihood, sequence
from randar_features.models import RandAR, RandARConfig
from tests.benchmarks.image_folders import write_classes
from tests.small_models import TRANSFORMER, small_transformer, write_folder

BOOST = 2.0


class Planted(RandAR):
    """Under class c the code c has logit `BOOST`, all others 0, whatever was seen before."""

    def forward(self, tokens: Tensor, classes: Tensor, order: Tensor) -> Tensor:  # type: ignore[override]
        logits = torch.zeros(*tokens.shape, self.config.vocab_size)
        logits[torch.arange(len(tokens)), :, classes] = BOOST
        return logits


@pytest.fixture(autouse=True)
def _no_near_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    # To look for them takes most of the time.
    monkeypatch.setattr("benchmarks.tasks.whole_images.labelled.between", lambda *_: [])


def all_of(transformer: RandAR, tokens: Tensor, shortlist: Tensor, orders: Tensor, batch_size: int = 8) -> np.ndarray:
    parts = class_log_likelihoods(transformer, tokens, shortlist, orders, batch_size=batch_size)
    return torch.cat([values for _, values in parts]).numpy()


def test_the_class_of_the_most_frequent_code_wins_by_hand() -> None:
    """Of 16 tokens 5 are code 2, 3 are code 0, none is code 1: each hit is worth BOOST nats, less one constant."""
    transformer = Planted(RandARConfig(**TRANSFORMER)).eval()
    tokens = torch.tensor([[2] * 5 + [0] * 3 + [9] * 8])
    shortlist = torch.tensor([[0, 1, 2]])
    orders = sequence.antithetic_orders(2, 16)
    table = all_of(transformer, tokens, shortlist, orders)
    constant = 16 * np.log(np.exp(BOOST) + TRANSFORMER["vocab_size"] - 1)
    expected = np.array([3, 0, 5]) * BOOST - constant
    np.testing.assert_allclose(table, np.broadcast_to(expected[None, :, None], (1, 3, 2)), rtol=1e-5)
    assert chosen_classes(table, shortlist.numpy(), 2).tolist() == [2]
    without = torch.tensor([[0, 1]])
    assert chosen_classes(all_of(transformer, tokens, without, orders), without.numpy(), 1).tolist() == [0]


def test_equals_each_image_class_and_order_alone() -> None:
    transformer = small_transformer()
    tokens = torch.randint(0, 40, (5, 16), generator=torch.Generator().manual_seed(0))
    shortlist = torch.tensor([[0, 1], [1, 2], [0, 2], [0, 1], [1, 2]])
    orders = sequence.antithetic_orders(3, 16, seed=4)
    table = all_of(transformer, tokens, shortlist, orders, batch_size=4)
    assert table.shape == (5, 2, 3)
    for image in range(5):
        for place, label in enumerate(shortlist[image].tolist()):
            for number, order in enumerate(orders):
                alone = log_likelihood(transformer, tokens[image : image + 1], [label], order).sum().item()
                assert table[image, place, number] == pytest.approx(alone, rel=1e-5)
    np.testing.assert_allclose(
        table[:, 0].mean(1),
        log_likelihood(transformer, tokens, shortlist[:, 0], 3, seed=4).sum(1).numpy(),
        rtol=1e-5,
    )


def test_the_first_orders_are_averaged_and_the_lowest_of_equals_wins() -> None:
    table = np.array([[[0.0, 9.0], [1.0, 0.0]], [[3.0, 1.0], [3.0, 1.0]]])
    shortlist = np.array([[4, 7], [2, 5]])
    assert chosen_classes(table, shortlist, 1).tolist() == [7, 2]
    assert chosen_classes(table, shortlist, 2).tolist() == [4, 2]


def test_what_was_computed_before_is_not_done_again(
    small_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.randint(0, 40, (6, 16), generator=torch.Generator().manual_seed(0))
    shortlist = torch.tensor([[0, 2]] * 6)
    orders = sequence.antithetic_orders(2, 16)
    arguments = (small_model, tokens, shortlist, orders)
    expected = resumed_log_likelihoods(*arguments, tmp_path / "..", batch_size=4)
    calls: list[int] = []

    def interrupted(*given: object, **options: object) -> Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return log_likelihood(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(generative, "log_likelihood", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resumed_log_likelihoods(*arguments, tmp_path, batch_size=4)
    found = resumed_log_likelihoods(*arguments, tmp_path, batch_size=4)
    np.testing.assert_array_equal(found, expected)
    assert len(calls) == 4 + 2 * 2  # two of three parts were left, of two orders each
    resumed_log_likelihoods(*arguments, tmp_path, batch_size=4)
    assert len(calls) == 8
    resumed_log_likelihoods(small_model, tokens, shortlist[:, :1], orders, tmp_path, batch_size=4)
    assert len(calls) > 8


def run(folder: Path, out: Path, *more: str, monkeypatch: pytest.MonkeyPatch) -> dict:
    arguments = ["--data", str(folder / "images"), "--model", str(folder / "model"), "--evaluation-images", "12"]
    arguments += ["--orders", "1", "4", "--cache", str(folder / "cache"), "--out", str(out), *more]
    assert main("generative_classification", [*arguments]) == 0
    return read_result(out)


def test_a_shortlist_of_all_classes_is_the_full_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "model")
    write_classes(tmp_path / "images", per_class=12, seed=0)
    report = run(tmp_path, tmp_path / "all", "--shortlist", "3", monkeypatch=monkeypatch)
    kept = np.load(tmp_path / "all/predictions.npz")

    config = Config(data=str(tmp_path / "images"), model=str(tmp_path / "model"), evaluation_images=12)
    model = load_model(tmp_path / "model")
    _, features, _ = generative.fitted_probe(model, Config(**{**vars(config), "cache": str(tmp_path / "cache")}))
    tokens = generative.image_tokens(model, config, features.evaluation.rows)
    by_class = torch.stack([log_likelihood(model.transformer, tokens, label, 4).sum(1) for label in range(3)], 1)
    np.testing.assert_array_equal(kept["predictions"][1], by_class.argmax(1).numpy())
    np.testing.assert_array_equal(kept["labels"], features.evaluation.labels)

    four = report["results"][1]
    assert [row["orders"] for row in report["results"]] == [1, 4, None]
    assert four["accuracy"] == (kept["predictions"][1] == kept["labels"]).mean()
    assert four["shortlist_recall"] == 1
    probe = report["results"][2]
    assert (probe["probe"], probe["context"], probe["pooling"]) == ("logistic", "reverse", "mean")
    assert four["against_probe"]["difference"] == pytest.approx(four["accuracy"] - probe["accuracy"])

    few = run(tmp_path, tmp_path / "few", "--shortlist", "3", "--images", "5", monkeypatch=monkeypatch)
    chosen = np.sort(np.random.default_rng(0).permutation(12)[:5])
    few_kept = np.load(tmp_path / "few/predictions.npz")
    np.testing.assert_array_equal(few_kept["predictions"], kept["predictions"][:, chosen])
    assert few["card"]["data"]["images"] == "5 of the evaluation images, seed 0"

    one = run(tmp_path, tmp_path / "one", "--shortlist", "1", monkeypatch=monkeypatch)
    assert one["results"][0]["accuracy"] == one["results"][2]["accuracy"] == one["results"][0]["shortlist_recall"]


def test_the_same_labels_or_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "model")
    write_classes(tmp_path / "images", per_class=12, seed=0)
    for option in ("--max-images", "--train-images"):
        assert main("generative_classification", ["--data", str(tmp_path / "images"), option, "20"]) == 2
    fewer = run(
        tmp_path,
        tmp_path / "any",
        "--labels",
        "any",
        "--train-images",
        "20",
        "--shortlist",
        "3",
        monkeypatch=monkeypatch,
    )
    assert not any("against_probe" in row for row in fewer["results"])

    file = tmp_path / "model/config.json"
    config = json.loads(file.read_text())
    for seen, compared in ((24, True), (80_000, False)):
        file.write_text(json.dumps({**config, "training": {"data": {"images": seen}}}))
        report = run(tmp_path, tmp_path / str(seen), "--shortlist", "3", monkeypatch=monkeypatch)
        assert ("against_probe" in report["results"][0]) == compared
        told = [warning for warning in report["card"]["warnings"] if "80,000" in warning and "24" in warning]
        assert bool(told) != compared


def test_other_classes_than_the_models_are_refused(small_model: Model) -> None:
    with pytest.raises(ValueError, match="was trained on 3 classes, the data has 2 classes"):
        generative.check_classes(small_model, ["a", "b"], np.array([0, 1]))
    with pytest.raises(ValueError, match="the data has labels up to 7"):
        generative.check_classes(small_model, None, np.array([0, 7]))
    generative.check_classes(small_model, ["a", "b", "c"], np.array([0, 1]))
    generative.check_classes(small_model, None, np.array([0, 2]))


def test_a_model_of_one_order_is_asked_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "model", architecture="llamagen")
    write_classes(tmp_path / "images", per_class=12, seed=0)
    report = run(tmp_path, tmp_path / "out", "--shortlist", "3", monkeypatch=monkeypatch)
    assert [row["orders"] for row in report["results"]][:1] == [1] and len(report["results"]) == 2
    assert report["card"]["protocol"].endswith("the order that the model was trained in")


def test_other_classes_are_refused_before_features_are_computed(tmp_path: Path) -> None:
    write_folder(tmp_path / "model")
    write_classes(tmp_path / "images", per_class=2, seed=0)
    (tmp_path / "images/blue").rename(tmp_path / "images/other")
    shutil.copytree(tmp_path / "images/other", tmp_path / "images/blue")
    options = {"data": str(tmp_path / "images"), "model": str(tmp_path / "model"), "cache": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match="trained on 3 classes, the data has 4 classes"):
        generative.run(Config(**options), tmp_path / "out")
    assert not (tmp_path / "cache").exists()
