from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_sample_image

from randar_features.data import adm_center_crop, contact_sheet, tensor_center_crop, to_image, to_tensor

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "adm_crop.safetensors")


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_crop_equals_the_published_one_to_the_byte(name: str) -> None:
    photo = load_sample_image("china.jpg")
    part = photo[3:310, 5:222] if "odd307x217" in name else photo
    size = int(name.rpartition(".")[2])
    np.testing.assert_array_equal(np.asarray(adm_center_crop(Image.fromarray(part), size)), GOLDEN[name])


def test_crop_takes_the_middle_with_offsets_floored() -> None:
    pixels = np.zeros((4, 7, 3), np.uint8)
    pixels[:, :, 0] = np.arange(7) * 10
    cropped = np.asarray(adm_center_crop(Image.fromarray(pixels), 4))
    assert cropped[0, :, 0].tolist() == [10, 20, 30, 40]  # (7 - 4) // 2 = 1


def test_crop_halves_with_a_box_filter() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2, :2] = 100
    pixels[0, 0] = 60
    cropped = np.asarray(adm_center_crop(Image.fromarray(pixels), 2))
    assert cropped[:, :, 0].tolist() == [[90, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (5, 2)])
def test_small_images_are_scaled_up(shape: tuple[int, int]) -> None:
    image = Image.fromarray(np.full((*shape, 3), 77, np.uint8))
    assert (np.asarray(adm_center_crop(image, 16)) == np.full((16, 16, 3), 77)).all()


@pytest.mark.parametrize("upright", [False, True])
def test_an_extreme_strip_takes_little_memory_and_keeps_its_middle(upright: bool) -> None:
    strip = np.zeros((2, 100_000, 3), np.uint8)
    strip[:, 49_990:50_010] = 200
    image = Image.fromarray(strip.transpose(1, 0, 2) if upright else strip)
    assert (np.asarray(adm_center_crop(image, 256)) == 200).all()


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "4", None])
def test_crop_refuses_what_is_no_size(size: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"size={size!r}")):
        adm_center_crop(Image.new("RGB", (4, 4)), size)


def test_crop_refuses_what_is_no_picture() -> None:
    with pytest.raises(TypeError, match="got str"):
        adm_center_crop("photo.png", 4)  # type: ignore[arg-type]


def test_tensors_hold_values_divided_by_255_channels_first() -> None:
    image = Image.new("RGB", (3, 2), (255, 51, 0))
    pixels = to_tensor(image)
    assert pixels.shape == (3, 2, 3)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels[:, 0, 0], torch.tensor([1.0, 0.2, 0.0]))


def test_every_8_bit_value_survives_the_way_to_a_tensor_and_back() -> None:
    values = np.arange(768, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(to_image(to_tensor(Image.fromarray(values)))), values)


def test_to_image_rounds_and_clamps() -> None:
    pixels = torch.tensor([-0.1, 0.501, 1.2]).reshape(3, 1, 1)
    assert to_image(pixels).getpixel((0, 0)) == (0, 128, 255)


def test_to_tensor_names_a_wrong_mode_and_to_image_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match="'RGB', got 'L'"):
        to_tensor(Image.new("L", (2, 2)))
    with pytest.raises(ValueError, match=r"\(3, H, W\), got \(4, 2, 2\)"):
        to_image(torch.zeros(4, 2, 2))


def test_a_tensor_of_the_asked_size_passes_unrounded() -> None:
    pixels = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tensor_center_crop(pixels, 8), pixels)


def test_a_tensor_of_another_size_goes_the_way_of_files() -> None:
    photo = Image.fromarray(load_sample_image("china.jpg"))
    expected = torch.from_numpy(GOLDEN["china.64"]).permute(2, 0, 1) / 255
    assert torch.equal(tensor_center_crop(to_tensor(photo), 64), expected)


def test_contact_sheet_lays_images_out_row_by_row() -> None:
    images = [torch.full((3, 2, 2), value / 10) for value in range(3)]
    sheet = contact_sheet(images, columns=2, gap=1)
    rows = [[0, 0, 1, 0.1, 0.1]] * 2 + [[1] * 5] + [[0.2, 0.2, 1, 1, 1]] * 2
    torch.testing.assert_close(sheet, torch.tensor(rows).expand(3, 5, 5))
