"""Building and searching an index from the command line."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import timm
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.encoders import load_encoder
from probes.index import VectorIndex
from randar_features import build_index, extract_to_store, open_index
from randar_features.cli import index
from tests.features.stores import content, pictures, save, write
from tests.small_models import small_transformer, write_folder

SCRIPTS = Path(__file__).parents[2] / "scripts"
CLASSES = ("cat", "dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, and ten images in two classes; the last dog is a copy of the first cat, one file is no image."""
    write_folder(tmp_path / "model")
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(5):
            noise = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(5, 0).repeat(5, 1)
            Image.fromarray(noise).save(tmp_path / "images" / name / f"{number}.png")
    copied = (tmp_path / "images/cat/0.png").read_bytes()
    (tmp_path / "images/dog/4.png").write_bytes(copied)
    (tmp_path / "images/cat/2.png").write_bytes(b"no image")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: object) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    if ended.value.code:
        raise SystemExit(errors.getvalue())


def build(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: object) -> Path:
    common = ("--encoder", folder / "model", "--out", folder / "index", "--device", "cpu")
    run(monkeypatch, "build_index.py", folder / "images", *common, *arguments)
    return folder / "index"


def test_a_query_finds_its_copy_and_not_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index = build(monkeypatch, folder, "--spec", "reverse/image/1")
    assert "9 images" in capsys.readouterr().out
    query = folder / "images/cat/0.png"
    outside = folder / "outside.png"
    outside.write_bytes(query.read_bytes())
    files = [arg for kind in ("json", "csv", "grid") for arg in (f"--{kind}", folder / f"found.{kind}")]
    run(monkeypatch, "search_index.py", index, "--images", query, outside, "-k", 3, "--device", "cpu", *files)

    found = json.loads((folder / "found.json").read_text())
    own, other = found["queries"]
    assert own["query"] == {"row": 0, "path": str(query), "label": "cat"} and other["query"]["row"] == 0
    first = own["found"][0]
    assert (first["row"], first["label"], first["rank"]) == (9, "dog", 1)
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    assert other["found"][0]["row"] == 9, "a copy with another path is the same image"
    assert found["features"]["output"] == "reverse/image/1"
    rows = list(csv.DictReader((folder / "found.csv").open()))
    assert len(rows) == 6 and rows[0]["path"] == str(folder / "images/dog/4.png") and rows[0]["query_row"] == "0"
    with Image.open(folder / "found.grid") as grid:
        assert grid.format == "PNG" and grid.width > 4 * 128
    assert "1   1.0000  row 9         dog" in capsys.readouterr().out


def test_rows_of_the_index_are_queries_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index = build(monkeypatch, folder, "--kind", "hnsw", "--normalization", "standardized")
    run(monkeypatch, "search_index.py", index, "--numbers", 9, 1, "-k", 2, "--json", folder / "found.json")
    first, second = json.loads((folder / "found.json").read_text())["queries"]
    assert first["query"]["path"] == str(folder / "images/dog/4.png") and first["found"][0]["row"] == 0
    assert second["query"]["label"] == "cat" and 1 not in [one["row"] for one in second["found"]]
    with pytest.raises(SystemExit, match="error: row 2 is not in the index"):
        run(monkeypatch, "search_index.py", index, "--rows", 2)


def test_an_index_of_other_weights_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build(monkeypatch, folder)
    write_folder(folder / "other")
    save_file(small_transformer(seed=1).state_dict(), folder / "other" / "model.safetensors")
    query = folder / "images/dog/0.png"
    with pytest.raises(SystemExit, match=r"is of other features than the queries: .*weights '\w+', not '\w+'"):
        run(monkeypatch, "search_index.py", index, "--images", query, "--encoder", folder / "other")
    (folder / "model").rename(folder / "moved")
    run(monkeypatch, "search_index.py", index, "--images", query.parent, "--model", folder / "moved", "-k", 1)


def test_images_are_added_to_a_store_and_then_to_its_index(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def extract(append: bool) -> None:
        store, model = folder / "store", str(folder / "model")
        extract_to_store(folder / "images", store, model, layers=[0, 1], device="cpu", progress=False, append=append)

    extract(append=False)
    arguments = [folder / "store", "--spec", "reverse/image/0", "--out", folder / "index"]
    with pytest.raises(SystemExit, match=r"holds several features, choose one by spec: reverse/image/0, rev"):
        run(monkeypatch, "build_index.py", folder / "store", "--out", folder / "index")
    run(monkeypatch, "build_index.py", *arguments)
    new = folder / "images/dog/new.png"
    new.write_bytes((folder / "images/cat/1.png").read_bytes())
    extract(append=True)
    run(monkeypatch, "build_index.py", *arguments)
    assert "10 images" in capsys.readouterr().out
    run(monkeypatch, "search_index.py", folder / "index", "--images", new, "-k", 1, "--json", folder / "found.json")
    (query,) = json.loads((folder / "found.json").read_text())["queries"]
    assert query["query"]["row"] == 10 and query["found"][0]["row"] == 1


def test_class_informed_features_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = save(pictures(4), tmp_path / "images")
    store, plain = tmp_path / "store", tmp_path / "plain"
    write(images, store, content(outputs={"mean colour": {"layer": 0, "classes": "labels"}}), encode=mean_colour)
    write(images, plain, content(outputs={"mean colour": {"layer": 0, "classes": None}}), encode=mean_colour)
    run(monkeypatch, "build_index.py", store, "--out", tmp_path / "index")
    assert "warning: class-informed features: the encoder was given the class (classes='labels')" in told(capsys)
    assert VectorIndex(tmp_path / "index").features["classes"] == "labels"
    run(monkeypatch, "search_index.py", tmp_path / "index", "--rows", 0, "-k", 1)
    assert "warning: class-informed features" in told(capsys)
    run(monkeypatch, "build_index.py", plain, "--out", tmp_path / "plain index")
    assert "warning" not in told(capsys)
    with pytest.raises(SystemExit, match="one index, one kind"):
        run(monkeypatch, "build_index.py", store, plain, "--out", tmp_path / "mixed")


def mean_colour(pixels: Tensor) -> dict[str, Tensor]:
    return {"mean colour": pixels.mean(dim=(2, 3))}


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_too_little_memory_is_refused_with_the_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"error: building a flat index of 10 vectors .* needs .* bytes"):
        build(monkeypatch, folder, "--memory-limit", "1.5 MB")
    with pytest.raises(SystemExit, match="code bytes must divide"):
        build(monkeypatch, folder, "--kind", "ivfpq", "--code-bytes", "7")
    assert not (folder / "index").exists(), "nothing was encoded"
    with pytest.raises(SystemExit):
        build(monkeypatch, folder, "--memory-limit", "much")


def test_images_in_parquet_are_shown_from_the_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((folder / "images").rglob("*.png"))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    parquet.write_table(pa.table({"image": images, "label": [0] * 5 + [1] * 5}), folder / "test.parquet")
    index, model = folder / "index", folder / "model"
    arguments = (folder / "test.parquet", "--model", model, "--out", index, "--kind", "flat")
    run(monkeypatch, "build_index.py", *arguments)
    asked = (index, "--rows", 0, "-k", 2, "--grid", folder / "found.png")
    with pytest.raises(SystemExit, match="no files of their own: name the data by --data"):
        run(monkeypatch, "search_index.py", *asked)
    run(monkeypatch, "search_index.py", *asked, "--data", folder / "test.parquet")
    with Image.open(folder / "found.png") as grid:
        pixels = np.asarray(grid.convert("RGB")).astype(int)
    inside = [pixels[60:120, left : left + 100] for left in (20, 20 + 128 + 2)]
    assert abs(inside[0] - inside[1]).mean() < 3 < inside[0].std(), "the copy, beside the query"
    parquet.write_table(pa.table({"image": images[::-1], "label": [0] * 10}), folder / "other.parquet")
    with pytest.raises(SystemExit, match="not the one that was indexed"):
        run(monkeypatch, "search_index.py", *asked, "--data", folder / "other.parquet")
    with pytest.raises(SystemExit, match="--numbers: expected numbers from 0 to 9, got 10"):
        run(monkeypatch, "search_index.py", index, "--numbers", 10)


def test_a_file_that_is_gone_is_grey_among_those_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(monkeypatch, folder)
    (folder / "images/dog/4.png").unlink()  # a copy of the query
    run(monkeypatch, "search_index.py", folder / "index", "--numbers", 0, "-k", 1, "--grid", folder / "found.png")
    with Image.open(folder / "found.png") as grid:
        assert np.asarray(grid)[60:120, 170:250].std() == 0


def test_orders_are_averaged_and_an_index_that_grows_keeps_its_kind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build(monkeypatch, folder, "--orders", 2, "--kind", "hnsw", "--M", 4)
    assert "orders=2" in capsys.readouterr().out
    Image.new("RGB", (20, 20), "red").save(folder / "images/cat/5.png")
    with pytest.raises(SystemExit, match="M 4, not 8"):
        build(monkeypatch, folder, "--orders", 2, "--M", 8)
    assert len(open_index(folder / "index")) == 9, "nothing was encoded"
    build(monkeypatch, folder, "--orders", 2)
    assert len(open_index(folder / "index")) == 10


def test_a_model_without_reverse_is_indexed_in_the_context_that_it_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(folder / "sister", architecture="llamagen")
    run(
        monkeypatch, "build_index.py", folder / "images", "--encoder", folder / "sister",
        "--out", folder / "index", "--device", "cpu",
    )  # fmt: skip
    assert "output repeat/image/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (["layer 0", "layer 1", "pooled"], "pooled"),
        (["layer 0", "layer 1"], "layer 1"),
        (["vectors", "histogram"], "vectors"),
    ],
)
def test_the_stem_of_a_network_is_not_what_is_indexed(outputs: list[str], expected: str) -> None:
    """Without --output, another encoder than a model is indexed by its pooled or its last features."""
    recommended = index.recommended_output
    layers = {name: {"layer": int(name[-1]) if name[-1].isdigit() else None} for name in outputs}
    assert recommended(SimpleNamespace(outputs=layers)) == expected


@pytest.mark.parametrize("kind", ["file", "function", "features"])
def test_an_encoder_of_the_users_makes_an_index(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str) -> None:
    """Weights in a file, a function that gives a module, and features that were computed elsewhere."""
    if kind == "file":
        save_file(timm.create_model("test_resnet").state_dict(), folder / "weights.safetensors")
    np.save(folder / "features.npy", np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32))
    name = {
        "file": f"timm:test_resnet@32={folder / 'weights.safetensors'}",
        "function": "tests.benchmarks.encoders.test_encoders:make_means",
        "features": f"features:{folder / 'features.npy'}",
    }[kind]
    run(monkeypatch, "build_index.py", folder / "images", "--encoder", name, "--out", folder / "index")
    index = open_index(folder / "index")
    assert index.features["encoder"] == name and len(index) == 10 - (kind != "features")
    if kind == "features":
        found = index.search(np.load(folder / "features.npy"), k=1)
        assert found.ids[:, 0].tolist() == list(range(10))
    else:
        found = index.search([folder / "images/cat/0.png"], k=1, encoder=load_encoder(name))
        assert found.paths[0] == [str(folder / "images/dog/4.png")]


@pytest.mark.parametrize("way", ["command", "function"])
def test_an_index_follows_images_that_moved(monkeypatch: pytest.MonkeyPatch, folder: Path, way: str) -> None:
    """A moved image keeps its number; its path and its label are the new ones. A new image comes last."""
    build(monkeypatch, folder)
    (folder / "images/cat/0.png").rename(folder / "images/dog/zero.png")
    (folder / "images/dog/1.png").rename(folder / "images/dog/renamed.png")
    Image.new("RGB", (20, 20), "red").save(folder / "images/cat/a.png")
    if way == "command":
        build(monkeypatch, folder)
    else:
        build_index(folder / "images", folder / "index", model=str(folder / "model"), device="cpu", progress=False)
    found = open_index(folder / "index")
    names = ["dog/zero", "cat/1", "cat/2", "cat/3", "cat/4", "dog/0", "dog/renamed", "dog/2", "dog/3", "dog/4", "cat/a"]
    assert found.paths == [str(folder / f"images/{name}.png") for name in names]
    assert found.labels.tolist() == [1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0]
