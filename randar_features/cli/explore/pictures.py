"""What the explorer shows: an image in, pictures out. Nothing here depends on the page.

An image is a Pillow image of mode "RGB" and any size; its middle square is shown (`data.adm_center_crop`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from probes import align_colours, pca_colours, similarity_maps
from randar_features.data import adm_center_crop, to_image, to_tensor
from randar_features.features import FeatureSpec, encode, tiled_maps
from randar_features.features.tiling import usual_stride
from randar_features.generation import inpaint, log_likelihood, outpaint, surprisal_map
from randar_features.generation.editing import resized_mask
from randar_features.hub import Model
from randar_features.precision import DType

SIDE = 256  # pixels a side of a picture, at least
HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])  # low to high, uint8
OPACITY = 0.55  # of the heat over an image
TILES = 16  # in one forward pass


class Captioned(NamedTuple):
    """A picture and what it shows."""

    picture: Image.Image
    caption: str


def side_of(model: Model) -> int:
    """Pixels a side of the pictures of a model: its own, or a multiple of at least `SIDE`."""
    return model.image_size * max(1, -(-SIDE // model.image_size))


def square(image: Image.Image, side: int) -> Image.Image:
    """The middle square at `side` pixels."""
    return adm_center_crop(image.convert("RGB"), side)


def enlarged(picture: Image.Image, factor: float) -> Image.Image:
    """A picture at another size."""
    width, height = (max(1, round(length * factor)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def feature_maps(
    model: Model, image: Image.Image, specs: Sequence[FeatureSpec], *, detail: int = 1, dtype: DType = None
) -> dict[str, Tensor]:
    """Maps (detail·G, detail·G, D) float32 on the CPU by spec, of an image at `detail` times the model's size.

    The model sees squares of its own size, which overlap (`features.tiling`).
    """
    size, grid = model.image_size, model.transformer.config.grid

    def encoded(batch: Tensor) -> Tensor:
        return torch.cat([maps.cpu() for maps in encode(model, batch, specs, dtype=dtype).values()], dim=-1)

    pixels, patch = to_tensor(square(image, detail * size)), size // grid
    maps = tiled_maps(encoded, pixels, size=size, patch=patch, stride=usual_stride(size, patch), batch_size=TILES)
    return {str(spec): own for spec, own in zip(specs, maps.chunk(len(specs), dim=-1), strict=True)}


def pca_pictures(
    model: Model, image: Image.Image, specs: Sequence[FeatureSpec], *, detail: int = 1, dtype: DType = None
) -> list[Captioned]:
    """The image, and of each spec the first three principal components of its map as colours.

    Places of one colour have like features. Colours are aligned to those of the first spec, so that maps can be
    compared by eye.
    """
    maps, side = feature_maps(model, image, specs, detail=detail, dtype=dtype), side_of(model)
    colours = {name: pca_colours(own[None])[0] for name, own in maps.items()}
    first = next(iter(colours.values()))
    aligned = {name: align_colours([own], [first])[0] for name, own in colours.items()}
    shown = [Captioned(square(image, side), "image")]
    for name, own in aligned.items():
        picture = Image.fromarray(np.rint(255 * own).astype(np.uint8))
        shown.append(Captioned(picture.resize((side, side), Image.Resampling.BICUBIC), name))
    return shown


def point_pictures(
    model: Model,
    image: Image.Image,
    point: tuple[float, float],
    others: Sequence[Captioned],
    spec: FeatureSpec,
    *,
    detail: int = 1,
    dtype: DType = None,
) -> list[Captioned]:
    """The similarity of one point to every location of its image and of other images: bright is similar.

    Args:
        point: x and y in pixels of the image's square at `side_of` pixels.
        others: images, with what is written below them.

    Returns:
        The image, a ring around the point, and each of the others, a ring around its most similar place; with the
        cosine there. All have the same scale of brightness, from the least similar place of the first to 1.

    Raises:
        ValueError: the point lies outside the square.
    """
    side, places = side_of(model), np.array([point], np.float32)
    images = [image, *(other.picture for other in others)]
    captions = ["the point", *(other.caption for other in others)]
    maps = [feature_maps(model, one, [spec], detail=detail, dtype=dtype)[str(spec)] for one in images]
    size = (side, side)
    found = [similarity_maps(maps[0], target, places, source_size=size, target_size=size)[0] for target in maps]
    low, shown = min(float(found[0].min()), 0.999), []
    for number, (one, cosines, caption) in enumerate(zip(images, found, captions, strict=True)):
        row, column = np.unravel_index(int(cosines.argmax()), cosines.shape)
        x, y = point if number == 0 else (int(column), int(row))
        picture = heated(square(one, side), (cosines - low) / (1 - low))
        likeness = "" if number == 0 else f", cosine {cosines.max():.2f} there"
        shown.append(Captioned(ringed(picture, (x, y)), f"{caption}{likeness}"))
    return shown


def surprisal_pictures(
    model: Model, image: Image.Image, class_index: int | None = None, *, orders: int = 1, dtype: DType = None
) -> list[Captioned]:
    """The image, what its tokens decode to, and how little the model expected each token: bright is surprising.

    Args:
        class_index: that the model is told; None: the null class.
        orders: seeded orders whose mean is taken.
    """
    side, vocabulary = side_of(model), model.transformer.config.vocab_size
    tokens = model.tokenizer.encode(to_tensor(square(image, model.image_size))[None].to(model.device))
    nats = log_likelihood(model.transformer, tokens, class_index, orders, dtype=dtype)
    grey = surprisal_map(nats, model.image_size, math.log(vocabulary))[0, 0].cpu().numpy()
    decoded = to_image(model.tokenizer.decode(tokens)[0].cpu())
    shares = np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.NEAREST))
    about = (
        f"surprisal, {-nats.mean():.2f} nats a token; a guess among {vocabulary} codes has {math.log(vocabulary):.2f}"
    )
    return [
        Captioned(square(image, side), "image"),
        Captioned(enlarged(decoded, side / decoded.width), "decoded from its tokens"),
        Captioned(heated(square(image, side), shares), about),
    ]


def inpainted(
    model: Model, image: Image.Image, mask: np.ndarray, class_index: int | None = None, *, seed: int = 0
) -> Image.Image:
    """The image's square, with what the mask covers drawn anew.

    Args:
        mask: bool (H, H), True where to draw anew; of any size: it covers the square. A pixel is drawn anew if the
            mask touches it.

    Raises:
        ValueError: the mask is empty or full.
    """
    pixels = to_tensor(square(image, model.image_size))[None].to(model.device)
    covered = resized_mask(torch.from_numpy(mask)[None], model.image_size).to(model.device)
    drawn = inpaint(model, pixels, covered, class_index, generator=torch.tensor([seed], device="cpu"))
    return _drawn(model, drawn)


def outpainted(
    model: Model, image: Image.Image, padding: Sequence[int], class_index: int | None = None, *, seed: int = 0
) -> Image.Image:
    """The image's square at the model's size, with `padding` more pixels at the left, top, right and bottom.

    Raises:
        ValueError: no padding at all.
    """
    pixels = to_tensor(square(image, model.image_size))[None].to(model.device)
    left, top, right, bottom = map(int, padding)
    drawn = outpaint(
        model, pixels, (left, top, right, bottom), class_index, generator=torch.tensor([seed], device="cpu")
    )
    return _drawn(model, drawn)


def _drawn(model: Model, pixels: Tensor) -> Image.Image:
    """An image (1, 3, H, W) at the scale of the other pictures."""
    return enlarged(to_image(pixels[0].cpu()), side_of(model) / model.image_size)


def heated(picture: Image.Image, shares: np.ndarray) -> Image.Image:
    """A picture (W, H) in grey under colours from dark (0) to bright (1), shares (H, W)."""
    places = np.linspace(0, 1, len(HEAT))
    heat = np.stack([np.interp(shares, places, HEAT[:, channel]) for channel in range(3)], axis=-1)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    return Image.fromarray(np.rint((1 - OPACITY) * grey + OPACITY * heat).astype(np.uint8))


def ringed(picture: Image.Image, point: tuple[float, float]) -> Image.Image:
    """A picture with a ring, black and white, around a point (x, y)."""
    x, y = point
    radius, pen = max(6, picture.width // 36), ImageDraw.Draw(picture)
    for wider, colour, width in ((2, "black", 5), (0, "white", 2)):
        box = (x - radius - wider, y - radius - wider, x + radius + wider, y + radius + wider)
        pen.ellipse(box, outline=colour, width=width)
    return picture
