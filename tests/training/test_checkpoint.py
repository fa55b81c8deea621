from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from randar_features.training.checkpoint import list_checkpoints, load_newest, save_checkpoint


def state(step: int) -> dict:
    return {"step": step, "trainer": {"weights": torch.full((20_000,), float(step)), "parts": [{"lr": 0.1}]}}


def save(folder: Path, *steps: int, keep: int = 10) -> None:
    for step in steps:
        save_checkpoint(folder, step, state(step), keep=keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest(folder: Path) -> int | None:
    loaded = load_newest(folder)
    if loaded is None:
        return None
    assert torch.equal(loaded["trainer"]["weights"], state(loaded["step"])["trainer"]["weights"])
    return loaded["step"]


def test_the_newest_comes_back(tmp_path: Path):
    save(tmp_path / "run", 9, 10, 100)  # as names: 00000009, 00000010, 00000100
    assert newest(tmp_path / "run") == 100


def test_keeps_the_newest_ones_and_nothing_aside(tmp_path: Path):
    tmp_path.joinpath("step-00000001.pt.writing").write_bytes(b"left by a kill")
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(tmp_path) == ["step-00000003.pt", "step-00000004.pt"]
    with pytest.raises(ValueError, match="keep=0"):
        save(tmp_path, 5, keep=0)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeros(content: bytes) -> bytes:
    return bytes(len(content))


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2  # inside a tensor, where `torch.load` looks at no check sum
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, zeros, flipped, lambda _: b"", lambda _: b"text"])
def test_a_damaged_file_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
):
    save(tmp_path, 1, 2)
    torn = tmp_path / "step-00000002.pt"
    torn.write_bytes(damage(torn.read_bytes()))
    assert newest(tmp_path) == 1
    assert f"passing over unreadable checkpoint {torn}: " in capsys.readouterr().out


def test_nothing_readable_is_none(tmp_path: Path):
    assert load_newest(tmp_path / "missing") is None
    tmp_path.joinpath("step-00000003.pt").write_bytes(b"")
    tmp_path.joinpath("step-00000004.pt.writing").write_bytes(b"")
    assert load_newest(tmp_path) is None
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003.pt"]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow over 50 kB: the system refuses the write, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_previous_one(tmp_path: Path):
    save(tmp_path, 1)
    with full_disk(), pytest.raises(OSError, match=r"could not write .*step-00000002\.pt .* bytes are free there"):
        save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-00000001.pt"]
    assert newest(tmp_path) == 1


def test_a_full_disk_leaves_the_file_of_the_same_step(tmp_path: Path):
    save(tmp_path, 1)
    with full_disk(), pytest.raises(OSError, match="could not write"):
        save(tmp_path, 1)
    assert newest(tmp_path) == 1
