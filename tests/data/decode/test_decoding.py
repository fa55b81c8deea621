from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from randar_features.data import ImageError, load_image, to_image
from randar_features.data.decode.decoding import check_image, read_pixels


def _noise(seed: int = 0, height: int = 6, width: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _pixel(image: Any) -> tuple[int, ...]:
    loaded = load_image(image)
    assert loaded.mode == "RGB"
    value = loaded.getpixel((0, 0))
    assert isinstance(value, tuple)
    return value


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_path_bytes_image_and_array_give_the_same_pixels(tmp_path: Path) -> None:
    pixels = _noise()
    path = tmp_path / "noise.png"
    Image.fromarray(pixels).save(path)
    for form in (path, str(path), path.read_bytes(), Image.open(path), Image.fromarray(pixels), pixels):
        np.testing.assert_array_equal(np.asarray(load_image(form)), pixels)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257, 1), (32768, 128), (51400, 200), (65535, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_files_are_scaled_not_clipped(kind: str, value: int, expected: int) -> None:
    image = Image.fromarray(np.full((2, 2), value, np.uint16))
    assert _pixel(_encoded(image, kind)) == (expected,) * 3


def test_mode_i_counts_as_16_bit() -> None:
    assert _pixel(Image.fromarray(np.full((2, 2), 32768, np.int32))) == (128,) * 3


def test_floats_are_of_the_range_0_to_1_whatever_a_picture_reaches() -> None:
    for highest in (0.4, 1.0):
        assert _pixel(Image.fromarray(np.array([[0.4, highest]], np.float32))) == (102,) * 3


@pytest.mark.parametrize("value", [-1.0, 255.0, float("nan")])
def test_floats_outside_their_range_are_refused(value: float) -> None:
    with pytest.raises(ImageError, match="expected 0 to 1: state value_range"):
        load_image(Image.fromarray(np.array([[value, 1.0]], np.float32)))


def _grey(value: int | float, dtype: type, **options: Any) -> tuple[int, ...]:
    """A pixel of one value beside a black one, read with options."""
    value_of = load_image(Image.fromarray(np.array([[value, 0]], dtype)), **options).getpixel((0, 0))
    assert isinstance(value_of, tuple)
    return value_of


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_stated_range_says_what_is_white(dtype: type) -> None:
    assert _grey(4095, dtype, value_range=(0, 4095)) == (255,) * 3
    assert _grey(1000, dtype, value_range=(0, 4000)) == (64,) * 3
    assert _grey(5000, dtype, value_range=(0, 4095)) == (255,) * 3  # clipped
    assert _grey(60, dtype, value_range=(50, 70)) == (128,) * 3


def test_a_stated_range_leaves_8_bit_pictures_alone() -> None:
    assert load_image(Image.new("L", (1, 1), 99), value_range=(0, 4095)).getpixel((0, 0)) == (99,) * 3


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (0, float("nan")), (0, 1, 2), 5, "ab"])
def test_a_range_that_is_none_is_refused(value_range: Any) -> None:
    with pytest.raises(ValueError, match="value_range must be two numbers"):
        load_image(Image.new("L", (1, 1)), value_range=value_range)


def test_32_bit_integers_up_to_255_are_refused_not_black() -> None:
    with pytest.raises(ImageError, match=r"up to 200 .* value_range"):
        _grey(200, np.int32)
    assert _grey(200, np.int32, value_range=(0, 255)) == (200,) * 3


@pytest.mark.parametrize(
    ("array", "range"),
    [(np.full((9, 9), 4095, np.uint16), "65535"), (np.full((9, 9), 0.01, np.float32), "1")],
)
def test_a_nearly_black_picture_is_named_in_a_warning(tmp_path: Path, array: np.ndarray, range: str) -> None:
    path = tmp_path / "scan.tiff"
    Image.fromarray(array).save(path)
    with pytest.warns(UserWarning, match=rf"scan\.tiff is nearly black.*0 to {range}.*value_range"):
        load_image(path)


def test_an_8_bit_picture_of_class_numbers_is_noted() -> None:
    with pytest.warns(UserWarning, match="nearly black"):
        load_image(Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3) % 4))


@pytest.mark.filterwarnings("error")
def test_one_bright_pixel_is_no_black_picture() -> None:
    picture = np.zeros((40, 40), np.uint8)
    picture[13, 7] = 5
    load_image(Image.fromarray(picture))


def test_tiff_says_how_many_bits_it_has_and_which_end_is_white() -> None:
    data = _encoded(Image.fromarray(np.full((2, 2), 0xABC, np.uint16)), "TIFF")
    inverted = data.replace(struct.pack("<HHII", 262, 3, 1, 1), struct.pack("<HHII", 262, 3, 1, 0))
    assert inverted != data and _pixel(inverted) == (255 - round(0xABC / 257),) * 3
    packed = np.packbits(np.unpackbits(np.array([0x0F, 0xFF, 0x08, 0x00], np.uint8)).reshape(2, 16)[:, 4:])
    assert _pixel(_tiff_of_12_bits(packed.tobytes())) == (255,) * 3


def _tiff_of_12_bits(pixels: bytes) -> bytes:
    """Two pixels of 12 bits side by side."""
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    return header.ljust(122, b"\0") + pixels


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_colours_of_png_take_a_stated_range(channels: int) -> None:
    data = _png_of_16_bits(np.full((2, 2, channels), [4095, 2048, 1024, 65535][:channels], ">u2"))
    expected = {1: (255,) * 3}.get(channels, (255, 128, 64))
    assert load_image(data, value_range=(0, 4095)).getpixel((0, 0)) == expected
    with pytest.warns(UserWarning, match="nearly black"):
        load_image(data)


@pytest.mark.parametrize("compressed", [False, True], ids=["Pillow's reader", "libtiff"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_colours_of_tiff_take_a_stated_range(compressed: bool, order: str) -> None:
    values = np.array([4095, 2048, 1024], f"{order}u2").tobytes()
    data = _tiff_of_colours(zlib.compress(values), order, 8) if compressed else _tiff_of_colours(values, order, 1)
    assert load_image(data, value_range=(0, 4095)).getpixel((0, 0)) == (255, 128, 64)


def _tiff_of_colours(pixels: bytes, order: str, compression: int) -> bytes:
    """One pixel of three 16-bit values."""
    tags = [(256, 1), (257, 1), (258, 200), (259, compression), (262, 2), (273, 210), (277, 3), (278, 1)]
    tags.append((279, len(pixels)))
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 3, 3, value) if tag == 258 else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in tags
    )
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + struct.pack(f"{order}HHH", 16, 16, 16).ljust(10, b"\0") + pixels


def _png_of_16_bits(array: np.ndarray) -> bytes:
    height, width, channels = array.shape
    colour = {1: 0, 3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + line.tobytes() for line in array)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def test_cmyk_jpeg_is_converted() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = _pixel(_encoded(image, "JPEG", quality=100))
    assert red >= 253
    assert max(green, blue) <= 3


def test_palette_gray_and_1_bit_are_converted() -> None:
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert _pixel(_encoded(palette, "PNG")) == (10, 200, 30)
    assert _pixel(_encoded(Image.new("L", (2, 2), 99), "PNG")) == (99, 99, 99)
    assert _pixel(_encoded(Image.new("1", (2, 2), 1), "PNG")) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (12, 34, 56, 255), (12, 34, 56)),
        ("RGBa", (128, 0, 0, 128), (255, 127, 127)),  # colour already multiplied by alpha
        ("LA", (0, 128), (127, 127, 127)),
        ("La", (0, 128), (127, 127, 127)),
    ],
)
def test_transparent_pixels_are_blended_onto_white(
    mode: str, colour: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert np.abs(np.subtract(_pixel(Image.new(mode, (2, 2), colour)), expected)).max() <= 1


def test_transparent_colours_of_palette_and_rgb_files_become_white() -> None:
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert _pixel(_encoded(palette, "PNG", transparency=1)) == (255, 255, 255)
    assert _pixel(_encoded(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == (255,) * 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = _noise()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    np.testing.assert_array_equal(np.asarray(load_image(data)), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense"])
def test_damaged_exif_does_not_spoil_the_pixels(exif: bytes) -> None:
    data = _encoded(Image.new("RGB", (8, 8), (200, 0, 0)), "JPEG", quality=100, exif=exif)
    assert _pixel(data)[0] >= 195


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _encoded(Image.new("RGB", (64, 64)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="decompression bomb"):
        load_image(data)


def test_a_text_file_is_named_as_no_image(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not an image")
    with pytest.raises(ImageError, match=r"cannot read .*notes\.jpg: not an image of a known format"):
        load_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_a_truncated_file_is_named_with_the_reason(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "half.image"
    data = _encoded(Image.fromarray(_noise(height=64, width=64)), kind)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cannot read .*half\.image: \w+"):
        load_image(path)


@pytest.mark.parametrize(
    ("kind", "options", "lost"),
    [
        ("ICO", {}, 1),
        ("ICO", {"bitmap_format": "bmp"}, 1),
        ("ICO", {"sizes": [(16, 16), (32, 32)]}, 10),
        ("BMP", {}, 1),
        ("PPM", {}, 1),
        ("TIFF", {}, 1),
        ("GIF", {}, 10),
        ("TGA", {}, 27),
        ("TGA", {"compression": "tga_rle"}, 27),
    ],
)
def test_a_file_that_is_shorter_than_its_header_says_is_refused(kind: str, options: Any, lost: int) -> None:
    """A TGA ends with 26 bytes that its header does not count."""
    data = _encoded(Image.fromarray(_noise(height=32, width=32)), kind, **options)
    assert load_image(data).size == (32, 32)
    with pytest.raises(ImageError, match=f"image of {len(data) - lost} bytes"):
        load_image(data[:-lost])


@pytest.mark.parametrize("data", [b"P2 3 1 255 1 2", b"P3 1 1 255 1 2", b"P1 3 1 1 0", b"P4 9 1 " + bytes(1)])
def test_a_pnm_file_that_lacks_pixels_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=f"image of {len(data)} bytes"):
        load_image(data)


def test_a_lazily_opened_truncated_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    path.write_bytes(_encoded(Image.fromarray(_noise(height=64, width=64)), "PNG")[:6000])
    with Image.open(path) as image, pytest.raises(ImageError, match=r"half\.png"):
        load_image(image)


def test_missing_files_folders_and_empty_bytes_are_refused(tmp_path: Path) -> None:
    for image in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(ImageError, match="cannot read"):
            load_image(image)
    with pytest.raises(ImageError, match="an image of 0 bytes"):
        load_image(b"")


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), TypeError, r"uint8 array \(H, W, 3\), got float32"),
        (np.zeros(4, np.uint8), ValueError, r"got shape \(4,\)"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"got shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"got shape \(0, 4, 3\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), TypeError, r"got torch.int32 \(3, 4, 4\): divide"),
        (torch.zeros(3, 4, 3, dtype=torch.uint8), ValueError, r"\(3, 4, 3\): which axis is colour is unclear"),
        (torch.zeros(2, 4, 4), ValueError, r"\(3, H, W\), or grey .*, got shape \(2, 4, 4\)"),
        (torch.full((3, 4, 4), 1.5), ValueError, "got values from 1.5 to 1.5"),
        (torch.full((3, 4, 4), -0.5), ValueError, "got values from -0.5"),
        (torch.full((3, 4, 4), float("nan")), ImageError, "NaN"),
        (17, TypeError, "cannot read an image from int"),
    ],
)
def test_wrong_kinds_are_named_with_what_was_expected(image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_image(image)
    with pytest.raises(error, match=message):
        read_pixels(image, 4)[0]


def test_every_form_of_a_picture_gives_the_same_square(tmp_path: Path) -> None:
    pixels = _noise(height=40, width=50)
    path = tmp_path / "noise.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    for size in (16, 40, 70):
        expected = read_pixels(path, size)[0]
        assert expected.shape == (3, size, size)
        for form in (Image.fromarray(pixels), pixels, tensor, tensor.double()):
            assert torch.equal(read_pixels(form, size)[0], expected)
    assert torch.equal(read_pixels(pixels[:, 5:45], 40)[0], tensor[:, :, 5:45])


def test_tensors_a_little_outside_are_clamped() -> None:
    pixels = read_pixels(torch.full((3, 4, 4), 1.00001), 4)[0]
    assert torch.equal(pixels, torch.ones(3, 4, 4))


def test_tensors_are_not_for_load_image() -> None:
    with pytest.raises(TypeError, match="use to_image"):
        load_image(torch.zeros(3, 2, 2))  # type: ignore[arg-type]
    assert load_image(to_image(torch.zeros(3, 2, 2))).size == (2, 2)
