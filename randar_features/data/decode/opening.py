"""Open a picture safely: only raster decoders run, and nothing is decoded before its size is known."""

import io
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, TiffImagePlugin

from randar_features.data.decode.formats import GIT_LFS, HEAD_BYTES, image_format, webp_size
from randar_features.store.records import printable

MAX_PIXELS = 2**27  # the largest picture that is read by default: 134 megapixels, about 1 GB while it is decoded
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
ICON_COUNT_PLACE, ICON_ENTRY = 4, struct.Struct("<8xII")  # size and place of an icon's data


class ImageError(ValueError):
    """One picture cannot be read. The message names the file, where there is one, and the reason."""


@contextmanager
def open_picture(
    image: str | os.PathLike[str] | bytes | Image.Image, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """A picture whose header is read and whose pixels are not yet; a Pillow image as it is.

    The content chooses the decoder, among raster formats only: whatever a file is called, no interpreter of PostScript
    or metafiles runs.

    Raises:
        ImageError: it is no image of a known format, or has more than `max_pixels`, or its checksums are wrong, or it
            ends before its directory says.
        Exception: whatever Pillow's decoder raises on a damaged header.
    """
    if isinstance(image, Image.Image):
        if isinstance(image, ImageFile.StubImageFile) or image.format in ("EPS", "WMF"):  # outside programs make these
            raise ImageError(f"{image.format} is no raster format: convert it to PNG first")
        check_size(image, max_pixels)
        yield image
        return
    with _binary(image) as file:
        head = file.read(HEAD_BYTES)
        format = image_format(head)
        if format is None:
            raise ImageError(_unknown(head))
        if format == "WEBP":
            check_area(*webp_size(head), max_pixels)  # its decoder takes memory for the canvas when it is opened
        if format == "PNG":
            check_png(file)
        if format == "ICO":
            check_icons(file)
        file.seek(0)
        with _decoder(format)(file, "") as opened:
            check_size(opened, max_pixels)
            yield opened


def check_size(image: Image.Image, max_pixels: int) -> None:
    """ImageError if the picture, or a tile of it, has more than `max_pixels`."""
    check_area(*image.size, max_pixels)
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    check_area(width, height, max_pixels)


def check_area(width: int, height: int, max_pixels: int) -> None:
    """ImageError if there are more than `max_pixels`, or more than Pillow's own limit where that is lower."""
    if width * height > max_pixels:
        raise ImageError(
            f"{width}x{height} pixels are more than the limit of {max_pixels}: to read it, state max_pixels, at about "
            "8 bytes of memory a pixel"
        )
    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise ImageError(
            f"{width}x{height} pixels could be a decompression bomb: to read it, raise PIL.Image.MAX_IMAGE_PIXELS, "
            f"which is {Image.MAX_IMAGE_PIXELS}"
        )


def check_png(file: BinaryIO) -> None:
    """See that all chunks of a PNG file are there with right checksums; loading skips the checksums of pixels.

    Raises:
        ImageError: the file ends within its last chunk.
        Exception: what Pillow raises on a checksum that is wrong, or a file that ends before.
    """
    file.seek(0)
    with _decoder("PNG")(file, "") as image:
        image.verify()  # as far as the name of the last chunk
    file.seek(-8, os.SEEK_CUR)
    if file.read(len(PNG_END)) != PNG_END:
        raise ImageError("the file is truncated or damaged in its last chunk")


def check_icons(file: BinaryIO) -> None:
    """See that an ICO file holds all that its directory names; Pillow reads an icon whose last bytes are missing.

    Raises:
        ImageError: the file ends early.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(ICON_COUNT_PLACE)
    (count,) = struct.unpack("<H", file.read(2))
    entries = file.read(count * ICON_ENTRY.size)
    if len(entries) < count * ICON_ENTRY.size:
        raise ImageError(f"the file is truncated in its directory of {count} icons")
    end = max(size + place for size, place in ICON_ENTRY.iter_unpack(entries))
    if end > length:
        raise ImageError(f"the file is truncated: its icons end at byte {end}, the file at byte {length}")


def name_of(image: object) -> str:
    """What a picture is called in messages, on one line whatever its file is called."""
    if isinstance(image, bytes):
        return f"an image of {len(image)} bytes"
    if isinstance(image, Image.Image):
        return printable(getattr(image, "filename", "")) or f"a Pillow image of mode '{image.mode}'"
    return printable(str(Path(os.fspath(image))))  # type: ignore[call-overload]


def _binary(image: str | os.PathLike[str] | bytes) -> BinaryIO:
    if isinstance(image, bytes):
        return io.BytesIO(image)
    mode = os.stat(os.fspath(image)).st_mode  # a number, such as a label in the place of a mask, is no open file
    if not stat.S_ISREG(mode):  # a pipe would be waited for, a device read without end
        raise ImageError("it is a folder" if stat.S_ISDIR(mode) else "it is no regular file")
    return open(image, "rb")


def _unknown(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head.startswith(GIT_LFS):
        return "it is a pointer of Git LFS, the image itself is not here: run `git lfs pull`"
    return "not an image of a known format"


def _decoder(format: str) -> Callable[[BinaryIO, str], ImageFile.ImageFile]:
    if format == "HEIF":
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise ImageError(
                "it is a HEIF (HEIC) image, which takes the extra: pip install 'randar-features[heif]'"
            ) from None
        return HeifImageFile
    if format not in Image.OPEN:
        Image.init()
    if format not in Image.OPEN:
        raise ImageError(f"it is a {format} image, which this build of Pillow does not read")
    return Image.OPEN[format][0]  # not Image.open, which takes any format and hides the reason of a failure
