"""Folders of generated images: one PNG a class and seed, with its settings inside; resumable, shared among ranks."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from randar_features.data.containers.paths import reading
from randar_features.generation import upscale
from randar_features.generation.generate import check_settings, generate
from randar_features.generation.recipe import GuidanceLike
from randar_features.hub import Model
from randar_features.models import ImageTransformer
from randar_features.store.files import make_folder, written_whole

SETTINGS_KEY = "randar_features"  # of the PNG text chunk that holds the settings as JSON


class Wanted(NamedTuple):
    """An image to generate: by its class and its own seed, so that it is the same in any batch."""

    class_index: int
    seed: int

    @property
    def filename(self) -> str:
        """class0207_seed000017.png."""
        return f"class{self.class_index:04d}_seed{self.seed:06d}.png"


def fill_gallery(
    model: Model,
    wanted: Sequence[Wanted],
    folder: Path,
    settings: dict[str, Any],
    *,
    notes: dict[str, Any] | None = None,
    batch_size: int = 8,
    overwrite: bool = False,
) -> Iterator[int]:
    """Generate the images that `folder` lacks; gives, batch after batch, how many more are there.

    Args:
        model: from `load_model`.
        wanted: images by class and seed.
        folder: made if it is not there. A file is written whole or not at all.
        settings: arguments of `generate` that JSON can hold: steps, guidance, order, temperature, top_k,
            top_p, scale.
        notes: what else the images depend on, to be written into the files with the settings.
        batch_size: images at once. The tokens do not depend on it; the pixels that the tokenizer decodes them to
            agree to the rounding of its convolutions, some 3e-6.
        overwrite: write also the images that are there.

    Raises:
        ValueError: settings that the model cannot be drawn with, before the folder is made.
        FileExistsError: an image is there that was made with other settings, and `overwrite` is off; nothing is drawn.
    """
    _check(model.transformer, **settings)
    make_folder(folder)

    def about(one: Wanted) -> dict[str, Any]:
        return describe(model, one, {**settings, **(notes or {})})

    missing = [one for one in wanted if overwrite or not is_done(folder / one.filename, about(one))]

    def filled() -> Iterator[int]:
        if len(missing) < len(wanted):
            yield len(wanted) - len(missing)
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            classes = [one.class_index for one in batch]
            seeds = torch.tensor([one.seed for one in batch], device="cpu")
            tokens = generate(model.transformer, classes, generator=seeds, **settings)
            pixels = model.tokenizer.to_uint8(model.tokenizer.decode(tokens)).cpu().numpy()
            for one, image in zip(batch, pixels, strict=True):
                save_png(folder / one.filename, Image.fromarray(image), about(one))
            yield len(batch)

    return filled()


def _check(
    transformer: ImageTransformer,
    *,
    guidance: GuidanceLike = None,
    scale: int = 1,
    **settings: Any,
) -> None:
    """The errors of `generate` for settings that the model cannot be drawn with."""
    if scale == 1:
        nothing = torch.zeros(1, transformer.config.num_tokens, dtype=torch.int64, device="cpu")
        check_settings(transformer, nothing[:, 0], nothing.bool(), guidance, **settings)
        return
    if scale != 2:
        raise ValueError(f"scale must be 1 or 2, got {scale}")
    upscale.check_settings(transformer, guidance, **settings)


def describe(model: Model, wanted: Wanted, settings: dict[str, Any]) -> dict[str, Any]:
    """What is written into an image's file: all that it depends on, and its class by name."""
    names = model.classes
    return {
        "model": model.name,
        "weights": model.weights_hash,
        "class": wanted.class_index,
        "class_name": names[wanted.class_index] if names and wanted.class_index < len(names) else None,
        "seed": wanted.seed,
        **settings,
    }


def is_done(path: Path, settings: dict[str, Any]) -> bool:
    """Whether the image is there; FileExistsError if it is, but made with other settings."""
    if not path.exists():
        return False
    found, expected = read_settings(path), json.loads(json.dumps(settings))
    # A model's name may be spelt in several ways; its weights tell.
    names = {**expected, **(found or {})}.keys() - {"model"}
    differing = sorted(name for name in names if found is None or found.get(name) != expected.get(name))
    if differing:
        was = {name: (found or {}).get(name) for name in differing}
        now = {name: expected.get(name) for name in differing}
        raise FileExistsError(
            f"{path} is there with other settings, {was} instead of {now}: "
            "take another folder, or allow it to be overwritten (--overwrite)"
        )
    return True


def save_png(path: Path, image: Image.Image, settings: dict[str, Any]) -> None:
    """Write an image as PNG with its settings inside."""
    info = PngInfo()
    info.add_itxt(SETTINGS_KEY, json.dumps(settings, ensure_ascii=False))
    with written_whole(path) as file:
        image.save(file, format="PNG", pnginfo=info)


def save_sheet(path: Path, image: Image.Image, overwrite: bool) -> None:
    """Write an overview of images; in place of an older one, but of nothing else unless `overwrite`."""
    if path.exists() and not overwrite and (read_settings(path) or {}).get("sheet") is not True:
        raise FileExistsError(
            f"{path} is there and no sheet of this script: move it, or allow it to be overwritten (--overwrite)"
        )
    save_png(path, image, {"sheet": True})


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings inside a PNG file that `save_png` wrote; None for any other."""
    with reading(path, "a picture with its settings"):
        try:
            with Image.open(path, formats=["PNG"]) as image:
                text = getattr(image, "text", {}).get(SETTINGS_KEY)
        except UnidentifiedImageError:
            return None
        found = None if text is None else json.loads(text)
        if not isinstance(found, dict | None):
            raise ValueError("its settings are no object")
        return found
