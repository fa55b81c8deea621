"""The report for a GPU, on the processor with tiny models: that it is whole, and that nothing stops it."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.run import main
from benchmarks.speed import gpu_report, throughput, training_speed
from benchmarks.speed.gpu_report import Config, measure_part, within_limit

SMALL = {"num_layers": 2, "num_heads": 2, "dim": 16, "vocab_size": 12, "num_tokens": 9}


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(throughput.SIZES, "small", SMALL)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    for module in (gpu_report, training_speed):
        monkeypatch.setattr(module, "matrix_peak", lambda dtype, device: 1e11)


def jobs_of(*works: Any) -> Any:
    def jobs(config: Config) -> Iterator[gpu_report.Job]:
        yield from (({"number": number}, work) for number, work in enumerate(works))

    return jobs


def fails() -> dict[str, Any]:
    raise RuntimeError("CUDA out of memory")


def test_a_page_of_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gpu_report, "within_limit", lambda part, config, progress, _: measure_part(part, config, progress)
    )
    monkeypatch.setitem(gpu_report.PARTS, "tests", jobs_of(lambda: {"status": 0, "passed": 6}))
    sizes = [
        "--model",
        "small",
        "--batch-size",
        "2",
        "3",
        "--generation-batch",
        "1",
        "--steps",
        "4",
        "--training-batch",
        "2",
    ]
    assert main("gpu_report", [*sizes, "--repeats", "1", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "result.json").read_text())
    entries = content["results"]
    assert content["card"]["warnings"] == [] and content["card"]["details"]["device"]
    of = {part: [entry for entry in entries if entry["part"] == part] for part in gpu_report.PARTS}
    assert [entry["batch_size"] for entry in of["features"]] == [2, 3, 2]
    assert of["features"][-1]["blocks"] == "compiled" and of["features"][0]["least_cosine_similarity"] > 0.999
    published, *ours = of["generation"]
    assert published["way"] == "published loop" and published["times_published"] == 1 and ours
    assert ours[0]["times_published"] == pytest.approx(published["seconds"] / ours[0]["seconds"])
    assert [entry["way"] for entry in of["training"]] == ["this package, compiled", "this package", "published"]
    assert all(entry["mfu"] > 0 and entry["memory_bytes"] > 0 for entry in of["training"])
    page = (tmp_path / "result.md").read_text()
    assert all(word in page for word in ("passed", "share of peak", "times published", "mfu"))
    assert not (tmp_path / gpu_report.PROGRESS).exists()


def test_what_fails_is_reported_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_report.PARTS, "features", jobs_of(fails, lambda: {"images_per_second": 2.0}))
    measure_part("features", Config(), tmp_path / "lines")
    failed, done = map(json.loads, (tmp_path / "lines").read_text().splitlines())
    assert failed == {"part": "features", "number": 0, "error": "RuntimeError: CUDA out of memory"}
    assert done == {"part": "features", "number": 1, "images_per_second": 2.0}
    assert gpu_report.page(tmp_path / "lines", Config()).warnings == ["features: RuntimeError: CUDA out of memory"]


@pytest.mark.parametrize(("work", "said"), [(lambda: time.sleep(60), "after 0.2 s"), (lambda: os._exit(7), "status 7")])
def test_what_hangs_or_crashes_is_stopped_and_named(
    work: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _, real=multiprocessing.get_context: real("fork"))
    monkeypatch.setitem(gpu_report.PARTS, "features", jobs_of(lambda: {"images_per_second": 2.0}, work))
    within_limit("features", Config(), tmp_path / "lines", 0.2 if "after" in said else 20)
    *measured, ended = map(json.loads, (tmp_path / "lines").read_text().splitlines())
    assert said in ended["error"]
    assert "after" in said or measured == [{"part": "features", "number": 0, "images_per_second": 2.0}]


def test_the_tests_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        returncode, stderr = 1, ""
        stdout = "FAILED tests/a.py::test_b - boom\n1 failed, 5 passed, 2 skipped in 3 s"

    monkeypatch.setattr("subprocess.run", lambda *_, **__: Done)
    found = gpu_report.run_tests()
    assert found == {"status": 1, "failed": 1, "passed": 5, "skipped": 2, "error": "FAILED tests/a.py::test_b - boom"}


def test_the_limits_fit_into_eight_minutes() -> None:
    assert sum(gpu_report.LIMITS.values()) < 8 * 60 and set(gpu_report.LIMITS) == set(gpu_report.PARTS)
    assert gpu_report.Config().folder("gpu_report").parent.name == "gpu"
