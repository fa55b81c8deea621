"""Feature maps as colours: `python -m benchmarks.maps --data FOLDER --encoder randar-tiny --out runs/maps`.

The README's picture: `python -m benchmarks.maps --data photographs --height 160 --colours 256 --file photographs.png
--out benchmarks/results/figures`.

Locations of one colour have similar features. Each column is one output of the encoder: the first three principal
components over all images shown, with channels exchanged and inverted to be most similar to the last column's.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.datasets import open_data
from benchmarks.datasets.photographs import SHOWN, feature_colours, load_photograph
from benchmarks.encoders import Encoder, load_encoder
from benchmarks.options import DType, ImageTaskOptions
from benchmarks.report import figures
from benchmarks.result import NO_AXES, data_hash
from benchmarks.run import Measurement, Task, run_as_command
from benchmarks.tasks.generators.samples import to_arrays
from probes import align_colours
from randar_features import Model
from randar_features.data.images import readable_batches
from randar_features.options.types import Count
from randar_features.store.files import write_bytes
from randar_features.training.batches import spread

PHOTOGRAPHS = "photographs"


@dataclass(frozen=True, kw_only=True)
class Config(ImageTaskOptions):
    """Feature maps as colours.

    Attributes:
        data: "photographs" (three that packages ship), a folder of images, or Parquet files.
        split: split of the data.
        encoder: name of one encoder, see `randar bench classification --help`.
        outputs: features to draw; none: image tokens of each context at the recommended layer.
        images: number of images to show, evenly spread over the first AMONG.
        among: number of images that are read.
        height: height of each picture, in pixels.
        colours: number of colours of the PNG file, for a smaller file; none: all.
        file: name of the PNG file.
        dtype: number format of the products; auto: the fastest of this machine.
        scale: side of a picture, relative to the side of the encoder's images; tiles overlap.
    """

    data: str
    split: str | None = None
    encoder: str = "randar-tiny"
    outputs: tuple[str, ...] | None = None
    images: Count = 6
    among: Count = 120
    scale: Count = 4
    height: Count = 256
    colours: Count | None = None
    file: str = "maps.png"
    dtype: DType = "float32"


def measure(config: Config, out: Path) -> Measurement:
    """Draw, and write the picture to `out`."""
    encoder = load_encoder(config.encoder, device=config.device, dtype=config.dtype)
    outputs = list(config.outputs or recommended_outputs(encoder))
    pictures = read_pictures(config, config.scale * encoder.image_size)
    by_output = feature_colours(list(pictures), encoder, outputs)
    colours = [by_output[output] for output in outputs]
    aligned = [align_colours(own, colours[-1]) for own in colours[:-1]] + colours[-1:]
    columns = [to_arrays(pictures), *aligned]
    rows = list(zip(*columns, strict=True))
    png = figures.image_grid(rows, column_titles=("image", *outputs), height=config.height, smooth=True)
    write_bytes(out / config.file, png if config.colours is None else figures.fewer_colours(png, config.colours))
    return Measurement(
        protocol="first three principal components of feature maps, as colours",
        axes={**NO_AXES, "encoder": encoder.name, "resolution": pictures.shape[-1]},
        data={"images": f"{data_hash(config.data)} {config.split or ''}".strip()},
        weights={encoder.name: encoder.described_weights},
        results=[],
        artifacts={"Feature maps as colours: places of one colour have like features": config.file},
    )


def recommended_outputs(encoder: Encoder) -> list[str]:
    """One output a context: image tokens at the model's first recommended layer; of other encoders, all maps."""
    model = getattr(encoder, "model", None)
    if not isinstance(model, Model):
        return list(encoder.grids())
    layer = model.recommended_layers[0]
    return [n for n, about in encoder.outputs.items() if (about["layer"], about["read"]) == (layer, "image")]


def images_of(data: str, split: str | None) -> tuple[str, str | None]:
    """Data and split as they are; of a folder of images and masks, the former alone."""
    folders = (Path(data) / (split or "") / "images", Path(data) / "images" / (split or ""))
    return next(((str(folder), None) for folder in folders if folder.is_dir()), (data, split))


def read_pictures(config: Config, side: int) -> Tensor:
    """`config.images` square pictures (n, 3, side, side) in [0, 1], or the three photographs, half as wide again."""
    if config.data == PHOTOGRAPHS:
        return torch.stack([load_photograph(name, side, side // (2 * config.scale)) for name in SHOWN])
    source = open_data(*images_of(config.data, config.split), side, config.reading)
    pixels: list[Tensor] = []
    batches = readable_batches(source, image_size=side, batch_size=40, description="reading")
    for batch, _ in batches:
        pixels += batch
        if len(pixels) >= config.among:
            break
    return torch.stack([pixels[int(index)] for index in spread(len(pixels), config.images)])


run = Task("maps", Config, measure)

if __name__ == "__main__":
    run_as_command("maps")
