"""What a run adds to a store: a comparison of its rows with the images that are given now."""

from pathlib import Path

from randar_features.store.append import Append, take_classes
from randar_features.store.manifest import Manifest, new_part, write_manifest
from randar_features.store.records import Source
from randar_features.store.resume import plan_same
from randar_features.store.state import OtherImagesError, Plan, State, intact_shards, named
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


def abandon(folder: Path, manifest: Manifest) -> int:
    """Remove what an append that was not finished has added; number of rows that stay.

    ValueError if the store is finished.
    """
    state = State(folder, manifest, intact_shards(folder))
    part = manifest["parts"][-1]
    if state.complete(part):
        raise ValueError(f"{folder} is finished: there is nothing to abandon")
    state.drop([shard for shard in state.shards if shard.rows.start >= part["first"]])
    manifest["parts"].pop()
    if manifest["parts"]:
        write_manifest(folder, manifest)
    return int(part["first"])
