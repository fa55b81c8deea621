"""Pictures that were moved a little agree after alignment; others, horizons among them, do not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.tasks.duplicates.alignment import MIN_OVERLAP, aligned_correlations
from benchmarks.tasks.duplicates.duplicate_pairs import ALIGNED, detail
from benchmarks.tasks.duplicates.duplicate_recall import CHANGES
from tests.benchmarks.image_folders import picture

MOVED = [name for name in CHANGES if "shift" in name or "90 %" in name or "rotated" in name]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [picture(generator, (120, 128, 136)) for _ in range(12)]


@pytest.mark.parametrize("name", MOVED)
def test_moved_pictures_agree_after_alignment(pictures: list[Image.Image], name: str) -> None:
    changed = np.stack([np.asarray(CHANGES[name](image)) for image in pictures])
    found, mirrored = aligned_correlations(np.stack(pictures), changed)
    assert (found >= ALIGNED).all()
    assert mirrored.all() == ("mirrored" in name) and mirrored.any() == ("mirrored" in name)


def test_alignment_is_what_finds_a_shift(pictures: list[Image.Image]) -> None:
    moved = np.asarray(CHANGES["shifted by 2/32"](pictures[0]))
    assert (detail(np.asarray(pictures[0])) * detail(moved)).sum() < 0.85


def test_other_pictures_stay_apart(pictures: list[Image.Image]) -> None:
    own = np.stack(pictures)
    found, _ = aligned_correlations(own, np.roll(own, 1, axis=0))
    assert (found < ALIGNED).all()


def test_a_shift_that_leaves_little_in_common_is_not_tried(pictures: list[Image.Image]) -> None:
    assert MIN_OVERLAP < 26 / 32 * 26 / 32  # the longest shift both ways
    far = np.roll(np.stack(pictures), 16, axis=2)
    assert (aligned_correlations(np.stack(pictures), far)[0] < ALIGNED).all()


def test_nothing_and_plain_pictures_are_taken() -> None:
    empty = np.zeros((0, 32, 32, 3), np.uint8)
    assert [len(each) for each in aligned_correlations(empty, empty)] == [0, 0]
    plain = np.full((2, 32, 32, 3), 99, np.uint8)
    assert (aligned_correlations(plain, plain)[0] == -1).all()
