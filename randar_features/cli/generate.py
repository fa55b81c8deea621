"""`randar generate`: images of classes, one PNG file each."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from randar_features.cli.decoding import (
    DecodingOptions,
    seed_range,
    settings_of,
    wait_for_all,
)
from randar_features.data import labelled_sheet, load_image, to_tensor
from randar_features.generation.classes import find_class
from randar_features.generation.gallery import Wanted, fill_gallery, save_sheet
from randar_features.generation.load import load_for_decoding
from randar_features.hub import Model, load_model
from randar_features.hub.registry import find_source
from randar_features.options.command import run
from randar_features.options.parse import flag
from randar_features.options.shared import given
from randar_features.options.types import Count
from randar_features.store.writer import rank_and_ranks


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(DecodingOptions):
    """Generate images, one PNG file for each class and seed, with its settings inside.

    Run it again, or with more seeds, and only the missing images are generated. Over several GPUs or processes:
    torchrun --nproc-per-node 4 --no-python randar generate …

    Attributes:
        classes: names or indices of classes, first names; none: the first eight. --list-classes prints them.
        list_classes: print the names of the model's classes and do nothing else.
        sheet: also write sheet.png, a row for each class and a column for each seed.
        batch_size: images at once; the images do not depend on it.
        scale: 2: twice the resolution.
    """

    out: Path = Path("generated")
    classes: tuple[str, ...] | None = None
    list_classes: bool = False
    sheet: bool = False
    batch_size: Count = 8
    scale: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        others = [each.name for each in fields(self) if each.name not in ("list_classes", "model", "device", "out")]
        if self.list_classes and (named := given(self, others)):
            raise ValueError(f"--list-classes prints names and does nothing else: leave out {flag(named[0])}")


def generate(options: GenerateOptions) -> None:
    """Write the images that are not there yet."""
    if options.list_classes:
        print_classes(options.model)
        return
    rank, ranks = rank_and_ranks()
    model, number_format = load_for_decoding(options.model, options.device, options.dtype)
    wanted = wanted_images(options, model)
    mine = wanted[rank::ranks]
    done = fill_gallery(
        model,
        mine,
        options.out,
        {**settings_of(options, model.transformer), "scale": options.scale},
        notes={"number_format": number_format},
        batch_size=options.batch_size,
        overwrite=options.overwrite,
    )
    with tqdm(total=len(mine), unit="image", disable=rank > 0) as bar:
        for count in done:
            bar.update(count)
    if options.sheet:
        wait_for_all(ranks)
    if rank == 0:
        print(f"{options.out}: {len(wanted)} images")
        if options.sheet:
            write_sheet(options, wanted, model)


def wanted_images(options: GenerateOptions, model: Model) -> list[Wanted]:
    """A class and a seed for each image."""
    names, number = model.classes, model.transformer.config.num_classes
    classes = [find_class(one, names, number) for one in options.classes or ()] or range(min(8, number))
    return [Wanted(index, seed) for index in classes for seed in seed_range(options.seeds)]


def write_sheet(options: GenerateOptions, wanted: list[Wanted], model: Model) -> None:
    """All images side by side, under the names of their classes and their seeds."""
    images = [to_tensor(load_image(options.out / one.filename)) for one in wanted]
    seeds = seed_range(options.seeds)
    classes = [one.class_index for one in wanted[:: len(seeds)]]
    sheet = labelled_sheet(
        images,
        len(seeds),
        column_labels=[f"seed {seed}" for seed in seeds],
        row_labels=[model.classes[index] if model.classes else f"class {index}" for index in classes],
    )
    save_sheet(options.out / "sheet.png", sheet, options.overwrite)
    print(f"{options.out / 'sheet.png'}: a row for each class, a column for each seed")


def print_classes(name: str) -> None:
    """The index and the name of each class."""
    names = load_model(name, device="cpu").classes
    if names is None:
        sizes = find_source(name).config["transformer"]
        print(f"the classes of {name} have no names: give an index from 0 to {sizes['num_classes'] - 1}")
        return
    for index, one in enumerate(names):
        print(f"{index:4d}  {one}")


main = partial(run, generate, GenerateOptions, program="randar generate")
