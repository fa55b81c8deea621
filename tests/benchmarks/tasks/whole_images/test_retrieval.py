"""The retrieval benchmark on a few pictures, from files to result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.encoders import extract, load_encoder
from benchmarks.result import open_run, read_result
from benchmarks.run import main
from benchmarks.tasks.whole_images import retrieval, retrieval_task
from benchmarks.tasks.whole_images.retrieval import Config
from benchmarks.tasks.whole_images.retrieval_task import NoTaskError, exact_scores, make_task
from probes import mean_average_precision, mean_rank, recall_at_k, search
from tests.benchmarks.image_folders import write_classes


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_classes(tmp_path / "data/train", per_class=8, seed=0)
    paths = write_classes(tmp_path / "data/test", per_class=5, seed=1)
    paths[4].write_bytes(b"no image")
    return tmp_path / "data"


def config(data: Path, **options: object) -> Config:
    common = {"data": str(data), "split": "train", "encoder": ("pixels",), "cache": str(data.parent / "cache")}
    return Config(**{**common, "index_kind": ("none",), "duplicates": False, **options})  # type: ignore[arg-type]


def test_leave_one_out_is_scored_by_hand_written_metrics(data: Path, tmp_path: Path) -> None:
    path = retrieval.run(config(data, normalization=("unit", "standardized")), tmp_path / "out")
    result = read_result(path)
    store = extract(load_encoder("pixels"), data, split="train", folder=tmp_path / "cache")
    own = make_task(store, store, "32x32", count=1000, seed=0).query_rows
    assert len(own) == 20, "a fifth is left to choose by"
    for row in result["results"]:
        if row["normalization"] != "unit":
            continue
        rows = store.array(row["output"])
        asked = (search(rows[own], rows, 23, own).ids, store.labels[own], store.labels)
        assert row["mean_average_precision"] == pytest.approx(mean_average_precision(*asked, own))
        assert row["recall_at_5"] == pytest.approx(recall_at_k(*asked, 5, own))
        assert row["mean_rank"] == pytest.approx(mean_rank(*asked, own))
        low, high = row["interval"]
        assert low < row["mean_average_precision"] < high
    named = [(row["output"], row["normalization"]) for row in result["results"]]
    assert named == [(output, kind) for output in ("32x32", "patches") for kind in ("unit", "standardized")]
    run = open_run(path)
    axes = run.axes(run.results[0])
    assert axes["pooling"] == "mean" and axes["resolution"] == 64 and axes["layer"] is None
    assert "excluded by its id" in result["card"]["protocol"] and not (tmp_path / "out/index").exists()
    picture = result["artifacts"].pop("differences") and next(iter(result["artifacts"].values()))
    with Image.open(tmp_path / "out" / picture) as shown:
        assert shown.format == "PNG"


def test_an_image_that_is_alone_in_its_class_is_not_scored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "train/alone").mkdir()
    (data / "train/alone/0.png").write_bytes((data / "train/red/00.png").read_bytes())
    monkeypatch.setattr(retrieval_task, "RANKED_AT_ONCE", 1)
    options = {"encoder": ("pixels", "histogram"), "pooling": ("mean",)}
    for seed in range(3):  # among the queries of one of them
        result = read_result(retrieval.run(config(data, seed=seed, **options), tmp_path / str(seed)))
        assert all(0 < row["mean_average_precision"] < 1 for row in result["results"])
        warned = ["1 of 20 queries have no other image of their class, and are not scored"]
        assert result["card"]["warnings"] in ([], warned)
        if result["card"]["warnings"]:
            break
    else:
        pytest.fail("no seed draws it")


def test_queries_of_another_split_and_indexes(data: Path, tmp_path: Path) -> None:
    options = {"query_split": "test", "index_kind": ("flat", "hnsw", "ivfpq"), "encoder": ("histogram", "pixels")}
    result = read_result(retrieval.run(config(data, **options), tmp_path / "out"))
    assert result["card"]["data"]["queries"].endswith(" test")
    (warning,) = result["card"]["warnings"]
    assert warning.startswith("1 of 15 images could not be read: row 4: ")
    compared = read_result(tmp_path / "out/index")["results"]
    assert [(row["encoder"], row["index"]) for row in compared] == [
        (encoder, kind) for encoder in ("histogram", "pixels") for kind in ("flat", "hnsw")
    ]  # 24 vectors are too few for ivfpq, which costs none of the rest
    for row in compared:
        assert row["neighbours_at_10"] == row["neighbours_at_24"] == 1
        assert row["recall_at_1_below_exact"] == 0 and row["vectors"] == 24


def test_outputs_that_no_index_is_of_are_not_called_unknown(data: Path, tmp_path: Path) -> None:
    options = config(data, outputs=("32x32", "patches"), index_kind=("flat",))
    result = read_result(retrieval.run(options, tmp_path / "out"))
    (indexed,) = read_result(tmp_path / "out/index")["results"]
    assert [row["output"] for row in result["results"]] == ["32x32", "patches"] and indexed["output"] in options.outputs
    cards = [read_result(folder)["card"] for folder in (tmp_path / "out", tmp_path / "out/index")]
    assert cards[0]["warnings"] == cards[1]["warnings"] == []
    assert cards[1]["config"]["outputs"] == [indexed["output"]]


def test_intervals_follow_the_seed(data: Path) -> None:
    store = extract(load_encoder("pixels"), data, split="train", folder=data.parent / "cache")
    task = make_task(store, store, "32x32", count=20, seed=0)
    intervals = [exact_scores(task, seed)[0]["interval"] for seed in (0, 1, 1)]
    assert intervals[0] != intervals[1] == intervals[2]


def test_near_duplicates_of_queries_are_warned_of(data: Path, tmp_path: Path) -> None:
    copied = (data / "train/green/03.png").read_bytes()
    (data / "test/red/02.png").write_bytes(copied)
    result = read_result(retrieval.run(config(data, query_split="test", duplicates=True), tmp_path / "out"))
    assert any(
        "near-duplicate among those" in text and "of 12 evaluation" in text for text in result["card"]["warnings"]
    )


def test_the_same_split_twice_is_each_image_among_the_others(data: Path, tmp_path: Path) -> None:
    results = [
        read_result(retrieval.run(config(data, query_split=split), tmp_path / str(split))) for split in (None, "train")
    ]
    assert results[0]["results"] == results[1]["results"]
    assert "leave-one-out" in results[1]["card"]["protocol"]


def test_near_duplicates_within_a_split_are_those_of_the_queries(data: Path, tmp_path: Path) -> None:
    paths = sorted((data / "train").rglob("*.png"))
    for first, second in ((1, 12), (3, 4)):
        paths[second].write_bytes(paths[first].read_bytes())
    (warning,) = read_result(retrieval.run(config(data, duplicates=True), tmp_path / "all"))["card"]["warnings"]
    asked = np.random.default_rng(0).choice(24, 20, replace=False)
    assert warning.startswith(f"{len({1, 12, 3, 4} & set(asked.tolist()))} of 20 evaluation images have a near")
    options = config(data, duplicates=True, queries=6, seed=1)
    rows = np.sort(np.random.default_rng(1).choice(24, 6, replace=False))
    expected = len({1, 12, 3, 4} & set(rows.tolist()))
    found = read_result(retrieval.run(options, tmp_path / "few"))["card"]["warnings"]
    assert expected and found[0].startswith(f"{expected} of 6 evaluation images have a near")


def test_fewer_queries_are_a_seeded_choice(data: Path, tmp_path: Path) -> None:
    store = extract(load_encoder("pixels"), data, split="train", folder=tmp_path / "cache")
    first, again = (make_task(store, store, "32x32", count=5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.query_rows, again.query_rows)
    assert len(first.queries) == 5 and len(first.gallery) == 24 and (first.own == first.query_rows).all()
    scored, neighbours, _ = exact_scores(first)
    assert neighbours.shape == (5, 23) and not (neighbours == first.own[:, None]).any()
    assert scored["recall_at_10"] == 1


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "classes", per_class=2, seed=0)
    files = sorted((tmp_path / "classes").rglob("*.png"))
    store = extract(load_encoder("pixels"), files, folder=tmp_path / "cache", name="files")
    with pytest.raises(NoTaskError, match="has 0 labelled images to search"):
        make_task(store, store, "32x32", count=5, seed=0)


def test_the_command_prints_tables(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", data, "--split", "train", "--encoder", "histogram", "--index-kind", "flat"]
    options += ["--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    assert main("retrieval", [*map(str, options)]) == 0
    printed = capsys.readouterr().out
    assert "8x8x8" in printed and "mean average precision" in printed
    assert "recall at 1 below exact" in (tmp_path / "out/index/result.md").read_text()
