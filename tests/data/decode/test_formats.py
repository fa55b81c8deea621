"""Formats are told by content: every format that Pillow writes is recognised, and other files are not."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from randar_features.data.decode.formats import image_format

WRITTEN = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM", "QOI", "AVIF", "TGA"]


def encoded(format: str, mode: str = "RGB", size: tuple[int, int] = (20, 12), **options: object) -> bytes:
    file, image = io.BytesIO(), Image.new("L", size).convert(mode)
    image.save(file, format=format, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", WRITTEN)
def test_what_pillow_writes_is_recognised(format: str) -> None:
    assert image_format(encoded(format)) == format


def test_an_icon_is_recognised() -> None:
    assert image_format(encoded("ICO", size=(16, 16))) == "ICO"


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("compression", [None, "tga_rle"])
def test_targa_of_every_kind(mode: str, compression: str | None) -> None:
    assert image_format(encoded("TGA", mode, compression=compression)) == "TGA"


@pytest.mark.parametrize(("mode", "head"), [("1", b"P4"), ("L", b"P5"), ("RGB", b"P6"), ("F", b"Pf")])
def test_portable_maps(mode: str, head: bytes) -> None:
    written = encoded("PPM", mode)
    assert written.startswith(head) and image_format(written) == "PPM"
    assert image_format(head + b"\n# a comment\n# another\n20 12\n") == "PPM"


@pytest.mark.parametrize(
    ("brands", "expected"),
    [
        ([b"avif", b"mif1"], "AVIF"),
        ([b"mif1", b"avif"], "AVIF"),
        ([b"heic", b"mif1"], "HEIF"),
        ([b"mif1", b"heic"], "HEIF"),
        ([b"isom", b"mp42"], None),
    ],
)
def test_brands_of_the_container(brands: list[bytes], expected: str | None) -> None:
    box = b"ftyp" + brands[0] + bytes(4) + b"".join(brands)
    assert image_format((4 + len(box)).to_bytes(4, "big") + box) == expected


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x00" * 64,
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"P1 is the first of the plans",
        b"BM is no bitmap, it is a note of words",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"version https://git-lfs.github.com/spec/v1",
        b"name,label\ncat,1\n",
        b"%PDF-1.7",
        b"\xd7\xcd\xc6\x9a" + bytes(60),  # a Windows metafile
        b"\x00\x00\x02\x00\x01\x00" + bytes(60),  # a cursor
        b"PK\x03\x04" + bytes(60),
    ],
)
def test_other_files_are_none(head: bytes) -> None:
    assert image_format(head) is None
