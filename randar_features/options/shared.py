"""Options that several commands share: one name and one meaning each."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from randar_features.data.decode.ranges import Reading
from randar_features.options.parse import flag
from randar_features.options.types import Count, Natural, NonNegative

DType = Literal["float32", "bfloat16", "float16", "auto"]
WeightsDType = Literal["float32", "bfloat16", "float16"]
StoreDType = Literal["float16", "float32"]
Pooling = Literal["mean", "none"]
VectorPooling = Literal["mean", "1x1+2x2", "mean+deviation", "max", "flat"]
Normalization = Literal["unit", "standardized", "whitened", "auto"]
Order = Literal["random", "raster", "spiral", "centre_out", "hierarchical", "spread", "confidence"]
Schedule = Literal["randar", "arccos", "cosine"]
Probe = Literal["logistic", "linear", "knn", "few-shot", "attentive"]


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where it is computed.

    Attributes:
        device: cpu, cuda, cuda:1; none: CUDA if there is one, else the CPU.
    """

    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(DeviceOptions):
    """Which model, and where it is computed.

    Attributes:
        model: name of a model (`randar doctor` lists them), a folder that training wrote, or owner/name on the Hub.
    """

    model: str = "randar-tiny"


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Reading):
    """How images are read.

    Attributes:
        split: which split of the data, such as train; none: the data as they are.
        batch_size: images in one forward pass.
        num_workers: processes that decode images; 0: this one.
    """

    split: str | None = None
    batch_size: Count = 32
    num_workers: Natural = 0


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """When to stop.

    Attributes:
        max_minutes: stop after this many minutes at the next step or shard, with exit status 75; none: no limit.
    """

    max_minutes: NonNegative | None = None

    def deadline(self) -> float | None:
        """`time.monotonic` when the time is up, counted from now; None: no limit."""
        return None if self.max_minutes is None else time.monotonic() + 60 * self.max_minutes


def fields_of(options: Any, *, but: Sequence[str] = ()) -> dict[str, Any]:
    """The options by name, as arguments of a function that calls them the same; `but` those that it does not take."""
    return {field.name: getattr(options, field.name) for field in fields(options) if field.name not in but}


def given(options: Any, names: Iterable[str]) -> list[str]:
    """Those of the names whose options are not at their defaults."""
    defaults = {each.name: each.default for each in fields(options)}
    return [name for name in names if getattr(options, name) != defaults[name]]


def check_no_images(options: Any, names: Iterable[str], store: str) -> None:
    """ValueError for the first option by these names that was given, since it is for images, not for their features."""
    if named := given(options, names):
        raise ValueError(f"{flag(named[0])} is for images, and {store} is a store of features: leave it out")


def one_or_several(names: Sequence[str]) -> str | list[str]:
    """A folder or file by itself, which may hold many images; several as a list."""
    return names[0] if len(names) == 1 else list(names)
