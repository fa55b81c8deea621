"""Samples of a model for measuring: image i is drawn with seed i, and is the same on any number of processes."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.tasks.generators.judged_sets import processes
from randar_features import Model
from randar_features.generation.gallery import Wanted, fill_gallery
from randar_features.generation.recipe import recipe_of
from randar_features.models import ImageTransformer
from randar_features.store.files import read_json, write_json

Labels = Literal["balanced", "uniform"]
GuidanceSchedule = Literal["linear", "constant"]
LARGEST_GRID = 1000
SPEED_FILE = "seconds.json"


@dataclass(frozen=True)
class Setting:
    """How samples are drawn.

    Attributes:
        order: name of the order; None: the model's only one.
        steps: as `generate` takes it.
        scale: of the guidance, its last where it grows.
        guidance: as `generate` takes it, in JSON's form.
    """

    order: str | None
    steps: int | None
    scale: float
    guidance: Any

    @property
    def folder(self) -> str:
        """A name for the folder of the samples."""
        guidance = "-".join(f"{value:g}" for value in np.atleast_1d(self.guidance))
        steps = "one-by-one" if self.steps == -1 else "recommended" if self.steps is None else str(self.steps)
        return f"{self.order or 'own-order'}_{steps}_{guidance}"

    def length(self, transformer: ImageTransformer) -> int:
        """Steps that the decoder really takes."""
        return len(recipe_of(transformer).schedule(None, transformer.config.num_tokens, 0, self.steps))


def scales_of(text: str) -> list[float]:
    """The scales that a text means: "1.0:8.0:0.5" is 1, 1.5, … 8; "4" is 4; ValueError for anything else."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and np.isfinite(numbers[0]):
        return numbers
    if len(numbers) == 3 and np.isfinite(numbers).all():
        first, last, step = numbers
        if step > 0 and first <= last and (last - first) / step < LARGEST_GRID:
            count = int(np.floor((last - first) / step + 1e-9)) + 1
            return [round(first + step * number, 10) for number in range(count)]
    raise ValueError(f"--guidance: expected scales as FIRST:LAST:STEP, such as 1.0:8.0:0.5, or one scale, got {text!r}")


def guidance_at(scale: float, schedule: GuidanceSchedule | None, transformer: ImageTransformer) -> Any:
    """The guidance of a scale: the same in all steps, or a pair that ends there; None: as published with the model."""
    own = recipe_of(transformer).guidance
    if schedule == "constant" or (schedule is None and not isinstance(own, tuple)):
        return scale
    return [own[0] if isinstance(own, tuple) else 1.0, scale]


def class_labels(labels: Labels, count: int, num_classes: int, seed: int = 0) -> NDArray[np.int64]:
    """The class of each image: every class in its turn, or drawn uniformly; the first ones of more are the same."""
    if labels == "balanced":
        return np.arange(count, dtype=np.int64) % num_classes
    return np.random.default_rng(seed).integers(num_classes, size=count)


def draw(
    model: Model,
    setting: Setting,
    classes: NDArray[np.int64],
    folder: Path,
    *,
    settings: dict[str, Any],
    notes: dict[str, Any],
    seed: int,
    batch_size: int,
) -> list[Path]:
    """The files of the images, in the order of the classes; those that are not there are drawn, by all processes.

    Args:
        classes: of each image.
        folder: where they are; images of other classes and seeds may be there too.
        settings: further arguments of `generate`.
        notes: what else images depend on.
        seed: of the first image.
        batch_size: images at once.
    """
    ranks = processes()
    wanted = [Wanted(int(one), seed + number) for number, one in enumerate(classes)]
    mine = wanted[ranks.process_index :: ranks.num_processes]
    arguments = {"steps": setting.steps, "guidance": setting.guidance, **settings}
    arguments |= {} if setting.order is None else {"order": setting.order}
    missing = sum(not (folder / one.filename).exists() for one in mine)
    clocks = time.perf_counter(), time.process_time()
    done = fill_gallery(model, mine, folder, arguments, notes=notes, batch_size=batch_size)
    with tqdm(total=len(mine), desc=setting.folder, unit="image", disable=not ranks.is_main_process) as bar:
        for count in done:
            bar.update(count)
    if missing and ranks.is_main_process:
        now = {"images": missing, "seconds": time.perf_counter() - clocks[0]}
        now["cpu_seconds"] = time.process_time() - clocks[1]
        held = dict(read_json(folder / SPEED_FILE)) if (folder / SPEED_FILE).exists() else dict.fromkeys(now, 0)
        write_json(folder / SPEED_FILE, {name: held[name] + value for name, value in now.items()})
    ranks.wait_for_everyone()
    return [folder / one.filename for one in wanted]


def speed_of(folder: Path) -> dict[str, float]:
    """Seconds an image, on the clock and of processor time, of all images drawn there by the first process."""
    held = read_json(folder / SPEED_FILE)
    each = {name: held[name] / held["images"] for name in ("seconds", "cpu_seconds")}
    return {f"{name}_per_image": value for name, value in each.items()}
