"""Options that benchmarks share; a bad value is refused when they are made, before any work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.encoders.base import Encoder
from randar_features.data.decode.ranges import Reading
from randar_features.options.parse import flag, option
from randar_features.options.shared import DeviceOptions, DType, StoreDType, given
from randar_features.options.types import Count, Natural, Seed, check_ranges
from randar_features.sequence import Context

Read = Literal["image", "instruction", "query", "leave_one_out"]
Head = Literal["linear", "knn", "logistic"]
HoldOut = Literal["stratified", "last"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every task.

    Attributes:
        out: folder of the result; none: runs/ and the name of the task.
    """

    out: Path | None = None

    def folder(self, task: str) -> Path:
        """Where a task's result goes."""
        return self.out or Path("runs") / task.replace("_", "-")

    def __post_init__(self) -> None:
        """ValueError for a value out of its range, or one that is none of the choices."""
        check_ranges(self)


def check_own(options: Any, own: Mapping[str, Sequence[str]], chosen: str | Sequence[str], by: str) -> None:
    """ValueError for an option that is not at its default, and has no effect on what was chosen.

    own: what each option belongs to, such as probes, by its name. chosen: one or several of these; by: the option that
    chooses them.
    """
    chosen = [chosen] if isinstance(chosen, str) else chosen
    for name in given(options, own):
        if not {*own[name]} & {*chosen}:
            raise ValueError(
                f"{flag(name)} is for --{by} {' or '.join(own[name])}, got {getattr(options, name)} for "
                f"{', '.join(chosen)}: leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class ImageTaskOptions(RunOptions, Reading, DeviceOptions):
    """Options of every task that reads images of the user."""

    def __post_init__(self) -> None:
        RunOptions.__post_init__(self)
        Reading.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(ImageTaskOptions):
    """How features are computed and kept.

    Attributes:
        batch_size: images in one forward pass.
        dtype: number format of the products; auto: the fastest of this machine.
        cache: folder that keeps features.
        seed: seed of all random choices.
    """

    batch_size: Count = 32
    dtype: DType = "float32"
    cache: str = "runs/features"
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(ComputeOptions):
    """How the features of a data set are read and kept.

    Attributes:
        num_workers: processes that decode images; 0: this one.
        store_dtype: number format of the features on disk.
    """

    num_workers: Natural = 0
    store_dtype: StoreDType = "float16"

    @property
    def store(self) -> dict[str, Any]:
        """Arguments of `extract`."""
        about = {"folder": self.cache, "dtype": self.store_dtype, "reading": self.reading}
        return about | {"batch_size": self.batch_size, "num_workers": self.num_workers}


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """What the numbers in masks mean.

    Attributes:
        labels: camvid, photo-digits or voc: their classes and the value to ignore; or a JSON file with the names of the
            classes from 0 on; none: num_classes counts them.
        num_classes: number of classes, if labels are not given.
        ignore_index: value of the pixels to ignore, unless labels state it; none: 255.
    """

    labels: str | None = None
    num_classes: Count | None = None
    ignore_index: int | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(FeatureOptions):
    """The encoders, and the features of each that are measured.

    Attributes:
        encoder: one or several encoders: name or folder of a model, pixels, histogram, codes, latents, codes:MODEL,
            latents:MODEL, efficientnet-lite0, timm:NAME, timm:NAME=FILE, timm:hf-hub:OWNER/NAME, MODULE:FACTORY,
            features:FILE (.npy or .parquet).
        outputs: features to measure, such as reverse/image/2; none, or an encoder that has none of them: all
            features of that encoder.
        context: how images are shown to generators; none: in every way that they have.
        read: tokens at which features of generators are taken; none: all that they have.
        orders: for generators, average over this many random orders; none: one raster order.
    """

    encoder: tuple[str, ...] = option("--encoders", default=("randar-tiny",))
    outputs: tuple[str, ...] | None = None
    context: tuple[Context, ...] | None = option("--contexts", default=None)
    read: tuple[Read, ...] | None = option("--reads", default=None)
    orders: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if twice := [name for name in self.encoder if self.encoder.count(name) > 1]:
            raise ValueError(f"--encoder must name each encoder once, got {twice[0]} {len(twice)} times")

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments of `load_encoder`."""
        about = {"contexts": self.context, "reads": self.read, "orders": self.orders}
        return about | {"device": self.device, "dtype": self.dtype}

    def chosen(self, encoder: Encoder) -> list[str] | None:
        """The outputs to measure that an encoder has; None, all, if it has none of them and is not the only one.

        Raises:
            ValueError: the only encoder lacks one of them.
        """
        if self.outputs is None or len(self.encoder) == 1:
            return None if self.outputs is None else encoder.choose(self.outputs)
        return [name for name in self.outputs if name in encoder.outputs] or None
