from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from randar_features.data.decode.ranges import Reading
from randar_features.data.pixels import PixelSource, cache_pixels


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (18, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{index}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_gives_what_a_cache_gives(images: Path, tmp_path: Path, num_workers: int):
    source = PixelSource(images, image_size=8, num_workers=num_workers)
    cache = cache_pixels(images, tmp_path / "cache", image_size=8)
    assert len(source) == len(cache) == 6
    assert source.content == cache.content
    batches = [torch.tensor(rows) for rows in ([4, 0], [5, 5, 1], [2])]
    for found, expected in zip(source.stream(batches), cache.stream(batches), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(source.images(torch.tensor([3, 1])), cache.images(torch.tensor([3, 1])))


def test_batches_are_asked_for_as_they_are_needed(images: Path):
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield torch.tensor([0])

    stream = PixelSource(images, image_size=8).stream(endless())
    next(stream)
    next(stream)
    assert len(asked) == 2


def test_an_unreadable_image_is_replaced_and_named_once(images: Path, caplog: pytest.LogCaptureFixture):
    (images / "1.png").write_text("no picture")
    source = PixelSource(images, image_size=8)
    for _ in range(2):
        found = source.images(torch.tensor([3, 1, 2]))
        assert torch.equal(found, source.images(torch.tensor([3, 2, 2])))
    assert caplog.text.count("1.png") == 2  # one line, with the path in front and in the reason
    with pytest.raises(ValueError, match=r"none of 1 images could be read; the first: .*1\.png"):
        source.images(torch.tensor([1]))


def test_streams_are_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(3, 8, 8)

    with pytest.raises(ValueError, match="an order of its own, which a stream cannot give: cache it"):
        PixelSource(Stream(), image_size=8)


def test_the_content_tells_images_of_the_same_number_and_names_apart(images: Path, tmp_path: Path):
    first, range_ = PixelSource(images, image_size=8).content, Reading(value_range=(0, 255))
    assert first == PixelSource(images, image_size=4).content
    assert first != PixelSource(images, image_size=8, reading=range_).content
    Image.new("RGB", (18, 20)).save(images / "3.png")
    assert first != PixelSource(images, image_size=8).content
