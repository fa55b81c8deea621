"""Images of any source as batches of square pixels, in which no image ever shifts."""

from __future__ import annotations

import operator
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from randar_features.data.containers.account import Account
from randar_features.data.containers.items import parse_item
from randar_features.data.containers.labels import LabelError, one_label, quoted
from randar_features.data.containers.paths import one_line
from randar_features.data.decode.decoding import check_image, read_pixels
from randar_features.data.decode.opening import ImageError
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.data.profile import note
from randar_features.store.identity import UNREADABLE, hash_image
from randar_features.store.records import NO_LABEL, OK


@dataclass(frozen=True)
class ImageBatch:
    """Consecutive images of a source, in its order.

    Attributes:
        pixels: float32 ``(b, 3, S, S)`` in [0, 1]; zeros where the status is not ``"ok"``.
        labels: class of each image, or None.
        paths: file of each image, or None.
        status: ``"ok"``, or the reason why the image could not be read.
        hashes: of the content of each image, as it was read; see ``store.identity``.
        files: whether each image is a file of its own; else its path is a name in a table or an archive.
    """

    pixels: Tensor
    labels: list[int | None]
    paths: list[str | None]
    status: list[str]
    hashes: list[str]
    files: list[bool]


class UndecodedImage(NamedTuple):
    """An image as it came, its class and file, and the hash of its content unless it is a file."""

    image: Any
    label: int | None
    path: str | None
    hash: str


class ImageSource:
    """Images in a fixed order, of known or unknown number. :func:`open_images` makes it.

    Attributes:
        length: number of images, or None for a stream that cannot tell.
        label_names: name of each class, or None.
        labels: int64 (n,), −1 where an image has none, as known at opening; None where no image has a label, or
            where labels come with the items.
        streamed: whether the images can only be read one after the other.
        account: what was found at opening, and what of it is not used.
        reading: the range of values and the largest size of a picture.
        root: the folder or archive that paths of the images begin with, as it was given; None: they have none.
    """

    def __init__(
        self,
        items: Any,
        account: Account,
        *,
        length: int | None,
        label_names: list[str] | None,
        labels: NDArray[np.int64] | None = None,
        streamed: bool = False,
    ) -> None:
        self._items, self.account = items, account
        self.length, self.label_names, self.labels, self.streamed = length, label_names, labels, streamed
        self.reading = DEFAULT_READING
        self.root: Path | None = None
        self._picked: Callable[[UndecodedImage], bool] | None = None

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("this stream of images has no known length")
        return self.length

    def batches(
        self, image_size: int, batch_size: int, num_workers: int = 0, rows: Iterable[Sequence[int]] | None = None
    ) -> Iterator[ImageBatch]:
        """All images in order, as ADM centre crops of ``image_size`` pixels a side, ``batch_size`` at a time.

        ``rows``: read only these runs of numbers of images, one after the other; a batch is of one run. A stream skips
        what lies before and between the runs, which must come in order, and ends at the first run that it cannot fill.

        An image that cannot be read keeps its place: its pixels are zeros, and its status is the reason.
        ``num_workers`` processes decode; streams and DataLoaders are decoded here.

        Raises:
            TypeError, ValueError: a size is less than 1, or a stream begins with something that is no image.
        """
        if image_size < 1 or batch_size < 1 or num_workers < 0:
            raise ValueError(
                "expected image_size and batch_size of at least 1 and num_workers of at least 0, got "
                f"image_size={image_size}, batch_size={batch_size}, num_workers={num_workers}"
            )
        decoder = _Decoder(self, image_size)
        if self.streamed:
            ranges = [range(sys.maxsize)] if rows is None else cast(Iterable[range], rows)
            items, picked = _checked_first(self._items), self._picked
            if picked is not None:
                items = (item for item in items if picked(self._undecoded(item)))
            return self._told(_stream(items, decoder.decode, batch_size, ranges))
        runs = [range(len(self))] if rows is None else rows
        # Lazily, since training reads more numbers than fit into memory.
        parts: Any = (run[start : start + batch_size] for run in runs for start in range(0, len(run), batch_size))
        loader = DataLoader(
            decoder,
            batch_sampler=parts,
            num_workers=num_workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # else the loader draws from the global one
        )
        with torch.device("cpu"):  # where the loader draws the seed of its processes
            return self._told(iter(loader))

    def pictures(self, numbers: Iterable[int], size: int) -> dict[int, NDArray[np.uint8]]:
        """The middle squares of some images by number, (size, size, 3); those that cannot be read are left out."""
        wanted = sorted(set(map(int, numbers)))
        batches = self.batches(size, 1, rows=(range(number, number + 1) for number in wanted))
        return {
            number: (255 * batch.pixels[0]).round().byte().permute(1, 2, 0).numpy()
            for number, batch in zip(wanted, batches, strict=False)
            if batch.status[0] == OK
        }

    def _told(self, batches: Iterator[_Decodings]) -> Iterator[ImageBatch]:
        """The batches; labels that are dropped are entered in the account on the way."""
        for decoded in batches:
            note("decode", decoded.seconds, len(decoded.batch.status))
            for image in decoded.dropped:
                self.account.drop(*image)
            for picture in decoded.noted:
                self.account.notice(*picture)
            yield decoded.batch

    def read_with(self, reading: Reading) -> ImageSource:
        """The same images under another range of values and limit of size."""
        source = copy(self)
        source.reading = reading
        return source

    def picked(self, wanted: Callable[[UndecodedImage], bool]) -> ImageSource:
        """The wanted images of a stream; `wanted` is called for each in order, before it is decoded."""
        source = copy(self)
        source._picked = wanted
        return source

    def files(self) -> list[Path]:
        """The files that hold the images, one for each or many in one, in order; empty where there are none."""
        items = self._items
        while isinstance(items, Subset):
            items = items.dataset
        if isinstance(files := getattr(items, "files", None), list):
            return files
        paths = [parse_item(item).path for item in self._items[: self.length]] if self._is_list else []
        return [Path(path) for path in paths if path is not None]

    def first(self, count: int) -> ImageSource:
        """The first images alone, all if there are no more; ValueError for a stream, or a count below 1."""
        if self.streamed or count < 1:
            found = "a stream" if self.streamed else str(count)
            raise ValueError(f"expected images in a fixed order and a count of at least 1, got {found}")
        return self.take(range(min(count, len(self))))

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageSource:
        """Some of the images, by their numbers from 0, in the order of the numbers.

        Raises:
            ValueError: a stream, which cannot be read in any order.
            IndexError: a number below 0, or beyond the last image.
        """
        if self.streamed:
            raise ValueError("expected images that can be read in any order, got a stream")
        chosen = [operator.index(index) for index in indices]
        if outside := [index for index in chosen if not 0 <= index < len(self)]:
            raise IndexError(f"there is no image {outside[0]}: the source holds images 0 to {len(self) - 1}")
        source = copy(self)
        source._items = [self._items[index] for index in chosen] if self._is_list else Subset(self._items, chosen)
        source.length, source.labels = len(chosen), None if self.labels is None else self.labels[chosen]
        return source

    @property
    def _is_list(self) -> bool:
        return isinstance(self._items, (list, tuple))

    def items(self) -> Iterator[UndecodedImage]:
        """All images of a source that is no stream, undecoded; what cannot be read is None."""
        for row in range(len(self)):
            try:
                item = self._items[row]
            except Exception:  # a data set of somebody else may raise anything for one bad image
                item = None
            found = self._undecoded(item)
            if self.labels is not None:
                found = found._replace(label=None if self.labels[row] == NO_LABEL else int(self.labels[row]))
            yield found

    def _undecoded(self, item: Any) -> UndecodedImage:
        try:
            image, given, path = parse_item(item)
        except Exception:  # as in `items`
            return UndecodedImage(None, None, None, UNREADABLE)
        is_file = isinstance(image, (str, os.PathLike))
        digest = UNREADABLE if is_file or image is None else hash_image(image)
        return UndecodedImage(image if is_file else None, _label(given, self.label_names)[0], path, digest)


def readable_batches(
    source: ImageSource, *, image_size: int, batch_size: int, description: str
) -> Iterator[tuple[Tensor, list[int]]]:
    """Pixels (b, 3, S, S) and labels (−1: none) of the images that can be read, with a progress bar.

    ValueError: none can be read.
    """
    count, reason = 0, "there is none"
    with tqdm(total=source.length, desc=description, unit="image") as bar:
        for batch in source.batches(image_size, batch_size):
            good = [index for index, status in enumerate(batch.status) if status == OK]
            bar.update(len(batch.status))
            count += len(good)
            if good:
                labels = (batch.labels[index] for index in good)
                yield batch.pixels[good], [-1 if label is None else label for label in labels]
            else:
                reason = batch.status[0]
    if not count:
        raise ValueError(f"none of the images could be read; the last: {reason}")


class _Decoding(NamedTuple):
    """One image, decoded; `dropped`: why its label was not taken, and the label; `noted`: a warning, and its path."""

    pixels: Tensor
    label: int | None
    path: str | None
    status: str
    hash: str = UNREADABLE
    is_file: bool = False
    dropped: tuple[str, str] | None = None
    noted: tuple[str, str] | None = None
    seconds: float = 0.0


class _Decodings(NamedTuple):
    batch: ImageBatch
    seconds: float
    dropped: list[tuple[str, str]]
    noted: list[tuple[str, str]]


class _Decoder(Dataset[_Decoding]):
    """Items of a source as pixels and labels. It goes to the processes that decode."""

    def __init__(self, source: ImageSource, image_size: int) -> None:
        self.items, self.labels = source._items, source.labels
        self.image_size, self.names, self.reading = image_size, source.label_names, source.reading

    def __getitem__(self, index: int) -> _Decoding:
        try:
            item = self.items[index]
        except Exception as error:  # a data set of somebody else may raise anything for one bad image
            decoding = self._failed(error)
        else:
            decoding = self.decode(item)
        if self.labels is None:
            return decoding
        label = int(self.labels[index])
        return decoding._replace(label=None if label == NO_LABEL else label, dropped=None)

    def decode(self, item: Any) -> _Decoding:
        """An item, and how long it took."""
        start = time.perf_counter()
        return self._decoded(item)._replace(seconds=time.perf_counter() - start)

    def _decoded(self, item: Any) -> _Decoding:
        label, path, dropped, digest, is_file = None, None, None, UNREADABLE, False
        try:
            image, given, path = parse_item(item)
            is_file = isinstance(image, (str, os.PathLike))
            label, dropped = _label(given, self.names)
            if image is None:
                raise ImageError("there is no image: the item is None")
            digest = hash_image(image)
            pixels, note = read_pixels(image, self.image_size, self.reading)
        except Exception as error:
            failed = self._failed(error)
            return failed._replace(label=label, path=path, hash=digest, is_file=is_file, dropped=dropped)
        noted = None if note is None else (note, path or "an image without a file")
        return _Decoding(pixels, label, path, OK, digest, is_file, dropped, noted)

    def _failed(self, error: Exception) -> _Decoding:
        pixels = torch.zeros(3, self.image_size, self.image_size, dtype=torch.float32, device="cpu")
        return _Decoding(pixels, None, None, one_line(error))


def _label(given: Any, names: Sequence[str] | None) -> tuple[int | None, tuple[str, str] | None]:
    """A label as a class, or why it is dropped."""
    try:
        return one_label(given, names), None
    except LabelError as error:
        return None, (str(error), quoted(given))


def _collate(decodings: Sequence[_Decoding]) -> _Decodings:
    pixels, labels, paths, status, hashes, files, dropped, noted, seconds = zip(*decodings, strict=True)
    batch = ImageBatch(torch.stack(pixels), list(labels), list(paths), list(status), list(hashes), list(files))
    return _Decodings(
        batch, sum(seconds), *([each for each in several if each is not None] for several in (dropped, noted))
    )


def _stream(
    items: Iterator[Any], decode: Callable[[Any], _Decoding], batch_size: int, runs: Iterable[range]
) -> Iterator[_Decodings]:
    position = 0
    for run in runs:
        wanted = islice(items, run.start - position, run.stop - position)
        position = run.start
        while decodings := [decode(item) for item in islice(wanted, batch_size)]:
            yield _collate(decodings)
            position += len(decodings)
        if position < run.stop:
            return


def _checked_first(items: Iterable[Any]) -> Iterator[Any]:
    """The items of a stream, the first of them checked.

    A stream cannot go on after it failed, and must not look as if it had ended: ImageError says how far it came.
    """
    count = 0
    iterator = iter(items)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            if count == 0 and isinstance(error, (TypeError, ValueError)):
                raise
            raise ImageError(
                f"the stream of images failed after {count} of them: {one_line(error)}. A data set that is read by "
                "index keeps such an image's place, and goes on"
            ) from error
        if count == 0:
            check_item(item)
        count += 1
        yield item


def check_item(item: Any) -> None:
    """See that an item holds an image, or nothing; TypeError or ValueError otherwise."""
    image = parse_item(item).image
    if image is not None:
        check_image(image)
