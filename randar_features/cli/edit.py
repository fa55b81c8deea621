"""`randar edit`: redraw a part of an image, draw beyond its edges, or at twice its resolution."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import randar_features as rf
from randar_features.cli.decoding import (
    DecodingOptions,
    seed_range,
    settings_of,
    wait_for_all,
)
from randar_features.data import ImageError, adm_center_crop, labelled_sheet, load_image, to_image, to_tensor
from randar_features.data.decode.decoding import read_picture
from randar_features.data.decode.masks import MaskOrientation, fit_mask, read_painted
from randar_features.data.decode.ranges import Reading
from randar_features.generation.classes import find_class
from randar_features.generation.gallery import is_done, save_png, save_sheet
from randar_features.generation.load import load_for_decoding
from randar_features.hub.weights import file_hash
from randar_features.options.command import run, subcommands
from randar_features.options.parse import option, positional
from randar_features.options.types import Natural
from randar_features.store.writer import rank_and_ranks

SIDES = "PIXELS"
WHITE = 127  # a pixel of a mask above it is drawn anew


@dataclass(frozen=True, kw_only=True)
class EditOptions(DecodingOptions, Reading):
    """What every edit takes.

    Attributes:
        image: file of the image to edit.
        class_name: name or index of the class to draw; none: no class.
    """

    image: Path = positional()
    class_name: str | None = option("--class", default=None)
    out: Path = Path("edited")

    def __post_init__(self) -> None:
        DecodingOptions.__post_init__(self)
        Reading.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class InpaintOptions(EditOptions):
    """Redraw what a box or a mask covers; the rest stays as it is, at the image's own size.

    Attributes:
        box: LEFT TOP RIGHT BOTTOM, in pixels of the image.
        mask: picture of the image's size, white where pixels are drawn anew, black elsewhere.
        square: crop the image to a square of the model's size first, and the mask with it; a box is then in pixels
            of that square.
        mask_orientation: the image that the mask was drawn on, as stored or upright. Needed only if the camera turned
            the image and the size of the mask does not tell.
    """

    box: tuple[Natural, Natural, Natural, Natural] | None = option(default=None, metavar=SIDES)
    mask: Path | None = None
    square: bool = False
    mask_orientation: MaskOrientation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.box is None) == (self.mask is None):
            raise ValueError("give --box LEFT TOP RIGHT BOTTOM or --mask FILE, one of them")
        if self.mask is None and self.mask_orientation is not None:
            raise ValueError(f"--mask-orientation {self.mask_orientation} is for --mask: leave it out with --box")


@dataclass(frozen=True, kw_only=True)
class OutpaintOptions(EditOptions):
    """Draw beyond the edges of an image, which stays as it is, at its own size.

    Attributes:
        padding: LEFT TOP RIGHT BOTTOM, pixels to add at each edge.
        square: crop the image to a square of the model's size first.
    """

    padding: tuple[Natural, Natural, Natural, Natural] = option(metavar=SIDES)
    square: bool = False


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions(EditOptions):
    """Draw an image at twice its resolution: its own tokens stay, and the tokens between them are drawn."""


def inpaint(options: InpaintOptions) -> None:
    """Write a picture for each seed."""

    def draw(model: rf.Model, pixels: Tensor, index: int | None, settings: dict[str, Any]) -> Tensor:
        mask = mask_of(options, model.image_size, (pixels.shape[1], pixels.shape[2]))
        return rf.inpaint(model, pixels[None], mask, index, **settings)[0]

    notes: dict[str, Any] = {"box": options.box and list(options.box)}
    notes |= {"mask": options.mask and fingerprint(options.mask)}
    if options.mask_orientation is not None:
        notes["mask_orientation"] = options.mask_orientation
    edit(options, "inpaint", draw, crop=options.square, **notes)


def outpaint(options: OutpaintOptions) -> None:
    """Write a picture for each seed."""

    def draw(model: rf.Model, pixels: Tensor, index: int | None, settings: dict[str, Any]) -> Tensor:
        return rf.outpaint(model, pixels[None], options.padding, index, **settings)[0]

    edit(options, "outpaint", draw, crop=options.square, padding=list(options.padding))


def upscale(options: UpscaleOptions) -> None:
    """Write a picture for each seed."""

    def draw(model: rf.Model, pixels: Tensor, index: int | None, settings: dict[str, Any]) -> Tensor:
        null = model.transformer.config.num_classes
        tokens = model.tokenizer.encode(pixels[None].to(model.device))
        fine = rf.upscale_tokens(model.transformer, null if index is None else index, tokens=tokens, **settings)
        return model.tokenizer.decode(fine)[0].cpu()

    edit(options, "upscale", draw, crop=True)


def edit(
    options: EditOptions,
    kind: str,
    draw: Callable[[rf.Model, Tensor, int | None, dict[str, Any]], Tensor],
    *,
    crop: bool,
    **notes: Any,
) -> None:
    """One PNG for each seed, its settings and `notes` inside, and NAME_EDIT_strip.png: the image and its versions."""
    image = load_image(options.image, value_range=options.value_range, max_pixels=options.max_pixels)
    model, number_format = load_for_decoding(options.model, options.device, options.dtype)
    index = None
    if options.class_name is not None:
        index = find_class(options.class_name, model.classes, model.transformer.config.num_classes)
    pixels = to_tensor(adm_center_crop(image, model.image_size) if crop else image)
    settings = settings_of(options, model.transformer)
    notes = {"box": None, "padding": None, "mask": None} | notes | options.content()
    notes |= {"model": model.name, "weights": model.weights_hash, "number_format": number_format}
    notes |= {"edit": kind, "square": crop, "image": fingerprint(options.image)}
    rank, ranks = rank_and_ranks()
    name, shown = f"{options.image.stem}_{kind}", "null" if index is None else index
    paths = {seed: options.out / f"{name}_{shown}_seed{seed:06d}.png" for seed in seed_range(options.seeds)}
    for seed, path in tqdm(list(paths.items())[rank::ranks], unit="image", disable=rank > 0):
        about = {**notes, **settings, "class": index, "seed": seed}
        if options.overwrite or not is_done(path, about):
            drawn = draw(model, pixels, index, {**settings, "generator": torch.tensor([seed], device="cpu")})
            save_png(path, to_image(drawn), about)
    wait_for_all(ranks)
    if rank == 0:
        overview = options.out / f"{name}_strip.png"
        save_sheet(overview, strip(pixels, paths), options.overwrite)
        print(*paths.values(), f"{overview}: the image and its versions", sep="\n")


def mask_of(options: InpaintOptions, square: int, size: tuple[int, int]) -> Tensor:
    """(H, W) boolean for an image of this height and width, True where to draw anew."""
    if options.mask is not None:
        painted = mask_picture(options.mask, options.image, options.mask_orientation, options.reading)
        painted = adm_center_crop(painted, square) if options.square else painted
        white = np.asarray(painted) > WHITE
        if not white.any():
            highest = np.asarray(painted).max()
            raise ValueError(
                f"--mask {options.mask} has nothing white, the highest value is {highest}: paint white (255) where to "
                "draw anew"
            )
        return torch.from_numpy(white)
    assert options.box is not None  # InpaintOptions sees to it
    left, top, right, bottom = options.box
    height, width = size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"--box must lie in the image of {width}×{height} pixels, LEFT TOP RIGHT BOTTOM; got {options.box}"
        )
    mask = torch.zeros(height, width, dtype=torch.bool, device="cpu")
    mask[top:bottom, left:right] = True
    return mask


def mask_picture(mask: Path, image: Path, orientation: MaskOrientation | None, reading: Reading) -> Image.Image:
    """A picture that is white where to draw anew, mode "L", as it lies on the upright image.

    Raises:
        ImageError: it is of another size than the image, or has transparent pixels.
    """
    try:
        (painted, own), photograph = read_painted(mask, reading), read_picture(image, reading)
        size = (photograph.image.height, photograph.image.width)
        fitted = fit_mask(painted, size, own=own, image=photograph.orientation, orientation=orientation)
    except ImageError as error:
        message = str(error).replace("mask_orientation", "--mask-orientation")
        raise ImageError(f"--mask {mask}: {message}") from error
    return Image.fromarray(fitted)


def fingerprint(path: Path) -> str:
    """A file by its name and content, wherever it lies."""
    return f"{path.name} {file_hash(path)[:16]}"


def strip(pixels: Tensor, paths: dict[int, Path]) -> Image.Image:
    """The image, on grey of the versions' size, and the versions in files side by side, under their seeds."""
    versions = [to_tensor(load_image(path)) for path in paths.values()]
    shown = torch.full_like(versions[0], 0.5)
    top, left = ((a - b) // 2 for a, b in zip(shown.shape[1:], pixels.shape[1:], strict=True))
    shown[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels
    labels = ["image", *(f"seed {seed}" for seed in paths)]
    return labelled_sheet([shown, *versions], len(labels), column_labels=labels)


EDITS = {
    "inpaint": partial(run, inpaint, InpaintOptions, program="randar edit inpaint"),
    "outpaint": partial(run, outpaint, OutpaintOptions, program="randar edit outpaint"),
    "upscale": partial(run, upscale, UpscaleOptions, program="randar edit upscale"),
}
TEXTS = {
    "inpaint": "redraw what a box or a mask covers",
    "outpaint": "draw beyond the edges",
    "upscale": "draw at twice the resolution",
}
ABOUT = "Edit an image: one PNG file for each seed, and a strip of them all."
main = partial(subcommands, EDITS, program="randar edit", about=ABOUT, texts=TEXTS)
