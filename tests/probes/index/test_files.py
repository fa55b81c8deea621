"""The folder of an index: whose files are whose, and what is refused before it is read."""

from __future__ import annotations

import json
import multiprocessing
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from probes.index import KINDS, IndexFilesError, VectorIndex, faiss_file
from probes.index.files import checksum, file_record, locked
from tests.full_disk import full_disk
from tests.probes.index.clusters import build, clusters, small_settings

USERS = ("index-notes.txt", "columns-of-my-table.csv", "vectors-old.bin", "normalization-plan.md", "photo.writing")


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest | {"checksum": checksum(manifest)}))


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    with full_disk(10_000), pytest.raises(OSError, match=r"could not write .*index-\d+\.faiss"):
        build(tmp_path, clusters(500), "flat")
    assert not list(tmp_path.glob("*.faiss.writing"))


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_user_are_kept(tmp_path: Path, kind: str) -> None:
    for name in USERS:
        (tmp_path / name).write_text("mine")
    rows = clusters(1000)
    build(tmp_path, rows[:700], kind, settings=small_settings(kind, 700), checkpoint_rows=256)
    build(tmp_path, rows, kind, checkpoint_rows=256)
    assert all((tmp_path / name).read_text() == "mine" for name in USERS)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    own = {record["name"] for record in manifest["files"].values()} | {"manifest.json", ".lock"}
    assert {path.name for path in tmp_path.iterdir()} == own | set(USERS)


def test_a_file_of_the_user_is_not_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "index-000000000000.faiss"
    mine.write_text("mine")
    with pytest.raises(IndexFilesError, match=r"index-000000000000.faiss is there"):
        build(tmp_path, clusters(300), "flat")
    assert mine.read_text() == "mine"
    (tmp_path / "manifest.json").write_text('{"format": 1, "outputs": {}}')
    with pytest.raises(IndexFilesError, match=r"manifest.json is no manifest of an index"):
        build(tmp_path, clusters(300), "flat")
    assert json.loads((tmp_path / "manifest.json").read_text())["outputs"] == {}


def test_what_a_kill_left_over_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a file was written and before a state named it, and while one was written aside."""
    rows = clusters(1000)
    build(tmp_path / "whole", rows, "flat", checkpoint_rows=256)
    write = faiss.write_index

    class KilledError(BaseException):
        pass

    def write_half(index: Any, *args: Any) -> None:
        write(index, *args)
        if index.ntotal == 512:
            raise KilledError

    monkeypatch.setattr(faiss, "write_index", write_half)
    with pytest.raises(KilledError):
        build(tmp_path / "parts", rows, "flat", checkpoint_rows=256)
    assert (tmp_path / "parts" / "index-000000000512.faiss.writing").exists()
    monkeypatch.undo()
    build(tmp_path / "parts", rows, "flat", checkpoint_rows=768)
    contents = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "parts")]
    assert contents[0] == contents[1]


def test_a_link_in_place_of_a_file_aside_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine")
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("building.json", "manifest.json"):
        (folder / f"{name}.writing").symlink_to(other)
    build(folder, clusters(300), "flat")
    assert other.read_text() == "mine"


def test_lists_on_disk_are_refused_before_faiss_maps_them(tmp_path: Path) -> None:
    """The checksum is right, as in a folder made to harm: the layout alone tells."""
    build(tmp_path / "index", clusters(), "ivfpq")
    path = next((tmp_path / "index").glob("index-*.faiss"))
    index, mapped = faiss.read_index(str(path)), tmp_path / "lists.bin"
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(mapped))
    index.replace_invlists(lists)
    index.add(clusters(10))
    faiss.write_index(index, str(path))
    change_manifest(tmp_path / "index", lambda m: m["files"].update(index=file_record(path)))
    mapped.unlink()
    for verify in (True, False):
        with pytest.raises(IndexFilesError, match=rf"{path.name} holds 'ilod'"):
            VectorIndex(tmp_path / "index", verify=verify)
    assert not mapped.exists()


def places_of_numbers(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the counts and sizes of eight bytes lie in a file of faiss."""
    places, take = [], faiss_file._Layout.take

    def noted(self: Any, layout: str) -> tuple[Any, ...]:
        start = self.file.tell()
        if layout[:-1].isdigit() and layout.endswith("Q"):  # the sizes of all lists: the first stands for them
            places.append(start)
        else:
            places.extend(start + struct.calcsize("<" + layout[:at]) for at, kind in enumerate(layout) if kind in "qQ")
        return take(self, layout)

    with monkeypatch.context() as patch, path.open("rb") as file:
        patch.setattr(faiss_file._Layout, "take", noted)
        faiss_file.checked_header(path, file)
    return places


@pytest.mark.parametrize("value", [2**62, 2**31 - 1, -1])
def test_absurd_numbers_are_refused_or_mean_nothing(
    tmp_path: Path, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each count and size of a file of lists, as a forger writes them who puts the checksum right."""
    rows = clusters(600)
    expected = build(tmp_path, rows, "ivfpq", settings=small_settings("ivfpq", 600)).search(rows[:3], 4).ids
    path = next(tmp_path.glob("index-*.faiss"))
    content, places = path.read_bytes(), places_of_numbers(path, monkeypatch)
    taken = 0
    for place in places:
        forged = bytearray(content)
        forged[place : place + 8] = value.to_bytes(8, "little", signed=True)
        path.write_bytes(forged)
        change_manifest(tmp_path, lambda m: m["files"].update(index=file_record(path)))
        try:
            found = VectorIndex(tmp_path).search(rows[:3], 4).ids
        except IndexFilesError as error:
            assert path.name in str(error)
        else:
            np.testing.assert_array_equal(found, expected)
            taken += 1
    assert len(places) == 19 and taken == 5  # lists to look into, and two numbers in each header that faiss ignores


@pytest.mark.parametrize(
    "inner", [faiss.IndexLSH(16, 8), faiss.IndexFlatL2(16), faiss.IndexIDMap(faiss.IndexFlatIP(16))]
)
def test_other_kinds_of_faiss_are_refused(tmp_path: Path, inner: Any) -> None:
    build(tmp_path, clusters(300), "flat")
    path = next(tmp_path.glob("index-*.faiss"))
    faiss.write_index(inner, str(path))
    change_manifest(tmp_path, lambda m: m["files"].update(index=file_record(path)))
    with pytest.raises(IndexFilesError, match=path.name):
        VectorIndex(tmp_path)


def test_a_graph_whose_links_lead_out_of_it_is_refused(tmp_path: Path) -> None:
    build(tmp_path, clusters(300), "hnsw", settings=small_settings("hnsw", 300))
    path = next(tmp_path.glob("index-*.faiss"))
    index = faiss.read_index(str(path))
    links = faiss.rev_swig_ptr(index.hnsw.neighbors.data(), index.hnsw.neighbors.size())
    links[0] = 10**6
    faiss.write_index(index, str(path))
    change_manifest(tmp_path, lambda m: m["files"].update(index=file_record(path)))
    with pytest.raises(IndexFilesError, match=rf"{path.name} is damaged"):
        VectorIndex(tmp_path)


@pytest.mark.parametrize("name", ["../outside.parquet", "/etc/hostname", "", "manifest.json", "a\x00b", 3, None])
def test_files_outside_the_folder_are_refused(tmp_path: Path, name: Any) -> None:
    build(tmp_path / "index", clusters(300), "flat")
    (tmp_path / "outside.parquet").write_bytes(b"PAR1")
    change_manifest(tmp_path / "index", lambda m: m["files"]["columns"].update(name=name))
    with pytest.raises(IndexFilesError, match=r"manifest.json"):
        VectorIndex(tmp_path / "index")


def test_links_to_files_outside_are_refused(tmp_path: Path) -> None:
    index = build(tmp_path / "index", clusters(300), "flat")
    path = tmp_path / "index" / index.manifest["files"]["columns"]["name"]
    path.rename(tmp_path / "moved.parquet")
    path.symlink_to(tmp_path / "moved.parquet")
    with pytest.raises(IndexFilesError, match=rf"{path.name} is no file of the folder"):
        VectorIndex(tmp_path / "index")


CHANGES: list[Callable[[dict[str, Any]], Any]] = [
    lambda m: m.pop("settings"),
    lambda m: m.pop("rows"),
    lambda m: m.update(rows=10**15),
    lambda m: m.update(rows=-1),
    lambda m: m.update(left_out=[-3]),
    lambda m: m.update(left_out="abc"),
    lambda m: m.update(features=[]),
    lambda m: m["settings"].update(kind="tree"),
    lambda m: m["settings"].update(kind="flat"),
    lambda m: m["settings"].update(dim=17),
    lambda m: m["settings"].update(dim=None),
    lambda m: m["settings"].pop("M"),
    lambda m: m["settings"].update(more=1),
    lambda m: m["settings"].update(normalization="unit"),
    lambda m: m["settings"].update(normalization="whitened"),
    lambda m: m["files"].pop("index"),
    lambda m: m["files"].pop("vectors"),
    lambda m: m["files"].pop("normalization"),
    lambda m: m["files"]["vectors"].update(bytes=10),
    lambda m: m["files"]["index"].pop("sha256"),
    lambda m: m.update(files=[]),
    lambda m: m.update(format=1),
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_an_altered_manifest_is_named(tmp_path: Path, number: int) -> None:
    settings = small_settings("ivfpq", 600, normalization="standardized")
    build(tmp_path, clusters(600), "ivfpq", settings=settings)
    change_manifest(tmp_path, CHANGES[number])
    with pytest.raises(IndexFilesError, match=r"manifest\.json|\.faiss|\.npy|\.bin"):
        VectorIndex(tmp_path)


def test_a_changed_manifest_is_noticed(tmp_path: Path) -> None:
    build(tmp_path, clusters(300), "flat")
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"features": {"encoder": "other"}}))
    with pytest.raises(IndexFilesError, match=r"manifest\.json was altered"):
        VectorIndex(tmp_path)


@pytest.mark.parametrize("name", ["index", "normalization", "columns"])
def test_torn_files_are_named_where_their_checksum_says_they_are_whole(tmp_path: Path, name: str) -> None:
    """As where a file was torn before its checksum was taken; no exception but the one that names the file."""
    settings = small_settings("ivfpq", 600, normalization="whitened", components=8, training_rows=600)
    index = build(tmp_path, clusters(600), "ivfpq", settings=settings)
    path = tmp_path / index.manifest["files"][name]["name"]
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for length in [0, 3, 4, 30, *generator.integers(len(whole), size=12).tolist(), len(whole) - 1]:
        path.write_bytes(whole[:length])
        change_manifest(tmp_path, lambda m: m["files"].update({name: file_record(path)}))
        with pytest.raises(IndexFilesError, match=path.name):
            VectorIndex(tmp_path).columns  # noqa: B018


def test_deep_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(IndexFilesError, match=r"manifest.json"):
        VectorIndex(tmp_path)


def test_columns_are_written_anew_where_they_changed(tmp_path: Path) -> None:
    """An image that was moved to another class: the vectors stay, the label does not."""
    rows = clusters(300)
    build(tmp_path, rows, "flat", columns={"label": [0] * 300})
    first = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.faiss")}
    index = build(tmp_path, rows, "flat", columns={"label": [0] * 299 + [1]})
    assert index.columns["label"][299].as_py() == 1
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.faiss")} == first
    index = build(tmp_path, rows, "flat", columns={"label": [2] * 300})
    assert index.columns["label"][0].as_py() == 2 and len(list(tmp_path.glob("columns-*"))) == 1


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    folder = tmp_path / os.fsdecode(b"index-\xe9")
    index = build(folder, clusters(300), "flat", columns={"path": [name] * 300})
    assert os.fsdecode(index.columns["path"][0].as_py()) == name
    assert VectorIndex(folder).search(clusters(300)[:1], 1).ids[0, 0] == 0


def hold(folder: Path, held: Any, end: Any) -> None:
    with locked(folder):
        held.set()
        end.wait(30)


def test_a_second_builder_is_told_of_the_first(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, held, end))
    process.start()
    assert held.wait(30)
    try:
        with pytest.raises(IndexFilesError, match="is being built by another process"):
            build(tmp_path, clusters(300), "flat")
    finally:
        end.set()
        process.join()
    build(tmp_path, clusters(300), "flat")


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_of_a_few_vectors_works(tmp_path: Path, kind: str) -> None:
    rows = clusters(5)
    rows[1] = np.nan
    index = build(tmp_path, rows, kind, settings=small_settings(kind, 5, nlist=None, training_rows=None))
    found = index.search(rows[[0, 2, 3, 4]], 4)
    assert found.ids[:, 0].tolist() == [0, 2, 3, 4] and found.similarities.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_whitened_is_what_scikit_learn_whitens(tmp_path: Path, kind: str) -> None:
    from sklearn.decomposition import PCA

    from probes import search

    rows = clusters(600) + 20  # a mean that hides what varies
    index = build(tmp_path, rows, kind, settings=small_settings(kind, 600, normalization="whitened", components=8))
    fitted = PCA(8, whiten=True).fit(rows)
    exact = search(fitted.transform(rows[:30]), fitted.transform(rows), 5)
    found = index.search(rows[:30], 5)
    assert (found.ids == exact.ids).mean() > 0.97
    np.testing.assert_array_equal(
        build(tmp_path, rows, kind, settings=index.settings).search(rows[:30], 5).ids, found.ids
    )
