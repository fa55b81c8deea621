"""The codes of a `NetworkTokenizer`: clusters of the principal components of its network's maps."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from randar_features.baselines import load_network
from randar_features.data import ImageSource, open_images
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.store.records import OK
from randar_features.tokenizers import ImageTokenizer, NetworkTokenizer
from randar_features.tokenizers.folder import write_tokenizer

ITERATIONS = 15
COLORS = 3  # components of the colours, which every codebook has: without them a decoder cannot tell light from dark


@torch.no_grad()
def fit_network_tokenizer(
    network: str,
    images: Any,
    folder: Path,
    *,
    sizes: dict[str, Any],
    shares: Sequence[float],
    image_size: int,
    split: str | None = None,
    sampled: int = 5000,
    batch_size: int = 32,
    seed: int = 0,
    reading: Reading = DEFAULT_READING,
    decoder: ImageTokenizer | None = None,
) -> NetworkTokenizer:
    """Fit projection and codebook to cells of some images, and write the tokenizer, its decoder yet untrained.

    Each stage of the network, and the colours, are reduced to principal components and scaled to their share of the
    variance; directions of all together are clustered (spherical k-means, faiss). Of a tokenizer with several codebooks
    each gets its share of the network's components, and the first ones of the colours.

    Args:
        network: see `baselines.load_network`; its pixels must be scaled to [−1, 1].
        images: as `open_images` takes them, with `split`.
        folder: to write to, as `load_tokenizer` reads it; its decoder is then trained, `train=decoder initial=FOLDER`.
        sizes: arguments of `NetworkTokenizer` but `network`.
        shares: of the variance, one for each stage and one for the colours.
        image_size: pixels a side.
        sampled: images, evenly spread.
        batch_size: images at a time.
        seed: of the clusters.
        reading: range of values and largest size of a picture.
        decoder: a tokenizer whose trained decoder is taken over, see `take_decoder`.

    Raises:
        ValueError: the network scales its pixels otherwise, shares do not fit the stages, an image cannot be read, or
            `decoder` has other sizes.
    """
    loaded = load_network(network)
    if not torch.allclose(torch.stack([loaded.mean, loaded.std]), torch.tensor(0.5, device="cpu")):
        raise ValueError(f"{network} does not take pixels in [-1, 1], which a tokenizer's network must")
    sizes = {"network": loaded.architecture, **sizes}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would set those of GPUs too
        tokenizer = NetworkTokenizer(**sizes)
    encoder = tokenizer.encoder
    if len(shares) != len(encoder.widths):
        raise ValueError(f"shares = {list(shares)}: expected {len(encoder.stages)} for the stages and one for colours")
    present = loaded.module.state_dict()
    encoder.network.load_state_dict({name: present[name] for name in encoder.network.state_dict()})
    _round(tokenizer)

    source = open_images(images, split=split).read_with(reading)
    sampled = min(sampled, len(source))
    pixels = partial(spread_images, source, sampled, image_size, batch_size)
    cells = torch.cat([_cells(encoder(tokenizer.to_raw_range(batch))) for batch in pixels()])
    _fit_codes(tokenizer, cells, shares, seed)
    if decoder is not None:
        take_decoder(tokenizer, decoder, pixels())
        _round(tokenizer)
    about = {
        "tokenizer": {"type": "network", **sizes},
        "image_size": image_size,
        "tokenizer_training": {
            "network": loaded.name, "weights": loaded.weights, "supervision": loaded.supervision,
            "shares": list(shares), "images": sampled, "seed": seed,
        },
    }  # fmt: skip
    write_tokenizer(folder, {name: value.half() for name, value in tokenizer.state_dict().items()}, about)
    return tokenizer.eval()


def _fit_codes(tokenizer: NetworkTokenizer, cells: Tensor, shares: Sequence[float], seed: int) -> None:
    """Fit the projection, then the codebooks, to cells (n, C) that the network saw."""
    codebooks = tokenizer.quantize.number
    parts = cells.split(tokenizer.encoder.widths, dim=1)
    weight, bias = projection(parts, shares, tokenizer.code_dim, codebooks)
    tokenizer.quant_conv.load_state_dict({"weight": weight[:, :, None, None], "bias": bias})
    _round(tokenizer)
    latents = F.linear(cells, tokenizer.quant_conv.weight[:, :, 0, 0], tokenizer.quant_conv.bias)
    each = [F.normalize(part, dim=1).contiguous() for part in latents.chunk(codebooks, dim=1)]
    codes = torch.cat([clusters(part, tokenizer.vocab_size // codebooks, seed) for part in each])
    tokenizer.quantize.embedding.weight.copy_(codes)
    _round(tokenizer)


def spread_images(source: ImageSource, number: int, image_size: int, batch_size: int) -> Iterator[Tensor]:
    """Batches (B, 3, H, W) in [0, 1] of some images, evenly spread; ValueError for one that cannot be read."""
    sample = np.linspace(0, len(source) - 1, min(number, len(source))).astype(int).tolist()
    for batch in source.batches(image_size, batch_size, rows=[sample]):
        if bad := next((status for status in batch.status if status != OK), None):
            raise ValueError(f"an image of the sample cannot be read: {bad}")
        yield batch.pixels


def _cells(maps: Tensor) -> Tensor:
    """(B, C, h, w) to (B·h·w, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


@torch.no_grad()
def take_decoder(tokenizer: NetworkTokenizer, trained: ImageTokenizer, images: Iterable[Tensor]) -> None:
    """Take over a trained decoder; its first layer is fitted to give it what it got from the trained tokenizer's codes.

    `images`: batches (B, 3, H, W) in [0, 1], by whose cells the layer is fitted (least squares). Raises `ValueError`
    for a decoder of other sizes or of another kind of tokenizer.
    """
    if not isinstance(trained, NetworkTokenizer):
        raise ValueError(f"the decoder is of a {type(trained).__name__}, expected a NetworkTokenizer's")
    try:
        tokenizer.decoder.load_state_dict(trained.decoder.state_dict())
    except RuntimeError as error:
        raise ValueError(f"the decoder that is to be taken over has other sizes: {error}") from error
    codes, inputs = [], []
    for pixels in images:
        codes.append(F.pad(tokenizer.quantize.lookup(tokenizer.encode(pixels)).flatten(0, 1), (0, 1), value=1.0))
        found = trained.quantize.lookup(trained.encode(pixels)).flatten(0, 1)
        inputs.append(_cells(trained.post_quant_conv(found[:, :, None, None])))
    weight = torch.linalg.lstsq(torch.cat(codes), torch.cat(inputs)).solution.T
    layer = {"weight": weight[:, :-1, None, None], "bias": weight[:, -1]}
    tokenizer.post_quant_conv.load_state_dict(layer)


def _round(tokenizer: NetworkTokenizer) -> None:
    """All weights as float16 holds them, which is how they are written: the codes are those of the file.

    Zeros lose their sign, which an average of equal weights would take from them, and which the hash of a tokenizer
    tells.
    """
    for value in tokenizer.state_dict().values():
        value.copy_(value.half() + 0.0)


def projection(parts: Sequence[Tensor], shares: Sequence[float], dim: int, codebooks: int = 1) -> tuple[Tensor, Tensor]:
    """Weight (dim, ΣC) and bias (dim,) that reduce parts (n, C) to principal components, each part to its share.

    The last part are the colours: their first components, `COLORS` or all if there are fewer, are given to each of the
    codebooks. The other parts' components, the largest of all once scaled, are dealt to the codebooks in turn.
    """
    total, blocks, values = sum(shares), [], []
    each = [*shares[:-1], shares[-1] / codebooks]  # all copies of the colours together have their share
    for cells, share in zip(parts, each, strict=True):
        centred = (cells - cells.mean(0)).double()
        variance, vectors = torch.linalg.eigh(centred.T @ centred / len(cells))
        scale = (share / total / variance.sum()).sqrt()
        blocks.append((vectors * scale, (cells.mean(0).double() @ vectors) * scale))
        values.append(variance * scale**2)
    joined = torch.block_diag(*(block for block, _ in blocks))
    offset = torch.cat([mean for _, mean in blocks])
    colors = min(COLORS, len(values[-1]))
    own = dim // codebooks - colors  # components of the network in each codebook
    largest = torch.cat(values[:-1]).argsort(descending=True)[: codebooks * own].sort().values
    last = torch.arange(len(offset) - colors, len(offset), device="cpu")
    chosen = torch.cat([torch.cat([largest[number::codebooks], last]) for number in range(codebooks)])
    return joined[:, chosen].T.float(), -offset[chosen].float()


def clusters(vectors: Tensor, number: int, seed: int) -> Tensor:
    """Centres (number, D) of unit length of vectors (n, D) of unit length."""
    kmeans = faiss.Kmeans(
        vectors.shape[1], number, niter=ITERATIONS, spherical=True, seed=seed + 1,
        max_points_per_centroid=256, min_points_per_centroid=1,
    )  # fmt: skip
    kmeans.train(vectors.numpy())
    return torch.from_numpy(kmeans.centroids)
