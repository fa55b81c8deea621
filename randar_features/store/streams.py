"""The plan of a run whose images come as a stream, and their comparison with the rows of the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from randar_features.store.identity import UNREADABLE
from randar_features.store.manifest import images_in, new_part, rows_of
from randar_features.store.records import NO_LABEL, Record, Source
from randar_features.store.shards import Shard
from randar_features.store.state import OtherImagesError, Plan, State, same_image


def plan_stream(state: State, source: Source) -> Plan:
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


def plan_stream_append(state: State, source: Source, data: str) -> Plan:
    """Go on with an append that was not finished, or begin one; ValueError if an earlier part has lost rows."""
    parts = state.manifest["parts"]
    for part in parts[:-1]:
        if not state.complete(part):
            raise state.lost(part)
    if state.complete(parts[-1]) or not parts[-1]["stream"]:
        if not state.complete(parts[-1]):
            state.close()
        # The number of new images is known at the end of the stream.
        parts.append(new_part(source, data, sum(part["rows"] for part in parts)) | {"rows": None})
    first = parts[-1]["first"]
    keys = {_key(each.record) for row, each in state.present.items() if row < first}
    # An image that is given without a label is the one with a label.
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
        finished: all images are there; the stream must then be the whole store, or one of its parts.
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
