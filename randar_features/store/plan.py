"""Which rows of a store are there, which are to be made, and whether they are of the images given now."""

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from randar_features.store.identity import UNREADABLE
from randar_features.store.manifest import Manifest, images_in, write_manifest
from randar_features.store.records import OK, Record, Source, absolute, printable
from randar_features.store.shards import Shard, find_shards, superseded

NO_LABEL = -1
_SHOWN = 3


class OtherImagesError(ValueError):
    """A store is of other images than those given; `difference` says which, without the ways out."""

    def __init__(self, difference: str) -> None:
        super().__init__(f"{difference}. {_WAYS_OUT}")
        self.difference = difference


_WAYS_OUT = "Give another folder, remove that one to make it again, or bring it up to date with append (--append)"


class Present(NamedTuple):
    """A row that the store has."""

    record: Record
    readable: bool


@dataclass
class Plan:
    """What a run adds to a store.

    Attributes:
        manifest: of the store as it will be.
        shards: the existing ones that are whole.
        first: the row of the first image below.
        images: the number in the source of the image of each row from `first` on; None: of a stream, as they come.
        redo: numbers in the source of images that are read again, by row.
        renamed: new path and label of rows whose image has moved, by row.
        known: keys of images that a stream need not give again, as other parts have them.
    """

    manifest: Manifest
    shards: list[Shard]
    first: int
    images: Sequence[int] | None
    redo: dict[int, int] = field(default_factory=dict)
    renamed: dict[int, Record] = field(default_factory=dict)
    known: set[tuple[str | None, int]] = field(default_factory=set)

    def missing(self) -> list[range]:
        """The rows of each shard that is to be made, in order; of a stream whose length is not known, none."""
        have = {shard.rows.start for shard in self.shards}
        stop = self.first + (len(self.images) if self.images is not None else 0)
        if self.images is None and (rows := self.part["rows"]) is not None:
            stop = self.first + rows
        wanted = range(self.first, stop)
        return [
            rows
            for part in self.manifest["parts"]
            for rows in layout(part, self.manifest["shard_rows"])
            if rows.start not in have and rows.start in wanted
        ]

    def placed(self, records: Sequence[Record], given: Path | None, row: int) -> list[Record]:
        """Records whose paths begin at `given`, with their paths from the root of the part of `row` on."""
        root = root_of(self.manifest, row)
        paths = [None if root == given else absolute(record.path, given) for record in records]
        return [
            record if path is None else record._replace(path=within(path, root))
            for record, path in zip(records, paths, strict=True)
        ]

    @property
    def part(self) -> dict[str, Any]:
        """The part of the manifest that begins at `first`."""
        return next(part for part in self.manifest["parts"] if part["first"] == self.first)


def root_of(manifest: Manifest, row: int) -> Path | None:
    """The root of the data that a row belongs to."""
    part = next(part for part in reversed(manifest["parts"]) if part["first"] <= row)
    return None if part["root"] is None else Path(part["root"])


def rows_of(part: Mapping[str, Any]) -> range:
    """The rows of a part; none while its length is not known."""
    return range(part["first"], part["first"] + (part["rows"] or 0))


def layout(part: Mapping[str, Any], shard_rows: int) -> list[range]:
    """The rows of each shard of a part."""
    rows = rows_of(part)
    return [rows[start : start + shard_rows] for start in range(0, len(rows), shard_rows)]


def new_part(source: Source, data: str, first: int) -> dict[str, Any]:
    """The entry of a source in a manifest's parts."""
    root = None if source.root is None else str(source.root)
    return {"data": data, "root": root, "stream": source.streamed, "first": first, "rows": source.length}


def intact_shards(folder: Path) -> list[Shard]:
    """The shards that are whole, each read once; others are named in a warning and removed."""
    intact = []
    shards = find_shards(folder)
    for path in superseded(folder, shards):
        path.unlink(missing_ok=True)
    for shard in shards:
        try:
            _ = shard.batch
            intact.append(shard)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=4)
            shard.path.unlink(missing_ok=True)
    return intact


def make_plan(
    folder: Path, manifest: Manifest, source: Source, data: str, *, append: bool = False, retry: bool = False
) -> Plan:
    """What is to be done so that the store in `folder`, whose manifest is given, holds the images of `source`.

    Args:
        folder: of the store, whose lock is held.
        manifest: its manifest; changed in place.
        source: the images.
        data: their name, for the record.
        append: images that the store does not have are added, changed ones are read again. Images that are given
            without any label leave the labels that the store knows.
        retry: images that could not be read are read again.

    Raises:
        ValueError: the store is of other images, which are named, or of other classes; or a stream is to be retried.
    """
    if retry and source.streamed:
        raise ValueError("retry is for images that can be read in any order, got a stream: make its store anew")
    state = _State(folder, manifest, intact_shards(folder))
    if append:
        _take_classes(folder, manifest, source.label_names, state)
        return _plan_stream_append(state, source, data) if source.streamed else _Append(state, source, data).plan(retry)
    if not state.present:
        manifest["label_names"], manifest["parts"] = source.label_names, [new_part(source, data, 0)]
        images = None if source.streamed else range(source.length or 0)
        return Plan(manifest, [], 0, images)
    if source.label_names != manifest["label_names"]:
        raise OtherImagesError(
            f"{folder} was made of other images: its label_names are {_named(manifest['label_names'] or [])}, now "
            f"{_named(source.label_names or [])}"
        )
    return _plan_stream(state, source) if source.streamed else _plan_same(state, source, retry)


class _State:
    """What is there before a run."""

    def __init__(self, folder: Path, manifest: Manifest, shards: list[Shard]) -> None:
        self.folder, self.manifest, self.shards = folder, manifest, shards
        self.present: dict[int, Present] = {}
        for shard in shards:
            for row, record, status in zip(shard.rows, shard.records, shard.status, strict=True):
                self.present[row] = Present(record, status == OK)

    def path(self, row: int) -> str | None:
        """The whole path of a row's image."""
        return absolute(self.present[row].record.path, root_of(self.manifest, row))

    def stop(self, part: Mapping[str, Any]) -> int:
        """The row after the last one of a part that is there."""
        last = part is self.manifest["parts"][-1]
        limit = float("inf") if last or part["rows"] is None else part["first"] + part["rows"]
        return max((row + 1 for row in self.present if part["first"] <= row < limit), default=part["first"])

    def complete(self, part: Mapping[str, Any]) -> bool:
        """Whether all rows of a part are there."""
        return part["rows"] is not None and all(row in self.present for row in rows_of(part))

    def drop(self, shards: Sequence[Shard]) -> None:
        """Remove these shards from the store."""
        for shard in shards:
            shard.path.unlink(missing_ok=True)
            for row in shard.rows:
                self.present.pop(row, None)
        self.shards = [shard for shard in self.shards if shard not in shards]

    def fit(self) -> None:
        """Remove the shards that do not begin and end where the manifest now says; their images are read again."""
        parts, size = self.manifest["parts"], self.manifest["shard_rows"]
        wanted = {rows for part in parts for rows in layout(part, size)}
        open_from = parts[-1]["first"] if parts[-1]["rows"] is None else sys.maxsize
        self.drop([each for each in self.shards if each.rows not in wanted and each.rows.start < open_from])

    def close(self) -> None:
        """End the last part before its first missing row; an empty part is removed."""
        part = self.manifest["parts"][-1]
        stop = part["first"]
        while stop in self.present:
            stop += 1
        self.drop([shard for shard in self.shards if shard.rows.start >= stop])
        part["rows"] = stop - part["first"]
        if part["rows"] == 0:
            self.manifest["parts"].pop()


def same_image(held: Record, given: Record) -> bool:
    """Whether two records are of one image: equal content and label, or, of unreadable images, one path."""
    if held.hash == given.hash == UNREADABLE:
        return held.path == given.path
    return (held.hash, held.label) == (given.hash, given.label)


def _matches(held: Present, record: Record, lenient: bool) -> bool:
    """As `same_image`; `lenient`: an image that could not be read may have become any other."""
    return (lenient and not held.readable) or same_image(held.record, record)


# The images that the store is of


def _plan_same(state: _State, source: Source, retry: bool) -> Plan:
    """The plan if the store, or one of its parts, is of the images given."""
    records, manifest = source.records(), state.manifest
    parts = manifest["parts"]
    for first, chosen in [(0, parts), *((part["first"], [part]) for part in parts)]:
        rows = sum(part["rows"] or 0 for part in chosen)
        last = chosen[-1]
        unfinished = last is parts[-1] and not state.complete(last)
        if len(records) != rows and not (unfinished and first + len(records) >= state.stop(last)):
            continue
        if len(records) < last["first"] - first:
            continue
        held = {row: each for row, each in state.present.items() if first <= row < first + len(records)}
        if not all(_matches(each, records[row - first], retry) for row, each in held.items()):
            continue
        last["rows"] = first + len(records) - last["first"]
        redo = {row: row - first for row, each in held.items() if retry and not each.readable}
        renamed = _renamed(state, chosen, source, {row: records[row - first] for row in held if row not in redo})
        state.fit()
        return Plan(manifest, state.shards, first, range(len(records)), redo=redo, renamed=renamed)
    if _same_in_another_order(state, source, records):
        return Plan(manifest, state.shards, 0, [])
    raise OtherImagesError(
        f"{state.folder} was made of other images: {images_in(manifest)}, now {len(records)}. "
        f"{_differences(state, source, records)}"
    )


def _renamed(
    state: _State, parts: Sequence[dict[str, Any]], source: Source, records: Mapping[int, Record]
) -> dict[int, Record]:
    """New paths of rows whose files are called otherwise now; where only the root has moved, the manifest says so."""
    held = state.present
    differing = {row: record for row, record in records.items() if record.path != held[row].record.path}
    if not differing:
        for part in parts:
            part["root"] = None if source.root is None else str(source.root)
        return {}
    found = {}
    for row, record in differing.items():
        path = absolute(record.path, source.root)
        if path is not None and path != state.path(row):
            found[row] = record._replace(path=within(path, root_of(state.manifest, row)))
    return found


def within(path: str, root: Path | None) -> str:
    """The path from the root on, if it lies there."""
    return path.removeprefix(os.path.join(root, "")) if root is not None else path


def _same_in_another_order(state: _State, source: Source, records: Sequence[Record]) -> bool:
    """Whether a finished store is of these images, though not row by row; a list, whose order counts, is told."""
    if not all(map(state.complete, state.manifest["parts"])) or len(records) != len(state.present):
        return False
    held = sorted((each.record.hash, each.record.label) for each in state.present.values())
    hashes = {state.path(row): each.record.hash for row, each in state.present.items()}
    given = [(absolute(record.path, source.root), record.hash) for record in records]
    # Of two files that were exchanged each holds what the store has of the other.
    changed = any(path is not None and hashes.get(path, content) != content for path, content in given)
    if changed or held != sorted((record.hash, record.label) for record in records):
        return False
    if source.root is None:
        warnings.warn(
            f"the images are given in another order than {state.folder} has them, which it keeps", stacklevel=5
        )
    return True


def _differences(state: _State, source: Source, records: Sequence[Record]) -> str:
    """In words: which images changed, which have another label, which are new and which are gone."""
    held = {state.path(row) or each.record.hash: (each.record, f"row {row}") for row, each in state.present.items()}
    given = {
        absolute(record.path, source.root) or record.hash: (record, f"image {number}")
        for number, record in enumerate(records)
    }
    changed, moved, new = [], [], []
    for key, (record, number) in given.items():
        before = held.get(key)
        if before is None:
            new.append(number if record.path is None else key)
        elif before[0].hash != record.hash:
            changed.append(key)
        elif before[0].label != record.label:
            moved.append(key)
    gone = [number if record.path is None else key for key, (record, number) in held.items() if key not in given]
    groups = {"changed": changed, "with another label": moved, "new": new, "not given now": gone}
    said = [f"{len(names)} {what} ({_named(names)})" for what, names in groups.items() if names]
    return "; ".join(said) or "they are in another order"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(map(printable, names[:_SHOWN]))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


# Streams


def _plan_stream(state: _State, source: Source) -> Plan:
    """Go on with the stream that the store is of; its images are compared as they come."""
    parts = state.manifest["parts"]
    part = next((part for part in reversed(parts) if part["stream"]), None)
    lengths = set() if part is None else {part["rows"], source.length} - {None}
    whole = source.length == len(state.present) and all(map(state.complete, parts))
    if part is None or (len(lengths) > 1 and not whole):
        raise OtherImagesError(
            f"{state.folder} was made of other images: {images_in(state.manifest)}, now {source.length or 'a stream'}"
        )
    return Plan(state.manifest, state.shards, part["first"], None)


def _plan_stream_append(state: _State, source: Source, data: str) -> Plan:
    """Go on with an append that was not finished, or begin one."""
    parts = state.manifest["parts"]
    if state.complete(parts[-1]) or not parts[-1]["stream"]:
        if not state.complete(parts[-1]):
            state.close()
        # How many of the images are new is not known before all were seen.
        parts.append(new_part(source, data, sum(part["rows"] for part in parts)) | {"rows": None})
    first = parts[-1]["first"]
    keys = {_key(each.record) for row, each in state.present.items() if row < first}
    # An image without a label is the one that has a label.
    return Plan(state.manifest, state.shards, first, None, known=keys | {(name, NO_LABEL) for name, _ in keys})


def _key(record: Record) -> tuple[str | None, int]:
    """Equal for records of one image, as `same_image` says."""
    return (record.path if record.hash == UNREADABLE else record.hash), record.label


class Comparison:
    """Compares the images of a stream with the rows of a store, one after the other, before they are decoded.

    Args:
        folder: of the store.
        plan: what is to be done.
        pieces: parts of shards.
        finished: no image is to be read any more, so that the stream may be the whole store or any part of it, and
            must end there.
    """

    def __init__(self, folder: Path, plan: Plan, pieces: Sequence[Shard], finished: bool) -> None:
        self.folder, self.known, self.finished, self.position = folder, plan.known, finished, 0
        self.held = {
            row: record
            for shard in (*plan.shards, *pieces)
            for row, record in zip(shard.rows, shard.records, strict=True)
        }
        stop = max(self.held, default=-1) + 1
        parts = [rows_of(part) for part in plan.manifest["parts"] if part["stream"]]
        self.candidates = [range(stop), *parts] if finished else [range(plan.first, max(stop, plan.first))]

    def wants(self, record: Record) -> bool:
        """Whether the next image of the stream is to be counted, and read if its row is; OtherImagesError."""
        if _key(record) in self.known:
            return False
        agreeing = [rows for rows in self.candidates if self._agrees(rows, record)]
        if not agreeing:
            rows = next((rows for rows in self.candidates if self.position < len(rows)), None)
            if rows is None:
                self._refuse(f"it has {self.position}, and the stream has more now")
            self._refuse(
                f"row {rows[self.position]} ({record.path or 'no path'}) has other pixels or another label now"
            )
        self.candidates, self.position = agreeing, self.position + 1
        return not self.finished

    def _agrees(self, rows: range, record: Record) -> bool:
        if self.position >= len(rows):
            return not self.finished
        held = self.held.get(rows[self.position])
        return held is None or held.hash == UNREADABLE or same_image(held, record)

    def end(self) -> None:
        """The stream has ended; OtherImagesError if the store has more images."""
        if not any(self.position >= len(rows) for rows in self.candidates):
            self._refuse(f"it has {len(self.candidates[0])}, now {self.position} are given")

    def _refuse(self, difference: str) -> NoReturn:
        raise OtherImagesError(f"{self.folder} was made of other images: {difference}")


# Growth


def _take_classes(folder: Path, manifest: Manifest, names: list[str] | None, state: _State) -> None:
    """Take names of new classes into the manifest; ValueError where a label would mean another class."""
    held = manifest["label_names"]
    if names is None or names == held or (held is not None and held[: len(names)] == names):
        return
    unlabelled = all(each.record.label < 0 for each in state.present.values())
    if (held is None and unlabelled) or (held is not None and names[: len(held)] == held):
        manifest["label_names"] = names
        return
    if held is None:
        raise ValueError(f"{folder} cannot take images of named classes: its own labels have no names")
    label = next(label for label, pair in enumerate(zip(held, names, strict=False)) if pair[0] != pair[1])
    raise ValueError(
        f"{folder} cannot take images of other classes: label {label} is {printable(held[label])!r} there and "
        f"{printable(names[label])!r} now (label_names {_named(held)}; now {_named(names)}). Give the new class a name "
        "that sorts after the others, or make the store anew"
    )


class _Append:
    """Sorts the images given into those that the store has, those that changed or moved, and new ones."""

    def __init__(self, state: _State, source: Source, data: str) -> None:
        self.state, self.source, self.data = state, source, data
        self.records = source.records()
        self.paths = [absolute(record.path, source.root) for record in self.records]
        self.unlabelled = source.label_names is None and all(record.label < 0 for record in self.records)

    def plan(self, retry: bool) -> Plan:
        """See `make_plan`."""
        state, parts = self.state, self.state.manifest["parts"]
        for part in parts[:-1]:
            if not state.complete(part):
                return self._mend(part)
        if not state.complete(parts[-1]):
            images = self._unknown(parts[-1])
            held = {row: each for row, each in state.present.items() if row >= parts[-1]["first"]}
            if self._fits(parts[-1], images, held):
                if not held:
                    parts[-1].update(new_part(self.source, self.data, parts[-1]["first"]))
                parts[-1]["rows"] = len(images)
                state.fit()
                return Plan(state.manifest, state.shards, parts[-1]["first"], images)
            state.close()
            state.fit()
        return self._grow(retry)

    def _fits(self, part: Mapping[str, Any], images: Sequence[int], held: Mapping[int, Present]) -> bool:
        """Whether the existing rows of a part are of these images, in order."""
        first = part["first"]
        if not images or any(row >= first + len(images) for row in held):
            return False
        return all(_matches(each, self.records[images[row - first]], False) for row, each in held.items())

    def _unknown(self, part: Mapping[str, Any]) -> list[int]:
        """Numbers of the images that no other part has."""
        own = rows_of(part)
        others = _Known(self.state, [row for row in self.state.present if row not in own])
        return [number for number, row in enumerate(others.find(self.records, self.paths)) if row is None]

    def _mend(self, part: dict[str, Any]) -> Plan:
        """Make the missing rows of an earlier part of the images that it was made of."""
        images, own = self._unknown(part)[: part["rows"]], rows_of(part)
        held = {row: each for row, each in self.state.present.items() if row in own}
        if len(images) < part["rows"] or not self._fits(part, images, held):
            raise ValueError(
                f"{self.state.folder} lacks rows of {part['data']}, which cannot be told among the images given: "
                "run what made it with the images that it was made of, then append"
            )
        return Plan(self.state.manifest, self.state.shards, part["first"], images)

    def _grow(self, retry: bool) -> Plan:
        state = self.state
        known = _Known(state, list(state.present))
        rows = known.find(self.records, self.paths)
        claimed = {row for row in rows if row is not None}
        gone = {row for row in known.files if row not in claimed and known.gone(row)}
        redo, renamed, new, labelled = {}, {}, [], []
        for number, (row, record, path) in enumerate(zip(rows, self.records, self.paths, strict=True)):
            if row is None:
                new.append(number)
                continue
            held = state.present[row]
            if self.unlabelled and held.record.label >= 0:
                labelled.append(row)
                record = record._replace(label=held.record.label)
            if held.record.hash != record.hash or (retry and not held.readable):
                redo[row] = number
            if held.record.label != record.label or (path is not None and path != state.path(row)) or row in redo:
                renamed[row] = record._replace(
                    path=None if path is None else within(path, root_of(state.manifest, row))
                )
        self._report(redo, renamed, gone, labelled)
        first = sum(part["rows"] for part in state.manifest["parts"])
        if new:
            state.manifest["parts"].append(new_part(self.source, self.data, first) | {"rows": len(new)})
        return Plan(state.manifest, state.shards, first, new, redo=redo, renamed=renamed)

    def _report(
        self, redo: Mapping[int, int], renamed: Mapping[int, Record], gone: set[int], labelled: Sequence[int]
    ) -> None:
        """One warning that names what is not only new."""
        state = self.state
        groups = {
            "changed and are read anew": [row for row in redo if state.present[row].readable],
            "could not be read before and are read again": [row for row in redo if not state.present[row].readable],
            "have another name or label now": [row for row in renamed if row not in redo],
            "are given without a label, and keep the one that they have": labelled,
            "are gone, and keep their rows": sorted(gone),
        }
        said = [
            f"{len(rows)} {what} ({_named([state.path(row) or f'row {row}' for row in rows])})"
            for what, rows in groups.items()
            if rows
        ]
        if said:
            warnings.warn(f"images of {state.folder}: {'; '.join(said)}", stacklevel=6)


class _Known:
    """The images of some rows, to be found by name or by content.

    Attributes:
        files: the whole path of each row that has one.
    """

    def __init__(self, state: _State, rows: Sequence[int]) -> None:
        self.given = {row: (state.present[row].record, state.path(row)) for row in sorted(rows)}
        self.files = {row: path for row, (_, path) in self.given.items() if path is not None and os.path.isabs(path)}
        self._gone: dict[int, bool] = {}

    def gone(self, row: int) -> bool:
        """Whether there is no file of a row any more."""
        if row not in self._gone:
            self._gone[row] = row not in self.files or not os.path.exists(self.files[row])
        return self._gone[row]

    def find(self, records: Sequence[Record], paths: Sequence[str | None]) -> list[int | None]:
        """The row of each image, None where there is none; two images have one row only if they are equal in all."""
        found: dict[int, int] = {}
        free = dict(self.given)
        for key, of_gone in _WAYS:
            if not (left := [number for number in range(len(records)) if number not in found]):
                break
            rows: dict[Any, list[int]] = {}
            for row in reversed(free):
                rows.setdefault(key(*free[row]), []).append(row)
            for number in left:
                own = key(records[number], paths[number])
                same = None if own is None else rows.get(own)
                if same and not (of_gone and not self.gone(same[-1])) and _tells(key, records[number], paths[number]):
                    found[number] = same.pop()
                    del free[found[number]]
        equal = {(records[number], paths[number]): row for number, row in found.items()}
        return [found.get(number, equal.get(each)) for number, each in enumerate(zip(records, paths, strict=True))]


def _path_alone(record: Record, path: str | None) -> Any:
    return path


def _content_alone(record: Record, path: str | None) -> Any:
    return record.hash or None if path is not None and os.path.isabs(path) else None


# What tells that an image is that of a row, the surest first, and whether the row's file must be gone.
_WAYS: tuple[tuple[Callable[[Record, str | None], Any], bool], ...] = (
    (lambda record, path: (path, record.hash, record.label), False),
    (lambda record, path: (path, record.hash), False),  # another label
    (lambda record, path: (record.path, record.hash), True),  # the data have moved as a whole
    (_path_alone, False),  # other content
    (_content_alone, True),  # moved
)


def _tells(key: Any, record: Record, path: str | None) -> bool:
    """Whether the key tells images apart: a path does as a file or in one (a tar), and not as a name in a table."""
    if key is not _path_alone or path is None or record.hash == UNREADABLE:
        return True
    return any(place.is_file() for place in (Path(path), *Path(path).parents))


def abandon(folder: Path, manifest: Manifest) -> int:
    """Remove what an append that was not finished has added; number of rows that stay.

    ValueError if the store is finished.
    """
    state = _State(folder, manifest, intact_shards(folder))
    part = manifest["parts"][-1]
    if state.complete(part):
        raise ValueError(f"{folder} is finished: there is nothing to abandon")
    state.drop([shard for shard in state.shards if shard.rows.start >= part["first"]])
    manifest["parts"].pop()
    if manifest["parts"]:
        write_manifest(folder, manifest)
    return int(part["first"])
