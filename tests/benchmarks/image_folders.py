"""Folders of small pictures, smooth as photographs are, in classes that differ a little in colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (115, 120, 138), "green": (120, 136, 120), "red": (138, 120, 118)}
SIDE = 32


def picture(generator: np.random.Generator, colour: tuple[int, int, int]) -> Image.Image:
    """A smooth random pattern around a colour."""
    coarse = generator.integers(-60, 60, (6, 6, 3)) + np.array(colour)
    return Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def write_classes(folder: Path, *, per_class: int, seed: int) -> list[Path]:
    """`folder`/class/number.png; their paths, sorted."""
    generator = np.random.default_rng(seed)
    paths = []
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            paths.append(folder / name / f"{number:02d}.png")
            picture(generator, colour).save(paths[-1])
    return paths
