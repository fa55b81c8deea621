from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from randar_features.training.checkpoint import (
    list_checkpoints,
    newest_checkpoint,
    remove_old,
    save_state,
    whole_checkpoint,
)
from tests.full_disk import full_disk


def state(step: int) -> dict:
    return {"weights": {"a": torch.full((20_000,), float(step))}, "parts": [{"lr": 0.1}]}


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        with whole_checkpoint(folder, step, {"seed": 7}) as aside:
            (aside / "model.txt").write_text(f"model {step}")
            save_state(aside, state(step), file_bytes=1 << 20)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest(folder: Path) -> int | None:
    found = newest_checkpoint(folder)
    if found is None:
        return None
    assert torch.equal(found.state()["weights"]["a"], state(found.step)["weights"]["a"])
    assert found.settings == {"seed": 7}
    return found.step


def test_the_newest_comes_back(tmp_path: Path):
    save(tmp_path / "run", 9, 10, 100)  # as names: 00000009, 00000010, 00000100
    assert newest(tmp_path / "run") == 100
    files = ["checkpoint.json", "model.txt", "state.json", "weights-00001.safetensors"]
    assert names(tmp_path / "run/step-00000100") == files


def test_leftovers_of_kills_go_at_the_next_save(tmp_path: Path):
    for name in ("step-00000001.writing", "step-00000000.removing"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"left by a kill")
    assert newest(tmp_path) is None
    save(tmp_path, 1)
    assert names(tmp_path) == ["step-00000001"]


def test_keeps_the_newest_and_every_kth(tmp_path: Path):
    save(tmp_path, 1, 2, 3, 4, 5, 6, 7)
    remove_old(tmp_path, 7, keep=2, keep_every=3)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["3", "6", "7"]
    remove_old(tmp_path, 7, keep=1)
    assert names(tmp_path) == ["step-00000007"]


def test_a_damaged_one_behind_the_present_step_is_not_kept_in_place_of_a_whole_one(tmp_path: Path):
    save(tmp_path, 4, 8, 12)
    (tmp_path / "step-00000012/model.txt").write_text("torn")
    save(tmp_path, 9)  # by a run that went on from 8
    remove_old(tmp_path, 9, keep=1, keep_every=12)
    assert names(tmp_path) == ["step-00000009"]
    assert newest(tmp_path) == 9


def test_a_process_that_is_not_active_writes_nothing(tmp_path: Path):
    with whole_checkpoint(tmp_path / "run", 3, {}, active=False):
        pass
    assert not (tmp_path / "run").exists()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped, lambda content: bytes(len(content)), lambda _: b"", None])
@pytest.mark.parametrize("file", ["weights-00001.safetensors", "state.json", "checkpoint.json", "model.txt"])
def test_a_damaged_one_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: Callable[[bytes], bytes] | None
):
    save(tmp_path, 1, 2)
    torn = tmp_path / "step-00000002" / file
    if damage is None:
        torn.unlink()
    elif file == "checkpoint.json" and damage is flipped:
        torn.write_text(torn.read_text().replace('"sha256": {', '"sha255": {'))
    else:
        torn.write_bytes(damage(torn.read_bytes()))
    assert newest(tmp_path) == 1
    assert f"passing over damaged checkpoint {torn.parent}: " in caplog.text


def test_nothing_undamaged_is_none(tmp_path: Path):
    assert newest_checkpoint(tmp_path / "missing") is None
    (tmp_path / "step-00000003").mkdir()
    (tmp_path / "step-00000004.writing").mkdir()
    assert newest_checkpoint(tmp_path) is None
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003"]


def test_an_older_format_is_not_begun_anew(tmp_path: Path):
    (tmp_path / "step-00000003.pt").write_bytes(b"zip")
    with pytest.raises(ValueError, match=r"step-00000003\.pt is of an older format.*another folder"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("step", [1, 2])
def test_a_full_disk_leaves_the_previous_one(tmp_path: Path, step: int):
    save(tmp_path, 1)
    with full_disk(50_000), pytest.raises(OSError, match=r"could not write .*weights-00001.* bytes are free there"):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000001"]
    assert newest(tmp_path) == 1


def test_the_same_step_is_replaced(tmp_path: Path):
    save(tmp_path, 1)
    (tmp_path / "step-00000001/model.txt").write_text("torn")
    save(tmp_path, 1)
    assert newest(tmp_path) == 1
    manifest = json.loads((tmp_path / "step-00000001/checkpoint.json").read_text())
    assert set(manifest["sha256"]) == {"model.txt", "state.json", "weights-00001.safetensors"}
