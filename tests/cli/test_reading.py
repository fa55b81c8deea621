"""A stated range of values, and the largest size of a picture, hold wherever pictures are read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.datasets import open_data
from benchmarks.encoders import load_encoder
from benchmarks.encoders.extract import extract
from benchmarks.run import TASKS, find_task
from benchmarks.suite import Settings
from randar_features.cli import edit, explore, index, probe, search, tokenize, train, train_tokenizer, train_transformer
from randar_features.cli.extract import ExtractOptions
from randar_features.data.decode.ranges import Reading
from randar_features.data.pixels import PixelSource, cache_pixels
from randar_features.options.parse import OptionError, parse

DEEP = Reading((0, 4095), 64)
COMMANDS = (
    ExtractOptions, index.IndexOptions, probe.ProbeOptions, search.SearchOptions, tokenize.TokenizeOptions,
    edit.InpaintOptions, edit.OutpaintOptions, edit.UpscaleOptions, train.TrainOptions, explore.ExploreOptions,
    train_tokenizer.TokenizerOptions, train_transformer.TransformerOptions, Settings,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """White in 12 bits, and a picture that is larger than allowed."""
    (tmp_path / "data").mkdir()
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / "data/a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "data/b.png")
    return tmp_path / "data"


def test_every_command_and_benchmark_of_images_has_the_options():
    tasks = [find_task(name).options for name in TASKS]
    of_images = [options for options in tasks if "data" in {field.name for field in dataclasses.fields(options)}]
    assert len(of_images) > 6
    assert [options for options in (*COMMANDS, *of_images) if not issubclass(options, Reading)] == []


def test_a_bad_range_is_refused_before_any_work():
    with pytest.raises((OptionError, ValueError), match="value_range"):
        parse(ExtractOptions, ["x", "--out", "y", "--value-range", "9", "3"])
    with pytest.raises((OptionError, ValueError), match="max_pixels"):
        parse(tokenize.TokenizeOptions, ["--data", "x", "--out", "y", "--tokenizer", "z", "--max-pixels", "0"])


@pytest.mark.parametrize("line", ["data: photos", "data: 5", "data: {a: 1}", "layers: 2", "value_range: 1 2"])
def test_one_value_for_a_list_in_a_yaml_file_is_refused_by_name(tmp_path: Path, line: str):
    (tmp_path / "a.yaml").write_text(line)
    with pytest.raises(
        OptionError, match=rf"a\.yaml: (--)?{line.partition(':')[0].replace('_', '-')}: expected .*as a list"
    ):
        parse(ExtractOptions, ["--config", str(tmp_path / "a.yaml")])


def test_pixels_are_read_in_the_stated_range(folder: Path, tmp_path: Path):
    cache = cache_pixels(folder, tmp_path / "pixels", image_size=4, reading=DEEP)
    assert cache is not None and cache.images(torch.tensor([0])).min() == 1 and len(cache) == 1
    assert "64" in cache.unreadable[0]["reason"]
    assert PixelSource(folder, image_size=4, reading=DEEP).images(torch.tensor([0])).min() == 1
    with pytest.raises(ValueError, match="value_range"):
        cache_pixels(folder, tmp_path / "pixels", image_size=4)


@pytest.mark.filterwarnings("ignore:.*nearly black")
def test_features_of_benchmarks_are_kept_apart_by_range(folder: Path, tmp_path: Path):
    encoder = load_encoder("pixels")
    stores = [extract(encoder, folder, folder=tmp_path / "cache", reading=each) for each in (Reading(), DEEP)]
    dark, white = (store.array(store.names[0]) for store in stores)
    assert white[0].min() == 1 and np.isnan(white[1]).all() and dark[0].max() < 0.1
    batch = next(open_data(folder, None, 4, DEEP).batches(4, 2))
    assert batch.pixels[0].min() == 1 and batch.status[1] != "ok"
