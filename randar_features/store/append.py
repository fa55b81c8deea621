"""The plan of a run that adds to a store: which images it has, which changed or moved, which are new."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from randar_features.store.identity import UNREADABLE
from randar_features.store.manifest import Manifest, new_part, root_of, rows_of
from randar_features.store.records import Record, Source, absolute, printable, within
from randar_features.store.state import Plan, Present, State, grouped, matches, named


def take_classes(folder: Path, manifest: Manifest, names: list[str] | None, state: State) -> None:
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
        f"{printable(names[label])!r} now (label_names {named(held)}; now {named(names)}). Give the new class a name "
        "that sorts after the others, or make the store anew"
    )


class Append:
    """Sorts the images given into those that the store has, those that changed or moved, and new ones."""

    def __init__(self, state: State, source: Source, data: str) -> None:
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
                # A killed run may not have read the changed images of other parts again.
                redo, renamed, _ = self._changes([row for row in state.present if row not in held], retry)
                return Plan(state.manifest, state.shards, parts[-1]["first"], images, redo=redo, renamed=renamed)
            state.close()
            state.fit()
        redo, renamed, new = self._changes(list(state.present), retry)
        first = sum(part["rows"] for part in parts)
        if new:
            parts.append(new_part(self.source, self.data, first) | {"rows": len(new)})
        return Plan(state.manifest, state.shards, first, new, redo=redo, renamed=renamed)

    def _fits(self, part: Mapping[str, Any], images: Sequence[int], held: Mapping[int, Present]) -> bool:
        """Whether the existing rows of a part are of these images, in order."""
        first = part["first"]
        if not images or any(row >= first + len(images) for row in held):
            return False
        return all(matches(each, self.records[images[row - first]], False) for row, each in held.items())

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
            raise self.state.lost(part)
        return Plan(self.state.manifest, self.state.shards, part["first"], images)

    def _changes(self, among: Sequence[int], retry: bool) -> tuple[dict[int, int], dict[int, Record], list[int]]:
        """`redo` and `renamed` of the plan for the rows `among`; and the numbers of the images that have no row."""
        state = self.state
        known = _Known(state, among)
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
        return redo, renamed, new

    def _report(
        self, redo: Mapping[int, int], renamed: Mapping[int, Record], gone: set[int], labelled: Sequence[int]
    ) -> None:
        """Warn of all images that are not simply new."""
        state = self.state
        groups = {
            "changed and are read anew": [row for row in redo if state.present[row].readable],
            "could not be read before and are read again": [row for row in redo if not state.present[row].readable],
            "have another name or label now": [row for row in renamed if row not in redo],
            "are given without a label, and keep the one that they have": labelled,
            "are gone, and keep their rows": sorted(gone),
        }
        said = {what: [state.path(row) or f"row {row}" for row in rows] for what, rows in groups.items()}
        if any(said.values()):
            warnings.warn(f"images of {state.folder}: {grouped(said)}", stacklevel=6)


class _Known:
    """Finds the row of an image, among some rows, by name or by content.

    Attributes:
        files: the whole path of each row that has one.
    """

    def __init__(self, state: State, rows: Sequence[int]) -> None:
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


# Keys by which the row of an image is found, the surest first; and whether the row's file must be gone.
_WAYS: tuple[tuple[Callable[[Record, str | None], Any], bool], ...] = (
    (lambda record, path: (path, record.hash, record.label), False),
    (lambda record, path: (path, record.hash), False),  # another label
    (lambda record, path: (record.path, record.hash), True),  # the data have moved as a whole
    (_path_alone, False),  # other content
    (_content_alone, True),  # moved
)


def _tells(key: Any, record: Record, path: str | None) -> bool:
    """Whether the key tells images apart: the path of a file or in a tar does, a name in a table does not."""
    if key is not _path_alone or path is None or record.hash == UNREADABLE:
        return True
    return any(place.is_file() for place in (Path(path), *Path(path).parents))
