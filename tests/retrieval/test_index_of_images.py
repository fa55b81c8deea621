"""Indexes of images and of tables, from Python."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import randar_features as rf
from probes.index import IndexFilesError, IndexMemoryError
from randar_features.cli.index import IndexOptions, stores_of
from randar_features.retrieval import Hits, Index
from randar_features.retrieval.encoders import ModelEncoder
from randar_features.store.records import escape
from tests.features.stores import Stream
from tests.small_models import write_folder

FLOAT32 = {"device": "cpu", "dtype": torch.float32, "progress": False}
CLASSES = ("cat", "dog")


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise.repeat(5, 0).repeat(5, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, and ten images in two classes, of which cat/2 is no image."""
    write_folder(tmp_path / "model")
    for label, name in enumerate(CLASSES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(5):
            picture(5 * label + number).save(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "images/cat/2.png").write_bytes(b"no image")
    return tmp_path


def build(folder: Path, data: Any = None, **options: Any) -> Index:
    data = folder / "images" if data is None else data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rf.build_index(data, folder / "index", model=str(folder / "model"), **{**FLOAT32, **options})


def test_images_are_searched_with_images(folder: Path) -> None:
    index = build(folder)
    assert len(index) == 9 and index.settings.kind == "flat"
    other = folder / "outside.png"
    picture(7).save(other, compress_level=1)  # the same pixels, other bytes
    hits = rf.open_index(folder / "index").search([folder / "images/cat/0.png", other], k=3)
    assert isinstance(hits, Hits) and hits.ids.shape == (2, 3)
    assert hits.own.tolist() == [0, -1] and 0 not in hits.ids[0]
    assert hits.ids[1, 0] == 7 and hits.scores[1, 0] == pytest.approx(1, abs=1e-5) and hits.scores.max() <= 1
    assert hits.paths[1][0] == str(folder / "images/dog/2.png") and hits.label_of(int(hits.labels[1, 0])) == "dog"
    assert 2 not in hits.ids


def test_orders_are_combined_as_the_spec_says(folder: Path) -> None:
    spec = "reverse/image/1/orders=2/concatenate"
    index = build(folder, spec=spec)
    table = rf.extract_features(
        folder / "images/dog", str(folder / "model"), layers=1, orders=2, combine="concatenate", progress=False
    )
    assert index.features["output"] == spec and index.settings.dim == table[spec].shape[-1]


def test_an_index_that_grows_keeps_the_axes_that_follow_from_the_number_of_images(folder: Path) -> None:
    assert build(folder, normalization="whitened").settings.components == 5
    for number in (5, 6):
        picture(70 + number).save(folder / f"images/dog/{number}.png")
    assert len(build(folder, normalization="whitened")) == 11
    with pytest.raises(IndexFilesError, match="components 5, not 4"):
        build(folder, normalization="whitened", components=4)
    with pytest.raises(IndexFilesError, match="normalization 'whitened', not 'unit'"):
        build(folder)


def test_a_table_is_no_query(folder: Path) -> None:
    table = rf.extract_features(folder / "images/dog", str(folder / "model"), progress=False)
    with pytest.raises(TypeError, match="queries are a table"):
        build(folder).search(table, k=1)


def test_hits_as_a_table(folder: Path) -> None:
    build(folder)
    pandas = pytest.importorskip("pandas")
    hits = rf.open_index(folder / "index").search(folder / "images/dog/4.png", k=2)
    hits.paths[0][0] = "caf\udce9.png"
    found = hits.to_pandas()
    assert found["path"][0] == escape("caf\udce9.png"), "pandas holds UTF-8 alone"
    assert isinstance(found, pandas.DataFrame) and found["rank"].tolist() == [1, 2]
    assert set(found) == {"query", "query_path", "rank", "id", "score", "path", "label"}


def test_the_query_is_left_out_by_content_and_not_by_spelling(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build(folder)
    monkeypatch.chdir(folder)
    (folder / "link.png").symlink_to(folder / "images/cat/1.png")
    (folder / "copy.png").write_bytes((folder / "images/cat/1.png").read_bytes())
    spellings = ["images/cat/1.png", "images/../images/cat/1.png", "link.png", "copy.png"]
    hits = index.search(spellings, k=8)
    assert hits.own.tolist() == [1] * 4 and not (hits.ids == 1).any()
    assert (index.search(spellings, k=1, exclude=[-1] * 4).ids == 1).all()


def test_queries_that_cannot_be_read_keep_their_place(folder: Path) -> None:
    index = build(folder)
    hits = index.search([folder / "images/cat/2.png", folder / "images/cat/3.png"], k=2)
    assert hits.ids[0].tolist() == [-1, -1] and np.isnan(hits.scores[0]).all() and hits.status[0] != "ok"
    assert (hits.ids[1] >= 0).all() and len(hits.to_dicts()) == 2
    with pytest.raises(ValueError, match="not one of the 1 query images"):
        index.search([folder / "images/cat/2.png"])
    with pytest.raises(ValueError, match="no queries"):
        index.search(Stream([]))


def test_new_images_are_added_and_no_other_is_encoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(folder)
    picture(99).save(folder / "images/dog/9.png")
    from randar_features.tokenizers.base import ImageTokenizer

    seen, encode = [], ImageTokenizer.encode

    def counted(self: ImageTokenizer, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(ImageTokenizer, "encode", counted)
    index = build(folder)
    assert sum(seen) == 1 and len(index) == 10
    assert index.search(folder / "images/dog/9.png", k=1, exclude=[-1]).paths == [[str(folder / "images/dog/9.png")]]


def test_a_table_is_searched_with_vectors_and_with_images(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = rf.extract_features(folder / "images", str(folder / "model"), layers=[0, 1], **FLOAT32)
    with pytest.raises(ValueError, match=r"several features, choose one by spec: reverse.*0, reverse.*1"):
        build(folder, table)
    index = build(folder, table, spec="reverse/image/1")
    vectors = table.pooled("mean")[:, 1]
    hits = index.search(vectors[[3, 8]], k=1)
    assert hits.ids[:, 0].tolist() == [3, 8] and hits.own.tolist() == [-1, -1]
    assert index.search(vectors[3], k=1).ids.tolist() == [[3]]
    assert index.search(folder / "images/cat/3.png", k=1, exclude=[-1]).ids.tolist() == [[3]]
    np.testing.assert_array_equal(index.search_own([3], k=4).ids, index.search(vectors[[3]], k=5).ids[:, 1:])
    with pytest.raises(ValueError, match=r"row 0 .*NaN"):
        index.search(vectors[[2]])
    with pytest.raises(ValueError, match=r"exclude must have shape \(2,\)"):
        index.search(vectors[[3, 8]], k=1, exclude=[0])
    with pytest.raises(ValueError, match="holds no 'single/image/1'"):
        build(folder, table, spec="single/image/1")


def test_images_of_one_name_in_a_table_are_told_by_content(folder: Path) -> None:
    files = [folder / "images" / name for name in ("cat/0.png", "dog/0.png")]
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pq.write_table(pa.table({"image": cells}), folder / "table.parquet")
    hits = build(folder, folder / "table.parquet").search(folder / "table.parquet", k=1)
    assert hits.own.tolist() == [0, 1] and hits.ids.tolist() == [[1], [0]]


def test_maps_are_pooled_over_cells(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = rf.extract_features(folder / "images", str(folder / "model"), layers=[1], **FLOAT32)
    index = build(folder, table, pooling="1x1+2x2")
    assert index.settings.dim == 5 * table.maps.shape[-1]
    assert index.search(folder / "images/dog/0.png", k=1, exclude=[-1]).ids.tolist() == [[5]]


def test_classes_of_several_stores_are_told_by_name(folder: Path, tmp_path: Path) -> None:
    """Never by number: class 0 is "cat" in one store and "bee" in the other."""
    for number, name in enumerate(("bee", "cat")):
        (tmp_path / "other" / name).mkdir(parents=True)
        picture(20 + number).save(tmp_path / "other" / name / "0.png")
    flat = tmp_path / "flat.csv"
    flat.write_text("path,label\nother/bee/0.png,0\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"model": str(folder / "model"), "layers": [1], **FLOAT32}
        stores = [
            rf.extract_to_store(folder / name, folder / f"{name} store", **options) for name in ("images", "other")
        ]
        numbered = rf.extract_to_store(flat, folder / "flat store", **options)
    index = build(folder, stores)
    assert index.labels.tolist() == [0] * 5 + [1] * 5 + [2, 0] and index.label_names == ["cat", "dog", "bee"]
    with pytest.raises(ValueError, match=r"have names, those of .*flat store.* only numbers"):
        build(folder, [*stores, numbered])


def test_a_store_that_has_changed_is_noticed(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"layers": [1], **FLOAT32}
        store = rf.extract_to_store(folder / "images", folder / "store", str(folder / "model"), **options)
        build(folder, store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rf.open_index(folder / "index").changes() == []
    picture(50).save(folder / "images/dog/8.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rf.extract_to_store(folder / "images", folder / "store", str(folder / "model"), append=True, **options)
    with pytest.warns(UserWarning, match=r"the store .*store has changed.*Build the index again"):
        rf.open_index(folder / "index")
    assert len(build(folder, folder / "store")) == 10


def test_images_that_have_changed_or_gone_are_noticed(folder: Path) -> None:
    build(folder)
    picture(60).save(folder / "images/cat/4.png")
    (folder / "images/dog/0.png").unlink()
    with pytest.warns(UserWarning, match=r"4\.png has changed; .*0\.png is gone"):
        rf.open_index(folder / "index")


def test_vectors_that_have_changed_are_refused(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = rf.extract_features(folder / "images", str(folder / "model"), layers=[1], **FLOAT32)
    build(folder, table)
    table.maps[4] = table.maps[5]
    with pytest.raises(IndexFilesError, match="holds other vectors"):
        build(folder, table)


def test_a_label_that_has_changed_is_taken(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = rf.extract_features(folder / "images", str(folder / "model"), layers=[1], **FLOAT32)
    build(folder, table)
    table.labels[0] = 1
    assert build(folder, table).labels[0] == 1


def test_another_model_is_refused(folder: Path) -> None:
    from safetensors.torch import save_file

    from tests.small_models import small_transformer

    index = build(folder)
    write_folder(folder / "other")
    save_file(small_transformer(seed=1).state_dict(), folder / "other" / "model.safetensors")
    with pytest.raises(IndexFilesError, match="weights"):
        index.search(folder / "images/cat/0.png", model=str(folder / "other"))
    (folder / "model").rename(folder / "moved")
    fresh = rf.open_index(folder / "index")
    assert fresh.search(folder / "images/cat/0.png", k=1, model=str(folder / "moved")).ids.shape == (1, 1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": "tree"}, "kind"),
        ({"normalization": "white"}, "normalization"),
        ({"pooling": "median"}, "pooling"),
        ({"spec": "nonsense"}, "spec"),
        ({"kind": "hnsw", "M": 1}, "M"),
        ({"seed": -1}, "seed"),
        ({"links": 8}, "links.*M"),
        ({"memory_limit": "1 GB"}, "memory_limit"),
        ({"threads": 0}, "threads"),
        ({"checkpoint_rows": 1.5}, "checkpoint_rows"),
        ({"components": 3}, "components.*unit"),
        ({"kind": "ivfpq", "code_bytes": 7}, "code bytes.*7"),
        ({"memory_limit": 1000}, "10 vectors"),
    ],
)
def test_bad_options_are_refused_before_anything_is_encoded(folder: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, TypeError, IndexMemoryError), match=named):
        build(folder, **options)
    assert not (folder / "index").exists()


def test_normalization_is_chosen_by_labels(tmp_path: Path) -> None:
    """Features with a common mean and one loud, useless axis: whitened ones tell the classes."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    values = generator.standard_normal((200, 8)) * [100, 1, 1, 1, 1, 1, 1, 1]
    values[:, 1:] += 3 * (labels[:, None] * 2 - 1) * [1, 0, 0, 0, 0, 0, 0]
    table = rf.FeatureTable(
        torch.from_numpy(values + 50).float()[:, None],
        [rf.FeatureSpec("reverse", "image", 1)],
        labels=torch.from_numpy(labels),
        paths=[None] * 200,
        status=["ok"] * 200,
        label_names=None,
        details={"classes": None, "model": "none", "weights": "none", "image_size": 8, "pool": "mean"},
    )
    index = rf.build_index(table, tmp_path / "index", normalization="auto", progress=False)
    assert index.settings.normalization != "unit"
    assert rf.build_index(table, tmp_path / "index", normalization="auto", progress=False).settings == index.settings
    unlabelled = copy.copy(table)
    unlabelled.labels = None
    with pytest.raises(ValueError, match="labels"):
        rf.build_index(unlabelled, tmp_path / "other", normalization="auto", progress=False)


def test_a_chosen_normalization_goes_on_after_a_kill(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: dict[str, Any] = {"block_rows": 4, "checkpoint_rows": 4}
    with monkeypatch.context() as patch:
        patch.setattr("probes.index.build._finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(folder, normalization="whitened", components=3, **steps)
    index = build(folder, normalization="auto", **steps)
    assert (index.settings.normalization, index.settings.components) == ("whitened", 3)


def test_names_that_are_not_utf8(folder: Path) -> None:
    name = folder / os.fsdecode(b"caf\xe9.png")
    picture(3).save(str(folder / "plain.png"))
    (folder / "plain.png").rename(name)
    table = rf.extract_features([str(name), str(folder / "images/dog/1.png")], str(folder / "model"), **FLOAT32)
    index = build(folder, table)
    assert index.paths[0] == str(name)
    assert index.search([str(name)], k=1).own.tolist() == [0]


def test_queries_are_computed_in_the_format_of_the_index(folder: Path) -> None:
    index = build(folder, dtype=torch.bfloat16)
    assert index.features["dtype"] == "bfloat16"
    fresh = rf.open_index(folder / "index")
    hits = fresh.search(folder / "images/dog/1.png", k=1, exclude=[-1])
    assert hits.ids.tolist() == [[6]]
    [vectors] = rf.extract_features([folder / "images/dog/1.png"], str(folder / "model"), **FLOAT32).pooled()
    scores = [index.search(vectors, k=1).scores[0, 0], hits.scores[0, 0]]
    assert scores[0] < scores[1] == pytest.approx(1, abs=1e-6)  # float32 against bfloat16 is no copy
    with pytest.raises(ValueError, match="compute_dtype"):
        build(folder, dtype=torch.float32)
    other = ModelEncoder(rf.load_model(str(folder / "model"), "cpu"), index.features["output"], torch.float32)
    with pytest.raises(IndexFilesError, match=r"dtype 'bfloat16', not 'float32'"):
        fresh.search(folder / "images/dog/1.png", encoder=other)


def test_weights_held_in_bfloat16_are_held_so_for_queries(folder: Path) -> None:
    model = rf.load_model(str(folder / "model"), "cpu", dtype="bfloat16")
    index = rf.build_index(folder / "images/dog", folder / "index", model=model, dtype=None, progress=False)
    assert index.features["dtype"] == "bfloat16, weights in bfloat16"
    hits = rf.open_index(folder / "index").search(folder / "images/dog/1.png", k=1, exclude=[-1])
    assert hits.scores[0, 0] == pytest.approx(1, abs=1e-6)


def test_tables_of_two_formats_are_refused(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tables = [
            rf.extract_features(folder / "images", str(folder / "model"), **{**FLOAT32, "dtype": dtype})
            for dtype in (torch.float32, torch.bfloat16)
        ]
    with pytest.raises(ValueError, match=r"bfloat16.*float32"):
        build(folder, tables)


def test_queries_are_read_in_the_value_range_of_the_index(folder: Path) -> None:
    deep = folder / "deep"
    deep.mkdir()
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 4096, (20, 20), dtype=np.uint16)
        Image.fromarray(noise).save(deep / f"{seed}.png")
    index = build(folder, deep, value_range=(0, 4095))
    assert index.features["value_range"] == [0, 4095]
    hits = rf.open_index(folder / "index").search(deep / "2.png", k=1, exclude=[-1])
    assert hits.ids.tolist() == [[2]] and hits.scores[0, 0] == pytest.approx(1, abs=1e-6)


def test_queries_without_a_file_are_left_out_by_content(folder: Path) -> None:
    arrays = [np.asarray(picture(seed)) for seed in range(4)]
    index = build(folder, arrays)
    hits = index.search([arrays[2].copy(), np.asarray(picture(9))], k=3)
    assert hits.own.tolist() == [2, -1] and 2 not in hits.ids[0]
    assert rf.open_index(folder / "index").changes() == []


def test_images_in_parquet_are_left_out_by_content(folder: Path) -> None:
    encoded = [(folder / f"images/dog/{number}.png").read_bytes() for number in range(4)]
    pq.write_table(pa.table({"image": [{"bytes": one, "path": None} for one in encoded]}), folder / "dogs.parquet")
    index = build(folder, folder / "dogs.parquet")
    assert index.search(folder / "images/dog/3.png", k=2).own.tolist() == [3]
    assert index.search(folder / "dogs.parquet", k=1).own.tolist() == [0, 1, 2, 3]
    assert rf.open_index(folder / "index").changes() == []


def test_names_in_tables_are_no_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("one", "cat"), ("two", "dog")):
        encoded = [(folder / f"images/{kind}/{number}.png").read_bytes() for number in (0, 1)]
        rows = [{"bytes": one, "path": f"{number}.png"} for number, one in enumerate(encoded)]
        pq.write_table(pa.table({"image": rows}), folder / f"{name}.parquet")
    monkeypatch.chdir(folder)
    picture(20).save("0.png")  # another image of that name
    index = build(folder, "one.parquet")
    assert index.search("two.parquet", k=1).own.tolist() == [-1, -1]
    assert index.search("one.parquet", k=1).own.tolist() == [0, 1]
    assert index.search("0.png", k=1).own.tolist() == [-1]
    assert rf.open_index(folder / "index").changes() == []


def test_options_of_images_are_refused_for_tables(folder: Path) -> None:
    build(folder)
    store = folder / "index/features"
    with pytest.raises(ValueError, match="split and value_range are for images"):
        rf.build_index(store, folder / "other", split="train")
    with pytest.raises(ValueError, match="--value-range is for images"):
        stores_of(IndexOptions(data=(str(store),), out=folder / "other", value_range=(0, 4095)))
    with pytest.raises(ValueError, match="--encoder is for images"):
        stores_of(IndexOptions(data=(str(store),), out=folder / "other", encoder="pixels"))


@pytest.mark.parametrize(
    "options",
    [{"kind": "flat", "M": 4}, {"kind": "hnsw", "nlist": 4}, {"normalization": "auto", "components": 4}],
)
def test_sizes_that_would_have_no_effect_are_refused(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"got 4 for (flat|hnsw|auto)"):
        rf.build_index(folder / "images", folder / "other", **options)


def test_integers_of_numpy_are_numbers(folder: Path) -> None:
    one = np.int64(1)
    index = build(folder, kind="hnsw", M=2 * one, seed=one, threads=one)
    assert index.settings.M == 2 and len(rf.open_index(folder / "index")) == 9


def test_vectors_in_any_memory_are_searched(folder: Path) -> None:
    index = build(folder)
    vectors = index.vectors.vectors(range(2)).numpy()
    expected = index.search(vectors, k=3).ids
    np.testing.assert_array_equal(index.search(vectors[::-1], k=3).ids, expected[::-1])
    vectors.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(index.search(vectors, k=3).ids, expected)


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 100}, {"k": 2.0}, {"nprobe": 4}, {"efSearch": 0}])
def test_bad_searches_are_refused_before_the_queries_are_encoded(
    folder: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(folder)
    monkeypatch.setattr("randar_features.retrieval.search.encode", None)
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        index.search(folder / "images/cat/0.png", **options)


def test_options_are_refused_before_a_folder_is_made(folder: Path):
    for wrong in ({"threads": None}, {"threads": 0}, {"seed": 2**63}, {"batch_size": True}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            rf.build_index(folder / "images", folder / "index", model=str(folder / "model"), **{**FLOAT32, **wrong})
        assert not (folder / "index").exists()


def test_a_search_refuses_what_is_no_model_no_encoder_and_no_image(folder: Path):
    index = rf.build_index(folder / "images", folder / "index", model=str(folder / "model"), **FLOAT32)
    for wrong in ({"model": ""}, {"model": False}, {"encoder": 1}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            index.search(picture(0), k=1, **wrong)
    with pytest.raises((TypeError, ValueError), match="ids"):
        index.search_own(3)  # type: ignore[arg-type]


def test_queries_take_a_value_range_in_an_array_and_a_whole_batch_size(folder: Path) -> None:
    index = rf.build_index(folder / "images", folder / "index", model=str(folder / "model"), **FLOAT32)
    expected = index.search(picture(0), k=1, value_range=(0, 255))
    assert index.search(picture(0), k=1, value_range=np.array([0, 255])).ids == expected.ids
    for wrong in ({"batch_size": True}, {"batch_size": np.array([1, 2])}, {"batch_size": 0}, {"value_range": ""}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            index.search(picture(0), k=1, **wrong)
