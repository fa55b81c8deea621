from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from benchmarks.datasets.point_pairs import PairSet, PointPair
from benchmarks.report import figures, match_pictures


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
    grey = np.full((match_pictures.SHOWN_HEIGHT, 160, 3), 90, np.uint8)
    points, found = np.array([[20.0, 30.0], [120.0, 130.0]]), np.array([[40, 50], [100, 110]])
    pair = PointPair(0, 1, points, np.array([[40, 50], [10, 20]]), (160, 160))
    data = PairSet("x", lambda _: grey, [grey.shape[:2]] * 2, [pair])
    picture = opened(match_pictures.match_lines({"x": [found]}, data)).astype(int)
    left, top = figures.GAP, figures.GAP + figures.LINE
    assert picture.shape == (top + 160 + figures.GAP, left + 160 + 20 + 160 + figures.GAP, 3)
    for index, name in enumerate((figures.RIGHT, figures.WRONG)):
        for x, y in (points[index], found[index] + [180, 0]):
            assert np.abs(picture[top + int(y + 0.5), left + int(x + 0.5)] - colour(name)).max() <= 2


@pytest.mark.parametrize("smooth", [False, True])
def test_enlarging_keeps_the_shape_of_a_picture(smooth: bool):
    enlarged = figures.enlarge(noise(8, 12), 64, smooth=smooth)
    assert enlarged.size == (96, 64)
    assert (len(np.unique(np.asarray(enlarged).reshape(-1, 3), axis=0)) > 96) == smooth
