"""What a run adds to a store: a comparison of its rows with the images that are given now."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from randar_features.store.append import Append, take_classes
from randar_features.store.manifest import Manifest, images_in, new_part, root_of
from randar_features.store.records import Record, Source, absolute, within
from randar_features.store.state import OtherImagesError, Plan, State, grouped, intact_shards, matches, named
from randar_features.store.streams import plan_stream, plan_stream_append


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
    state = State(folder, manifest, intact_shards(folder))
    if append:
        take_classes(folder, manifest, source.label_names, state)
        return plan_stream_append(state, source, data) if source.streamed else Append(state, source, data).plan(retry)
    if not state.present:
        manifest["label_names"], manifest["parts"] = source.label_names, [new_part(source, data, 0)]
        images = None if source.streamed else range(source.length or 0)
        return Plan(manifest, [], 0, images)
    if source.label_names != manifest["label_names"]:
        raise OtherImagesError(
            f"{folder} was made of other images: its label_names are {named(manifest['label_names'] or [])}, now "
            f"{named(source.label_names or [])}"
        )
    return plan_stream(state, source) if source.streamed else plan_same(state, source, retry)


def plan_same(state: State, source: Source, retry: bool) -> Plan:
    """The plan if the given images are those of the store, or of one of its parts."""
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
        if not all(matches(each, records[row - first], retry) for row, each in held.items()):
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
    state: State, parts: Sequence[dict[str, Any]], source: Source, records: Mapping[int, Record]
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


def _same_in_another_order(state: State, source: Source, records: Sequence[Record]) -> bool:
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


def _differences(state: State, source: Source, records: Sequence[Record]) -> str:
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
    return grouped(groups) or "they are in another order"
