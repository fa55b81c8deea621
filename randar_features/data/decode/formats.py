"""The raster format of a file, by its first bytes and never by its name."""

import re
import struct

HEAD_BYTES = 512  # how much of a file `image_format` needs to see

SIGNATURES = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "BMP": re.compile(rb"BM.{12}[\x0c-\xff]\x00\x00\x00", re.DOTALL),
    "TIFF": re.compile(rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+"),
    "JPEG2000": re.compile(rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  \r\n\x87\n"),
    "ICO": re.compile(rb"\x00\x00\x01\x00[\x01-\xff].{3}", re.DOTALL),
    "PPM": re.compile(rb"P[1-6f]\s+(#[^\r\n]*[\r\n]+\s*)*\d+"),
    "QOI": re.compile(rb"qoif"),
}
AVIF_BRANDS = {b"avif", b"avis"}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
GIT_LFS = b"version https://git-lfs"  # what a pointer of Git LFS begins with
FORMATS = (*SIGNATURES, "AVIF", "HEIF", "TGA")  # all that are read: Pillow's names. "HEIF" takes the extra `heif`


def image_format(head: bytes) -> str | None:
    """The raster format of a file that begins with `head` (its first :data:`HEAD_BYTES`), None if it is none we read.

    Returns:
        One of :data:`FORMATS`, which are names of Pillow's decoders. A TGA file has no signature; it is told by
        a header in which every field is valid.
    """
    head = bytes(head[:HEAD_BYTES])
    for name, signature in SIGNATURES.items():
        if signature.match(head):
            return name
    return _heif_format(head) or ("TGA" if _is_targa(head) else None)


def _heif_format(head: bytes) -> str | None:
    """AVIF and HEIF share a container, whose first box lists its brands."""
    if head[4:8] != b"ftyp":
        return None
    length = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, length, 4))}
    if brands & AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & HEIF_BRANDS else None


def _is_targa(head: bytes) -> bool:
    if len(head) < 18:
        return False
    _, palette, kind, first, colours, entry, _, _, width, height, depth, descriptor = struct.unpack(
        "<BBBHHBHHHHBB", head[:18]
    )
    if kind in (1, 9):
        palette_fits = palette == 1 and 0 < colours <= 256 and first < 256 and entry in (15, 16, 24, 32) and depth == 8
    else:
        depths = {2: (15, 16, 24, 32), 10: (15, 16, 24, 32), 3: (8, 16), 11: (8, 16)}.get(kind, ())
        palette_fits = palette == 0 and first == colours == 0 and depth in depths
    return palette_fits and width > 0 and height > 0 and not descriptor & 0xC0


def webp_size(head: bytes) -> tuple[int, int]:
    """Width and height that the first chunk of a WebP file states; (0, 0) if there is none."""
    kind, body = head[12:16], head[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return 0, 0
