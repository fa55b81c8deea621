"""Pictures that a model draws: samples of classes, redrawn regions, extended canvases."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.options import RunOptions
from benchmarks.report.figures import image_grid
from benchmarks.result import NO_AXES, data_hash
from benchmarks.run import Measurement, Task, run_as_command
from randar_features import Model, generate, inpaint, load_model, outpaint
from randar_features.data import PhotoDigits
from randar_features.options.shared import ModelOptions
from randar_features.options.types import Count, Seed
from randar_features.store.files import write_bytes

MASKED = 0.5


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions, ModelOptions):
    """Pictures that a model draws: samples of classes, redrawn regions, extended canvases.

    Attributes:
        classes: number of classes, evenly spread over those of the model.
        each: number of samples of each class.
        edited: number of images of photo-digits to redraw and extend, besides the two photographs of scikit-learn.
        draws: number of times that each of these images is redrawn and extended.
        steps: number of decoding steps; none: as the model recommends.
        seed: seed of all random choices.
    """

    classes: Count = 8
    each: Count = 4
    edited: Count = 2
    draws: Count = 3
    steps: int | None = None
    seed: Seed = 0


def measure(config: Config, out: Path) -> Measurement:
    """Writes the pictures to `out`."""
    model = load_model(config.model, config.device)
    classes = spread_classes(model.transformer.config.num_classes, config.classes)
    repeated = torch.tensor(classes, device="cpu").repeat_interleave(config.each)
    tokens = generate(model.transformer, repeated, steps=config.steps, generator=config.seed)
    every = to_arrays(model.tokenizer.decode(tokens))
    drawn = [every[start : start + config.each] for start in range(0, len(every), config.each)]
    names = model.classes
    titles = [f"class {index}" if names is None else names[index].split(",")[0] for index in classes]
    pictures = {"Samples of classes": image_grid(drawn, row_titles=titles)}
    one_order = model.transformer.fixed_order
    if not one_order:
        pictures |= edits(model, config)
    files = {caption: f"{caption.split()[0].lower()}.png" for caption in pictures}
    for caption, png in pictures.items():
        write_bytes(out / files[caption], png)
    return Measurement(
        protocol="samples, not selected" if one_order else "samples, inpainting and outpainting, not selected",
        axes={**NO_AXES, "encoder": model.name, "resolution": model.image_size},
        data={"images": data_hash("photo-digits")},
        weights={model.name: model.weights_hash},
        results=[],
        artifacts=files,
        warnings=["the model knows one order only, and draws no parts anew"] if one_order else [],
    )


def edits(model: Model, config: Config) -> dict[str, bytes]:
    """Pictures of photo-digits whose middle is drawn anew, and that are extended to twice the width, by caption."""
    digits, side = PhotoDigits("test", size=model.image_size), model.image_size
    images = torch.stack([torch.from_numpy(digits[i].image).permute(2, 0, 1) / 255 for i in range(config.edited)])
    mask = torch.zeros(side, side, dtype=torch.bool, device="cpu")
    mask[side // 4 : side - side // 4, side // 4 : side - side // 4] = True
    left, right = side // 2, side - side // 2
    seeds = range(config.seed, config.seed + config.draws)
    columns = {
        "Middle drawn anew": [
            images,
            images.masked_fill(mask, MASKED),
            *(inpaint(model, images, mask, generator=seed) for seed in seeds),
        ],
        "Extended to twice the width": [
            torch.nn.functional.pad(images, (left, right), value=MASKED),
            *(outpaint(model, images, (left, 0, right, 0), generator=seed) for seed in seeds),
        ],
    }
    return {caption: image_grid(list(zip(*map(to_arrays, parts), strict=True))) for caption, parts in columns.items()}


def spread_classes(num_classes: int, count: int) -> list[int]:
    """`count` classes at equal distances."""
    return [(2 * index + 1) * num_classes // (2 * count) for index in range(min(count, num_classes))]


def to_arrays(images: Tensor) -> list[np.ndarray]:
    """Images (B, 3, H, W) in [0, 1] as floats (H, W, 3)."""
    return list(images.detach().float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())


run = Task("samples", Config, measure)

if __name__ == "__main__":
    run_as_command("samples")
