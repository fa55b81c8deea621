"""The codes of a `NetworkTokenizer`: principal components of what its network sees, gathered into clusters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from randar_features.baselines import load_network, parse_network
from randar_features.data import ImageSource, open_images
from randar_features.data.images import OK
from randar_features.data.ranges import DEFAULT_READING, Reading
from randar_features.tokenizers import NetworkTokenizer
from randar_features.tokenizers.folder import write_tokenizer

ITERATIONS = 15


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
) -> NetworkTokenizer:
    """Fit projection and codebook to cells of some images, and write the tokenizer, its decoder yet untrained.

    Each stage of the network, and the colours, are reduced to principal components and scaled to their share of the
    variance; directions of all together are clustered (spherical k-means, faiss).

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

    Raises:
        ValueError: the network scales its pixels otherwise, shares do not fit the stages, or an image cannot be read.
    """
    loaded = load_network(network)
    if not torch.allclose(torch.stack([loaded.mean, loaded.std]), torch.tensor(0.5)):
        raise ValueError(f"{network} does not take pixels in [-1, 1], which a tokenizer's network must")
    torch.manual_seed(seed)
    sizes = {"network": parse_network(network).architecture, **sizes}
    tokenizer = NetworkTokenizer(**sizes)
    encoder = tokenizer.encoder
    if len(shares) != len(encoder.widths):
        raise ValueError(f"shares = {list(shares)}: expected {len(encoder.stages)} for the stages and one for colours")
    present = loaded.module.state_dict()
    encoder.network.load_state_dict({name: present[name] for name in encoder.network.state_dict()})
    _round(tokenizer)

    source = open_images(images, split=split).read_with(reading)
    cells = _cells(tokenizer, source, min(sampled, len(source)), image_size, batch_size)
    weight, bias = projection(cells.split(encoder.widths, dim=1), shares, tokenizer.code_dim)
    tokenizer.quant_conv.load_state_dict({"weight": weight[:, :, None, None], "bias": bias})
    _round(tokenizer)
    latents = F.normalize(F.linear(cells, tokenizer.quant_conv.weight[:, :, 0, 0], tokenizer.quant_conv.bias), dim=1)
    tokenizer.quantize.embedding.weight.copy_(clusters(latents, tokenizer.vocab_size, seed))
    _round(tokenizer)
    about = {
        "tokenizer": {"type": "network", **sizes},
        "image_size": image_size,
        "tokenizer_training": {
            "network": network, "weights": loaded.weights, "supervision": loaded.supervision,
            "shares": list(shares), "images": min(sampled, len(source)), "seed": seed,
        },
    }  # fmt: skip
    write_tokenizer(folder, {name: value.half() for name, value in tokenizer.state_dict().items()}, about)
    return tokenizer.eval()


def _cells(tokenizer: NetworkTokenizer, source: ImageSource, number: int, image_size: int, batch_size: int) -> Tensor:
    """What the encoder sees in the cells of `number` images, evenly spread: (cells, C)."""
    picked = np.linspace(0, len(source) - 1, number).astype(int).tolist()
    seen = []
    for batch in source.batches(image_size, batch_size, rows=[picked]):
        if bad := next((status for status in batch.status if status != OK), None):
            raise ValueError(f"an image of the sample cannot be read: {bad}")
        seen.append(tokenizer.encoder(tokenizer.to_raw_range(batch.pixels)).permute(0, 2, 3, 1).flatten(0, 2))
    return torch.cat(seen)


def _round(tokenizer: NetworkTokenizer) -> None:
    """All weights as float16 holds them, which is how they are written: the codes are those of the file.

    Zeros lose their sign, which an average of equal weights would take from them, and which the hash of a tokenizer
    tells.
    """
    for value in tokenizer.state_dict().values():
        value.copy_(value.half() + 0.0)


def projection(parts: Sequence[Tensor], shares: Sequence[float], dim: int) -> tuple[Tensor, Tensor]:
    """Weight (dim, ΣC) and bias (dim,) that reduce parts (n, C) to principal components, each part to its share.

    The dimensions are given to the parts by the size of their components once scaled, the largest first.
    """
    total, blocks, values = sum(shares), [], []
    for cells, share in zip(parts, shares, strict=True):
        centred = (cells - cells.mean(0)).double()
        variance, vectors = torch.linalg.eigh(centred.T @ centred / len(cells))
        scale = (share / total / variance.sum()).sqrt()
        blocks.append((vectors * scale, (cells.mean(0).double() @ vectors) * scale))
        values.append(variance * scale**2)
    joined = torch.block_diag(*(block for block, _ in blocks))
    offset = torch.cat([mean for _, mean in blocks])
    chosen = torch.cat(values).argsort(descending=True)[:dim].sort().values
    return joined[:, chosen].T.float(), -offset[chosen].float()


def clusters(vectors: Tensor, number: int, seed: int) -> Tensor:
    """Centres (number, D) of unit length of vectors (n, D) of unit length."""
    kmeans = faiss.Kmeans(
        vectors.shape[1], number, niter=ITERATIONS, spherical=True, seed=seed + 1,
        max_points_per_centroid=256, min_points_per_centroid=1,
    )  # fmt: skip
    kmeans.train(vectors.numpy())
    return torch.from_numpy(kmeans.centroids)
