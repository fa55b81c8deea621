"""Ready-made image tokens, one `.npy` an image, as RandAR and LlamaGen publish those of ImageNet, into token shards."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from randar_features.data.account import Account
from randar_features.data.archives import list_tar, read_member
from randar_features.data.listing import list_files
from randar_features.data.paths import reading
from randar_features.data.token_store import CROPS, CROPS_ENTRY, TOKENS, TokenStore, fill_token_store
from randar_features.store.identity import hash_bytes
from randar_features.store.records import OK, Block, Record


class _Codes:
    """`class index/file.npy` in a folder or a tar, sorted by class and file, numbers as numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        account = Account()
        if path.is_dir():
            self.places: dict[str, Any] = {str(name): path / name for name in list_files(path, account)}
        elif path.exists():
            self.places = {member.name: member for member in list_tar(path, account)}
        else:
            raise FileNotFoundError(f"no folder or tar of codes at {path}")
        for name in [name for name in self.places if not name.endswith(".npy")]:
            account.pass_over("that hold no codes (.npy)", name)
            del self.places[name]
        if not self.places:
            raise ValueError(f"no .npy files in {path}: expected one folder a class index with one .npy an image")
        account.images = len(self.places)
        account.tell()
        self.names = sorted(self.places, key=_natural)
        self.labels = [self._label(name) for name in self.names]

    def read(self, index: int) -> np.ndarray:
        """The array of one file; OSError or ValueError if it is torn."""
        with reading(self.path / self.names[index], "an array"):
            return np.load(io.BytesIO(self.content(index)), allow_pickle=False)

    def content(self, index: int) -> bytes:
        """The bytes of one file."""
        place = self.places[self.names[index]]
        return place.read_bytes() if isinstance(place, Path) else read_member(place)

    def _label(self, name: str) -> int:
        folder = PurePosixPath(name).parent.name
        if not folder.isdecimal():
            raise ValueError(
                f"{self.path} holds {name}, whose folder {folder!r} is no class index: expected names such as 207/1.npy"
            )
        return int(folder)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 2.npy in front of 10.npy."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def import_codes(
    codes: Path,
    folder: Path,
    *,
    vocab_size: int,
    tokenizer: str | None = None,
    image_size: int | None = None,
    **filling: Any,
) -> TokenStore | None:
    """A token store out of `codes`, a folder or tar of `class index/file.npy`, each (K, N) or (1, K, N) of K crops.

    Args:
        codes: such as the published imagenet-llamagen-adm-256_codes.tar (256 tokens of the centre crop and of its
            mirror image).
        folder: of the store; existing shards stay.
        vocab_size: codes of the tokenizer.
        tokenizer: `tokenizer_hash` of the one that made the codes, None where it is not known.
        image_size: pixels a side of what was encoded, None where it is not known.
        filling: `shard_size`, `rank`, `world_size`, `deadline`, as for `fill_token_store`.

    Returns:
        The store, or None while there are shards to make, by others or after the deadline. Files that are torn or of
        another shape are left out and named in its `unreadable`.

    Raises:
        FileNotFoundError: there is nothing at `codes`.
        ValueError: there are no such files in it, a code is not below `vocab_size`, or `folder` holds others.
    """
    source = _Codes(codes)
    shape = _first_shape(source)
    crops = next((names for names in CROPS.values() if len(names) == shape[0]), None)
    return fill_token_store(
        _CodeSource(source, shape, vocab_size),
        folder,
        {
            "tokenizer": tokenizer,
            "dtype": None,
            "vocab_size": vocab_size,
            "image_size": image_size,
            CROPS_ENTRY: crops or [f"view {number}" for number in range(shape[0])],
            "crop_range": None,
        },
        data=str(codes),
        progress="importing codes",
        **filling,
    )


def _first_shape(source: _Codes) -> tuple[int, int]:
    reason = ""
    for row in range(len(source.names)):
        try:
            crops, tokens = _as_crops(source.read(row)).shape
            return crops, tokens
        except (OSError, ValueError, EOFError) as error:
            reason = reason or f"{source.names[row]}: {error}"
    raise ValueError(f"none of {len(source.names)} files in {source.path} could be read; the first: {reason}")


def _as_crops(array: np.ndarray) -> np.ndarray:
    """(K, N), also of LlamaGen's (1, K, N) and of (N,); ValueError for anything else."""
    flat = array[0] if array.ndim == 3 and len(array) == 1 else array
    flat = flat[None] if flat.ndim == 1 else flat
    if flat.ndim != 2 or not flat.size or flat.dtype.kind not in "iu":
        raise ValueError(f"holds {array.dtype} {array.shape}, expected integers (K, N)")
    return flat


class _CodeSource:
    """Codes as a store takes them."""

    streamed, label_names = False, None

    def __init__(self, codes: _Codes, shape: tuple[int, int], vocab_size: int) -> None:
        self.codes, self.shape, self.vocab_size = codes, shape, vocab_size
        self.root, self.length = codes.path.resolve(), len(codes.names)

    def records(self) -> list[Record]:
        return [self._record(row) for row in range(self.length)]

    def read(self, runs: Iterator[Sequence[int]]) -> Iterator[Block]:
        for row in chain.from_iterable(runs):
            codes, status = self._codes(row)
            yield Block({TOKENS: codes[None]}, [self._record(row)], [status])

    def _record(self, row: int) -> Record:
        return Record(self.codes.names[row], self.codes.labels[row], hash_bytes(self.codes.content(row)))

    def _codes(self, row: int) -> tuple[np.ndarray, str]:
        """(K, N) uint16 and "ok", or zeros and why there are none."""
        try:
            codes = _as_crops(self.codes.read(row))
            if codes.shape != self.shape:
                raise ValueError(f"holds {codes.shape} codes, the others {self.shape}")
        except (OSError, ValueError, EOFError) as error:
            return np.zeros(self.shape, np.uint16), " ".join(str(error).split())
        if codes.min() < 0 or codes.max() >= self.vocab_size:
            raise ValueError(
                f"{self.codes.path}/{self.codes.names[row]} holds codes {codes.min()} to {codes.max()}, but the "
                f"tokenizer has {self.vocab_size}: give the tokenizer, or the number of codes, that made them"
            )
        return codes.astype(np.uint16), OK
