"""Published image tokens, one `.npy` for each image, as those of RandAR and LlamaGen for ImageNet, to token shards."""

import io
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from randar_features.data.containers.account import Account
from randar_features.data.containers.archives import list_tar, read_member
from randar_features.data.containers.listing import list_files
from randar_features.data.containers.paths import reading
from randar_features.data.token_store import CROPS, CROPS_ENTRY, TOKENS, TokenStore, fill_token_store
from randar_features.store.identity import hash_bytes
from randar_features.store.records import OK, Block, Record


class _Codes:
    """`class index/file.npy` in a folder or a tar, sorted by class and file, numbers as numbers; a `records.Source`."""

    streamed, label_names = False, None

    def __init__(self, path: Path, vocab_size: int) -> None:
        self.path, self.root, self.vocab_size = path, path.resolve(), vocab_size
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
        self.length = len(self.names)
        self.labels = [self._label(name) for name in self.names]
        self.shape = self._first_shape()

    def _label(self, name: str) -> int:
        folder = PurePosixPath(name).parent.name
        if not folder.isdecimal():
            raise ValueError(
                f"{self.path} holds {name}, whose folder {folder!r} is no class index: expected names such as 207/1.npy"
            )
        return int(folder)

    def _first_shape(self) -> tuple[int, ...]:
        reason = ""
        for row, name in enumerate(self.names):
            try:
                return self._crops(row).shape
            except (OSError, ValueError, EOFError) as error:
                reason = reason or f"{name}: {error}"
        raise ValueError(f"none of {self.length} files in {self.path} could be read; the first: {reason}")

    def _content(self, row: int) -> bytes:
        place = self.places[self.names[row]]
        return place.read_bytes() if isinstance(place, Path) else read_member(place)

    def _crops(self, row: int) -> np.ndarray:
        """Integers (K, N), also of LlamaGen's (1, K, N) and of (N,); OSError or ValueError for anything else."""
        with reading(self.path / self.names[row], "an array"):
            array = np.load(io.BytesIO(self._content(row)), allow_pickle=False)
        flat = array[0] if array.ndim == 3 and len(array) == 1 else array
        flat = flat[None] if flat.ndim == 1 else flat
        if flat.ndim != 2 or not flat.size or flat.dtype.kind not in "iu":
            raise ValueError(f"holds {array.dtype} {array.shape}, expected integers (K, N)")
        return flat

    def records(self) -> list[Record]:
        return [self._record(row) for row in range(self.length)]

    def _record(self, row: int) -> Record:
        return Record(self.names[row], self.labels[row], hash_bytes(self._content(row)))

    def read(self, runs: Iterator[Sequence[int]]) -> Iterator[Block]:
        for row in chain.from_iterable(runs):
            codes, status = self._codes(row)
            yield Block({TOKENS: codes[None]}, [self._record(row)], [status])

    def _codes(self, row: int) -> tuple[np.ndarray, str]:
        """(K, N) uint16 and "ok", or zeros and why there are none."""
        try:
            codes = self._crops(row)
            if codes.shape != self.shape:
                raise ValueError(f"holds {codes.shape} codes, the others {self.shape}")
        except (OSError, ValueError, EOFError) as error:
            return np.zeros(self.shape, np.uint16), " ".join(str(error).split())
        if codes.min() < 0 or codes.max() >= self.vocab_size:
            raise ValueError(
                f"{self.path}/{self.names[row]} holds codes {codes.min()} to {codes.max()}, but the tokenizer has "
                f"{self.vocab_size}: give the tokenizer, or the number of codes, that made them"
            )
        return codes.astype(np.uint16), OK


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
        filling: `shard_size`, `append`, `rank`, `world_size`, `deadline`, as for `fill_token_store`.

    Returns:
        The store, or None while there are shards to make, by others or after the deadline. Files that are torn or of
        another shape are left out and named in its `unreadable`.

    Raises:
        FileNotFoundError: there is nothing at `codes`.
        ValueError: there are no such files in it, a code is not below `vocab_size`, or `folder` holds others.
    """
    source = _Codes(codes, vocab_size)
    crops = next((names for names in CROPS.values() if len(names) == source.shape[0]), None)
    return fill_token_store(
        source,
        folder,
        {
            "tokenizer": tokenizer,
            "dtype": None,
            "vocab_size": vocab_size,
            "image_size": image_size,
            CROPS_ENTRY: crops or [f"view {number}" for number in range(source.shape[0])],
            "crop_range": None,
        },
        data=str(codes),
        progress="importing codes",
        **filling,
    )
