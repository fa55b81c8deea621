"""Extraction over a cluster: Ray's workers read and encode the images, this process writes the store.

Ray Data streams blocks of images through one actor for each GPU. An actor that dies is started anew, and its images are
read again. An image that ends every process that reads it keeps its place in the store, with this reason. The store is
written as by a single process, so that a run that is killed as a whole can be continued.
"""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from randar_features.data import ImageSource
from randar_features.features.extract import Extraction
from randar_features.features.store import Content, Encode, EncodedImages
from randar_features.features.table import FeatureTable
from randar_features.hub import Model
from randar_features.store.records import Block
from randar_features.store.shards import from_arrow, to_arrow

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

BATCHES_A_TASK = 8  # of images: what is done again where an actor dies
ATTEMPTS = 2  # to read an image alone
MOST_LOST = 20  # images in a row


def extract_features_ray(
    dataset: Any,
    model: str | Model = "randar-tiny",
    *,
    out: str | Path,
    workers: int | None = None,
    device: str | None = None,
    **options: Any,
) -> FeatureTable:
    """Run `extract_features` on the machines of a Ray cluster, into a folder.

    The cluster is the one of `ray.init`, or the one that RAY_ADDRESS names; else a new one on this machine alone.
    The features are the same as those of one process on the same kind of device.

    Args:
        dataset: images as for `open_images`, except streams, at paths that all machines share; or a
            `ray.data.Dataset` with a column "path" and perhaps "label".
        model: a name or folder that all machines have, or a loaded model, which is sent to them.
        out: folder of the table.
        workers: number of actors; None: one for each GPU, or for each CPU core if there are no GPUs.
        device: "cuda" or "cpu"; None: CUDA if the cluster has any.
        options: other options of `extract_features`. `dtype` cannot be "auto", because machines differ. Each actor
            decodes its own images (`num_workers` 0).

    Returns:
        The table in `out`. An image that cannot be read, or that kills the process that reads it, keeps its place.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: as for `extract_features`; or the images are a stream, or the cluster lacks the device.
        ray.exceptions.RayError: an actor failed.
    """
    import ray.data

    if options.get("dtype") == "auto":
        raise ValueError('dtype="auto" is another format on another machine: state one, such as "bfloat16"')
    extraction = Extraction(model=model, device="cpu", **options)
    if isinstance(dataset, ray.data.Dataset):
        dataset = _listed(dataset)
    return extraction.to_table(dataset, out, partial(_RayImages, extraction, workers, device))


def _listed(dataset: ray.data.Dataset) -> list[Any]:
    """The paths of a Ray data set, in its order, with their labels where it has them."""
    names = dataset.columns() or []
    if "path" not in names:
        raise ValueError(f'a Ray data set needs a column "path"; this one has {", ".join(names) or "none"}')
    wanted = ["path", "label"] if "label" in names else ["path"]
    selected = dataset.select_columns(wanted)
    selected.context.execution_options.preserve_order = True
    rows = selected.take_all()
    return [(row["path"], row["label"]) if "label" in row else row["path"] for row in rows]


def _workers(workers: int | None, device: str | None, resources: dict[str, float]) -> tuple[int, int]:
    """How many actors, and how many GPUs each: 1 or 0."""
    there = int(resources.get("GPU", 0))
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f'device must be "cuda", "cpu" or None with Ray, got {device!r}')
    if device == "cuda" and not there:
        raise ValueError('device="cuda", but the Ray cluster has no GPU')
    gpus = int(there > 0 and device != "cpu")
    most = there if gpus else max(1, int(resources.get("CPU", 1)))
    return (most if workers is None else max(1, min(workers, most))), gpus


class _Worker:
    """One actor: numbers of images in, their columns as a store has them out."""

    def __init__(self, source: ImageSource, extraction: Extraction) -> None:
        self.images = EncodedImages(source, *extraction.stored(), batch_size=extraction.batch_size or 32)

    def __call__(self, batch: pa.Table) -> pa.Table:
        [numbers] = batch.column("numbers").to_pylist()
        return self.read(numbers)

    @torch.no_grad()
    def read(self, numbers: list[int]) -> pa.Table:
        """The columns of images by number, and "number"."""
        import pyarrow as pa

        [block] = self.images.read(iter([numbers]))
        return pa.Table.from_batches([to_arrow(block)]).append_column("number", pa.array(numbers, pa.int64()))


def _block(table: pa.Table) -> Block:
    return from_arrow(table.drop_columns(["number"]).combine_chunks().to_batches()[0])


class _RayImages(EncodedImages):
    """Images that the actors of a cluster read and encode."""

    def __init__(
        self,
        extraction: Extraction,
        workers: int | None,
        device: str | None,
        source: ImageSource,
        encode: Encode,
        content: Content,
        **reading: Any,
    ) -> None:
        import ray

        super().__init__(source, encode, content, **reading)
        if self.streamed:
            raise ValueError(
                "a stream of images cannot be shared out: give files, a folder, Parquet, tars, or a data set"
            )
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        self._lost = 0
        self._workers, self._gpus = _workers(workers, device, ray.cluster_resources())
        self._worker = self.source, replace(extraction, device="cuda" if self._gpus else "cpu")

    def read(self, runs: Iterator[Sequence[int]]) -> Iterator[Block]:
        """The images of those numbers, in order; no block reaches from one run into the next."""
        size, wanted = self.batch_size, [list(run) for run in runs]  # Ray takes all tasks at once
        tasks = deque(run[at : at + size] for run in wanted for at in range(0, len(run), size))
        while tasks:
            came: int | None = None
            with closing(self._stream(list(tasks))) as stream:
                for table in stream:
                    while table.num_rows and (came := table["number"][0].as_py()) == tasks[0][0]:
                        task = tasks.popleft()
                        yield _block(table.slice(0, len(task)))
                        table = table.slice(len(task))
                    if table.num_rows:
                        break
            lost: list[int] = []  # whose actors died again and again
            while tasks and tasks[0][0] != came:
                lost += tasks.popleft()
            yield from self._one_by_one(lost)

    def _one_by_one(self, numbers: Sequence[int]) -> Iterator[Block]:
        """Images that are read alone; one that ends the process that reads it keeps its place.

        Raises:
            RuntimeError: so do many in a row, which is not for the images' sake.
            ray.exceptions.RayError: reading raises.
        """
        import ray

        worker = ray.remote(_Worker).options(num_gpus=self._gpus, num_cpus=0)
        actor: Any = None
        for number in numbers:
            for _ in range(ATTEMPTS):
                if actor is None:
                    gc.collect()  # the stream's objects refer to each other, and its processes hold every GPU till then
                    actor = worker.remote(*self._worker)
                try:
                    table = ray.get(actor.read.remote([number]))
                except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError):
                    actor = None
                else:
                    self._lost = 0
                    yield _block(table)
                    break
            else:
                yield self._nothing(number)

    def _nothing(self, number: int) -> Block:
        """The block of an image that ends the process that reads it."""
        self._lost += 1
        record = self.records()[number]
        reason = f"the process that read it died, {ATTEMPTS} times"
        if self._lost == MOST_LOST:
            raise RuntimeError(f"{MOST_LOST} images in a row, the last of them {record.path or number}: {reason}")
        columns = {name: np.full(value.shape, np.nan, self.dtype) for name, value in self.of_black.items()}
        return Block(columns, [record], [reason])

    def _stream(self, tasks: list[list[int]]) -> Generator[pa.Table, None, None]:
        """What the actors give of each task, in order; nothing of a task whose actor died twice."""
        import ray.data

        blocks = min(len(tasks), max(self._workers, math.ceil(len(tasks) / BATCHES_A_TASK)))
        stream = ray.data.from_items([{"numbers": task} for task in tasks], override_num_blocks=blocks).map_batches(
            _Worker,
            fn_constructor_args=self._worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(self._workers, blocks)),
            num_gpus=self._gpus,
            num_cpus=1,
            ray_remote_args_fn=lambda: {"max_task_retries": 1},
        )
        stream.context.execution_options.preserve_order = True
        stream.context.enable_progress_bars = False
        stream.context.max_errored_blocks = -1  # what raised will raise again where it is read alone
        yield from stream.iter_batches(batch_size=None, batch_format="pyarrow")
