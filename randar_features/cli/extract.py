"""`randar extract`: features of images in a store on disk."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from randar_features import FeatureStore, abandon_extraction, extract_features_ray, extract_to_store
from randar_features.data.profile import watching
from randar_features.options.command import run
from randar_features.options.parse import positional
from randar_features.options.shared import (
    DType,
    ImageOptions,
    ModelOptions,
    Pooling,
    StoreDType,
    fields_of,
    one_or_several,
)
from randar_features.options.types import Count, Seed, Share
from randar_features.sequence import Context
from randar_features.store.records import printable

SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(ModelOptions, ImageOptions):
    """Extract the features of images into a store on disk.

    If it was killed, run it again: it continues at the first missing shard. An image that cannot be read keeps its
    place and is named at the end. Several processes can share the work:
    torchrun --nproc-per-node 8 --no-python randar extract …, or, with --ray, the actors of a Ray cluster.

    Attributes:
        data: a folder, image files, Parquet files or a tar.
        out: folder of the store.
        layers: blocks from 0, negative from the end; none: those that the model recommends.
        context: how the image is shown; none: as the model recommends.
        read: tokens at which features are taken: image, instruction, query or leave_one_out, if the model has them.
        norm: apply the model's final norm.
        orders: average over this many random orders; none: one raster order.
        seed: seed of the random orders.
        pooling: mean: one vector for each image; none: the maps.
        dtype: number format of the products; auto: the fastest of this machine.
        store_dtype: number format on disk.
        append: add the images that the store does not have yet, read changed ones again, and name those that are gone.
        retry: read again the images that could not be read.
        abandon: remove what an unfinished run has added, and do nothing else.
        shard_rows: images in one file of the store; none: 1024, or as many as make 64 MiB.
        max_unreadable: if a larger share of the images is unreadable, the exit status is 1.
        progress: show a bar.
        profile: print seconds and images/s of decoding, tokenizing, encoding and writing.
        ray: run on a Ray cluster: the one of RAY_ADDRESS, else on this machine.
        ray_workers: number of actors; none: one for each GPU, or for each CPU core if there are no GPUs.
    """

    data: tuple[str, ...] = positional()
    out: Path
    layers: tuple[int, ...] | None = None
    context: tuple[Context, ...] | None = None
    read: tuple[str, ...] = ("image",)
    norm: bool = False
    orders: Count | None = None
    seed: Seed = 0
    pooling: Pooling = "mean"
    dtype: DType = "float32"
    store_dtype: StoreDType = "float16"
    append: bool = False
    retry: bool = False
    abandon: bool = False
    shard_rows: Count | None = None
    max_unreadable: Share = 0.01
    progress: bool = True
    profile: bool = False
    ray: bool = False
    ray_workers: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed and self.orders is None:
            raise ValueError(f"--seed {self.seed} draws random orders: give --orders too, or leave it out")
        if self.ray_workers is not None and not self.ray:
            raise ValueError(f"--ray-workers {self.ray_workers} is for --ray: give that too, or leave it out")


def extract(options: ExtractOptions) -> int:
    """Write the store, and name the images that could not be read."""
    if options.abandon:
        print(f"{options.out}: {abandon_extraction(options.out)} images stay")
        return 0
    pool = None if options.pooling == "none" else options.pooling
    own = ("data", "out", "pooling", "abandon", "max_unreadable", "profile", "ray", "ray_workers")
    others = fields_of(options, but=own) | {"pool": pool}
    images = one_or_several(options.data)
    with watching() if options.profile else nullcontext() as stopwatch:
        if options.ray:
            extract_features_ray(images, out=options.out, workers=options.ray_workers, **others)
            store = FeatureStore(options.out)
        else:
            store = extract_to_store(images, options.out, **others)
    print(store)
    for name in store.names:
        print(f"  {name}: {store.shape(name)}")
    if stopwatch is not None:
        print(stopwatch.report(options.num_workers))
    return name_unreadable(store, options.max_unreadable)


def name_unreadable(store: FeatureStore, limit: float) -> int:
    """Name the images that could not be read; 1 if they are more than the share `limit`, else 0."""
    failed = np.flatnonzero(~store.ok)
    if len(failed):
        print(f"{len(failed)} of {len(store)} images could not be read; their features are NaN:")
    for index in failed[:SHOWN]:
        print(f"  image {index} ({printable(store.paths[index] or 'no path')}): {printable(store.status[index])}")
    if len(failed) > SHOWN:
        print(f"  and {len(failed) - SHOWN} more: `status` of the store has all")
    if beyond := len(failed) > limit * len(store):
        print(f"They are more than the share of --max-unreadable, {limit:g}: the exit status is 1")
    return int(beyond)


main = partial(run, extract, ExtractOptions, program="randar extract")
