"""Ways to damage a file: bits, lengths, pieces, numbers, names, nesting; seeded, so that each can be made again."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

ABSURD_LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ABSURD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, 10**7, 2**31, 2**63, 10**30, -(10**30), 1e308, float("nan"), float("inf"),
    "", "\0", "../secret.png", "../../../../etc/passwd", "/etc/passwd", "C:\\x", "a" * 5000, "naïve\ud800",
    "=1+1", "\x1b[31m", [], [[]], {}, [None], {"": None}, [1, "a", None], "nan", "1e9",
)  # fmt: skip
WORDS = (
    b"\0", b"\xff\xfe", b"NaN", b"-1", b"99999999999999999999", b"1e999", b"../secret.png", b"../secret.png,0\n",
    b"/dev/zero", b'"', b",", b"\n", b"[" * 3000, b"{" * 50, b"&a [*a, *a]", b"!!python/object/apply:os.getcwd []",
    b"file:///etc/passwd", b"http://127.0.0.1:9/x.png", b"\xed\xa0\x80", b"=cmd()", b"%s%n", b"\x1b]0;x\x07",
)  # fmt: skip


def mutate(content: bytes, path: Path, chance: random.Random) -> tuple[str, bytes]:
    """A name of what was done, and the content after it."""
    ways: list[Callable[[bytes, random.Random], bytes]] = [flip_bits, flip_bits, truncate, splice, lengths, words, fill]
    if path.suffix in (".json", ".jsonl"):
        ways += [json_value] * 6
    if path.suffix == ".png":
        ways += [png_field] * 3
    if path.suffix == ".tar":
        ways += [tar_field] * 3
    if path.suffix in (".csv", ".yaml", ".cls", ".jsonl"):
        ways += [words] * 3
    if path.suffix == ".safetensors":
        ways += [safetensors_header, safetensors_number] * 2
    way = chance.choice(ways)
    return way.__name__, way(content, chance)


def flip_bits(content: bytes, chance: random.Random) -> bytes:
    """One to eight bits."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 8)) if changed else 0):
        changed[_place(content, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def truncate(content: bytes, chance: random.Random) -> bytes:
    """The end is missing, or there is more than was."""
    if chance.random() < 0.2:
        return content + chance.randbytes(chance.choice((1, 100, 5000)))
    return content[: chance.choice((0, 1, len(content) - 1, chance.randrange(len(content) + 1)))]


def splice(content: bytes, chance: random.Random) -> bytes:
    """A piece is taken out, doubled, or moved."""
    start, other = _place(content, chance), _place(content, chance)
    piece = content[start : start + chance.choice((1, 4, 16, 512))]
    if chance.random() < 0.3:
        return content[:start] + content[start + len(piece) :]
    return content[:other] + piece + content[other + chance.choice((0, len(piece))) :]


def lengths(content: bytes, chance: random.Random) -> bytes:
    """Two, four or eight bytes become an absurd number."""
    start = _place(content, chance)
    layout = chance.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    number = chance.choice(ABSURD_LENGTHS) % 256 ** struct.calcsize(layout)
    piece = struct.pack(layout, number)
    return content[:start] + piece + content[start + len(piece) :]


def words(content: bytes, chance: random.Random) -> bytes:
    """A hostile word is written in, or over what was there."""
    start, word = _place(content, chance), chance.choice(WORDS)
    return content[:start] + word + content[start + chance.choice((0, len(word))) :]


def fill(content: bytes, chance: random.Random) -> bytes:
    """A stretch of one byte, or of noise."""
    start, size = _place(content, chance), chance.choice((4, 64, 1024))
    noise = chance.choice((b"\0" * size, b"\xff" * size, chance.randbytes(size)))
    return content[:start] + noise[: len(content) - start] + content[start + size :]


def json_value(content: bytes, chance: random.Random) -> bytes:
    """A value of a JSON document is another, is missing, or is nested deeply."""
    lines = content.splitlines() if b"\n{" in content else [content]
    number = chance.randrange(len(lines))
    document = json.loads(lines[number])
    places = list(_places(document))
    if not places or chance.random() < 0.05:
        document = chance.choice(ABSURD_VALUES)
    else:
        holder, key = chance.choice(places)
        way = chance.random()
        if way < 0.2:
            del holder[key]
        elif way < 0.3 and isinstance(holder, dict):
            holder[chance.choice(("x", "", "../x", "__class__"))] = holder.pop(key)
        else:
            holder[key] = chance.choice(ABSURD_VALUES)
    lines[number] = json.dumps(document).encode()
    if chance.random() < 0.05:
        lines[number] = lines[number].replace(b'": ', b'": ' + b"[" * 100_000, 1)
    return b"\n".join(lines)


def png_field(content: bytes, chance: random.Random) -> bytes:
    """A chunk is changed, doubled or left out, and its checksum is right."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    number = chance.randrange(len(chunks))
    name, data = chunks[number]
    way = chance.random()
    if way < 0.2:
        chunks.insert(number, (name, data))
    elif way < 0.35:
        del chunks[number]
    elif data:
        chunks[number] = (name, chance.choice((flip_bits, lengths, truncate))(data, chance))
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return content[:8] + b"".join(parts)


def tar_field(content: bytes, chance: random.Random) -> bytes:
    """A field of a header is changed, and the checksum of the header is right."""
    headers = [place for place in range(0, len(content), 512) if content[place + 257 : place + 262] == b"ustar"]
    if not headers:
        return flip_bits(content, chance)
    place = chance.choice(headers)
    header = bytearray(content[place : place + 512])
    start, size, values = chance.choice((
        (0, 100, (b"../../etc/passwd", b"/etc/passwd", b"", b"\xff\xfe", b"a/" * 49, b".hidden", b"./x", b"x\ny.png")),
        (124, 12, (b"77777777777\0", b"-0000000001\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"00000000000\0", b"zz")),
        (156, 1, (b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S", b"V", b"\0", b"\xff")),
        (157, 100, (b"/etc/passwd", b"../..", b"\0")),
        (345, 155, (b"..", b"/", b"\xff" * 20)),
    ))  # fmt: skip
    header[start : start + size] = chance.choice(values).ljust(size, b"\0")[:size]
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return content[:place] + bytes(header) + content[place + 512 :]


def safetensors_header(content: bytes, chance: random.Random) -> bytes:
    """A value of the header is another, and the header's length is right."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json_value(content[8 : 8 + size], chance)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def safetensors_number(content: bytes, chance: random.Random) -> bytes:
    """Some weights are NaN, infinite or huge."""
    (size,) = struct.unpack("<Q", content[:8])
    place = 8 + size + 4 * chance.randrange((len(content) - 8 - size) // 4)
    return (
        content[:place] + struct.pack("<f", chance.choice((float("nan"), float("inf"), -3e38))) + content[place + 4 :]
    )


def _place(content: bytes, chance: random.Random) -> int:
    """Any byte; more often one of the first and last hundred, where headers and indexes are."""
    size, way = max(len(content), 1), chance.random()
    if way < 0.3:
        return chance.randrange(min(size, 100))
    return chance.randrange(size - min(size, 100), size) if way < 0.4 else chance.randrange(size)


def _places(document: Any) -> Any:
    """Every holder and key of a JSON document."""
    keys = list(document) if isinstance(document, dict) else range(len(document) if isinstance(document, list) else 0)
    for key in keys:
        yield document, key
        yield from _places(document[key])
