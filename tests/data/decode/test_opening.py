"""Whatever is called an image: only raster decoders run, sizes are known before decoding, damage is named."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from randar_features.data import ImageError, load_image, load_mask

FORMATS = {
    "PNG": {}, "JPEG": {"quality": 100}, "GIF": {}, "WEBP": {"lossless": True}, "BMP": {},
    "TIFF": {"compression": "tiff_lzw"}, "JPEG2000": {}, "PPM": {}, "QOI": {}, "AVIF": {"quality": 100},
    "TGA": {}, "ICO": {},
}  # fmt: skip


def encoded(format: str, image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def picture(side: int = 32) -> Image.Image:
    gradient = np.linspace(20, 235, side).astype(np.uint8)
    return Image.fromarray(
        np.stack([np.tile(gradient, (side, 1)), np.tile(gradient[:, None], (1, side))] * 2, -1)[..., :3]
    )


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_read_whatever_it_is_called(tmp_path: Path, format: str) -> None:
    path = tmp_path / "picture.heic"
    path.write_bytes(encoded(format, picture(), **FORMATS[format]))
    read = np.asarray(load_image(path)).astype(int)
    tolerance = 40 if format == "GIF" else 6
    assert np.abs(read - np.asarray(picture())).max() <= tolerance


def test_heif_takes_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(picture(64)).save(file, quality=100)
    assert np.abs(np.asarray(load_image(file.getvalue())).astype(int) - np.asarray(picture(64))).max() <= 12
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIF.*randar-features\[heif\]"):
        load_image(file.getvalue())


@pytest.mark.parametrize(
    "head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xd7\xcd\xc6\x9a" + bytes(40)]
)
def test_programs_and_metafiles_are_no_images(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(head)
    with pytest.raises(ImageError, match=r"picture\.png: not an image of a known format"):
        load_image(path)


def test_an_image_that_was_opened_as_postscript_is_not_run() -> None:
    lines = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    with Image.open(io.BytesIO(lines)) as opened, pytest.raises(ImageError, match="EPS is no raster format"):
        load_image(opened)


def test_pipes_folders_and_pointers_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "empty.png").touch()
    for name, reason in {
        "pipe": "no regular file",
        "folder": "a folder",
        "pointer": "git lfs pull",
        "empty": "is empty",
        "absent": "No such file",
    }.items():
        with pytest.raises(ImageError, match=rf"{name}\.png: .*{reason}"):
            load_image(tmp_path / f"{name}.png")


@pytest.mark.parametrize("name", ["two\nlines.png", "\x1b[31mred.png", os.fsdecode(b"caf\xe9.png")])
def test_a_message_is_one_printable_line_whatever_the_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / name)
    assert str(caught.value).isprintable()
    str(caught.value).encode()


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(data)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def webp(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "data",
    [
        png(20_000, 10_000),
        webp(16_000, 16_000),
        b"P5\n20000 10000\n255\n",
        b"qoif" + struct.pack(">IIBB", 20_000, 10_000, 4, 0),
        encoded("BMP", picture()).replace(struct.pack("<ii", 32, 32), struct.pack("<ii", 20_000, 10_000)),
        encoded("GIF", picture()).replace(struct.pack("<HH", 32, 32), struct.pack("<HH", 20_000, 10_000)),
    ],
    ids=["PNG", "WEBP", "PPM", "QOI", "BMP", "GIF"],
)
def test_a_large_picture_is_refused_by_its_header(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"\d+x\d+ pixels are more than the limit of \d+: .*max_pixels"):
        load_image(data)


def test_a_large_tile_of_a_small_tiff_is_refused() -> None:
    tags = [
        (256, 1),
        (257, 1),
        (258, 8),
        (259, 1),
        (262, 1),
        (277, 1),
        (322, 30_000),
        (323, 30_000),
        (324, 8),
        (325, 1),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    with pytest.raises(ImageError, match="30000x30000 pixels are more than the limit"):
        load_image(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4))


def test_the_limit_is_an_option() -> None:
    data = encoded("PNG", picture())
    with pytest.raises(ImageError, match="32x32 pixels are more than the limit of 1023"):
        load_image(data, max_pixels=1023)
    assert load_image(data, max_pixels=1024).size == (32, 32)
    with pytest.raises(ImageError, match="more than the limit"):
        load_image(picture(), max_pixels=1023)
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="max_pixels must be"):
            load_image(data, max_pixels=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("read", [load_image, load_mask])
def test_every_changed_bit_of_a_png_is_noticed(read: Any) -> None:
    data = encoded("PNG", Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20) % 7))
    for place in range(8, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(ImageError):
            read(bytes(damaged))


@pytest.mark.parametrize("left", [8, 20, 33, -1, -12])
def test_a_png_that_ends_early_is_refused(left: int) -> None:
    with pytest.raises(ImageError, match="cannot read an image of"):
        load_image(encoded("PNG", picture())[:left])


@pytest.mark.parametrize("format", FORMATS)
def test_damage_gives_one_line_or_a_picture(format: str) -> None:
    """Seeded mutations of every format: never another exception, never a message of several lines."""
    data = encoded(format, picture(), **FORMATS[format])
    generator = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(data[: generator.integers(1, len(data) + 1)] if generator.random() < 0.4 else data)
        for place in generator.integers(0, len(damaged), 4):
            damaged[place] = generator.integers(256)
        try:
            load_image(bytes(damaged), max_pixels=2**20)
        except ImageError as error:
            assert str(error).isprintable() and len(str(error)) < 400
