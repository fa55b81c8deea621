from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from benchmarks.report import figures


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def colour(name: str) -> np.ndarray:
    return np.rint(255 * np.array(to_rgb(name)))


def test_images_of_a_grid_are_drawn_pixel_for_pixel():
    rows = [[noise(8, 8, 0), noise(8, 16, 1)], [noise(8, 8, 2), noise(8, 16, 3) / 255]]
    picture = opened(figures.image_grid(rows, height=32))
    gap = figures.GAP
    assert picture.shape == (3 * gap + 64, 3 * gap + 96, 3)
    for r in range(2):
        for c, (x, width) in enumerate([(gap, 32), (2 * gap + 32, 64)]):
            y = gap + r * (32 + gap)
            expected = rows[r][c] if (r, c) != (1, 1) else noise(8, 16, 3)
            assert np.array_equal(picture[y : y + 32, x : x + width], expected.repeat(4, 0).repeat(4, 1))
    assert (picture[:gap] == 255).all()


def test_titles_and_frames_have_room_of_their_own():
    rows = [[np.zeros((8, 8, 3), np.uint8)] * 2]
    frames = [[figures.RIGHT, None]]
    titled = opened(figures.image_grid(rows, height=32, column_titles=["a", "b"], row_titles=["row"], frames=frames))
    left, top = 3 * figures.CHARACTER + figures.GAP, figures.LINE + figures.GAP
    assert titled.shape == (top + 32 + figures.GAP, left + 64 + 2 * figures.GAP, 3)
    assert titled[:top, left:].min() < 128  # the column titles
    assert titled[top:, : left - figures.GAP].min() < 128  # the row's
    assert np.abs(titled[top + 16, left] - colour(figures.RIGHT)).max() <= 2
    assert (titled[top + 16, left + 32 + figures.GAP] == 0).all()


def test_rows_may_be_of_different_lengths():
    image = np.zeros((8, 8, 3), np.uint8)
    picture = opened(figures.image_grid([[image], [image, image]], height=8))
    assert (picture[figures.GAP : figures.GAP + 8, -figures.GAP - 8 :] == 255).all()


def test_lines_end_where_the_points_are():
    first, second = np.full((16, 16, 3), 90, np.uint8), np.full((16, 16, 3), 90, np.uint8)
    points, found = np.array([[2.0, 3.0], [12.0, 13.0]]), np.array([[4, 5], [10, 11]])
    right = np.array([True, False])
    png = figures.match_lines([(first, second)], [points], {"x": [found]}, {"x": [right]}, scale=10)
    picture = opened(png).astype(int)
    left, top = figures.GAP, figures.GAP + figures.LINE
    assert picture.shape == (top + 160 + figures.GAP, left + 10 * (16 + 2 + 16) + figures.GAP, 3)
    for index, name in enumerate((figures.RIGHT, figures.WRONG)):
        for x, y in (points[index], found[index] + [18, 0]):
            column, row = left + int(10 * (x + 0.5)), top + int(10 * (y + 0.5))
            assert np.abs(picture[row, column] - colour(name)).max() <= 2


def test_the_chart_names_every_line():
    plain = figures.layer_chart({"single": [0.1, 0.3], "reverse": [0.2, 0.4]}, {"pixels": 0.25}, "accuracy, %")
    moved = figures.layer_chart({"single": [0.1, 0.3], "reverse": [0.2, 0.4]}, {"pixels": 0.35}, "accuracy, %")
    picture = opened(plain).astype(int)
    for name in ("single", "reverse", "pixels"):
        distance = np.abs(picture - colour(figures.COLOURS[name])).max(axis=2)
        assert (distance[:, -100:] <= 8).sum() > 50  # the name, at the right edge
    assert not np.array_equal(picture, opened(moved))


@pytest.mark.parametrize("smooth", [False, True])
def test_enlarging_keeps_the_shape_of_a_picture(smooth: bool):
    enlarged = figures.enlarge(noise(8, 12), 64, smooth=smooth)
    assert enlarged.size == (96, 64)
    assert (len(np.unique(np.asarray(enlarged).reshape(-1, 3), axis=0)) > 96) == smooth
