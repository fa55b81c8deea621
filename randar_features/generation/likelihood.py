"""How likely the model finds an image: log-likelihood of each token, and the surprisal map."""

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional as F

from randar_features import sequence
from randar_features.generation.classes import ClassesLike, resolve
from randar_features.generation.complete import as_classes
from randar_features.generation.sampling import is_number
from randar_features.hub import Model
from randar_features.layers.packed_linear import check_packed
from randar_features.models import ImageTransformer
from randar_features.models.base import check_tokens, evaluating, several_orders
from randar_features.precision import DType, compute_dtype, computing_in, fitted


@torch.no_grad()
def log_likelihood(
    transformer: ImageTransformer | Model,
    tokens: Tensor,
    classes: ClassesLike | None = None,
    orders: int | Tensor | Sequence[int] = 1,
    *,
    seed: int = 0,
    batch_size: int = 16,
    dtype: DType = None,
) -> Tensor:
    """log p(token | class, the tokens before it in the order), as the mean over orders.

    The negative mean over the tokens is the training loss. The sum over the tokens, in expectation over the orders,
    is a lower bound of the log-likelihood of the image under the mixture of all orders.

    Args:
        transformer: a model's transformer, or the model.
        tokens: (B, N) codes in raster order.
        classes: (B,) class indices, one for all images, or None for the null class; of a model also classes' names.
        orders: K: the first K of `sequence.antithetic_orders` with `seed`, the same for all images (LlamaGen and PAR
            have only one order; a model trained in raster order is measured in that one, whatever K is); or
            permutations of the locations: (N,) for all images, (B, N) one for each image, or several of these,
            (K, 1, N) or (K, B, N).
        batch_size: images in one forward pass.
        dtype: number format of the computation, see `precision`; None: that of the caller's autocast, else of the
            weights.

    Returns:
        (B, N) float32 in nats, raster order, on the model's device.
    """
    model, indices = resolve(transformer, classes)
    batch, num_tokens = check_tokens(model, tokens), model.config.num_tokens
    if sequence.as_index("batch_size", batch_size) < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    tokens = tokens.to(model.device, torch.int64)
    numbers = as_classes(indices, model, batch)
    several = as_orders(orders, model, batch, seed).to(tokens.device)
    total = torch.zeros(batch, num_tokens, dtype=torch.float32, device=tokens.device)
    computing = compute_dtype(dtype, model.device, model.dtype)
    if dtype is not None:
        check_packed(model, computing)
    model = fitted(model, computing, model.dtype)
    with evaluating(model), computing_in(computing, model.device, model.dtype):
        for order in several:  # (1 or B, N)
            for part in torch.arange(batch, device="cpu").split(min(int(batch_size), batch)):
                own = order if len(order) == 1 else order[part]
                total[part] += one_order(model, tokens[part], numbers[part], own)
    return total / len(several)


def one_order(transformer: ImageTransformer, tokens: Tensor, classes: Tensor, order: Tensor) -> Tensor:
    """(B, N) log-likelihoods in raster order, under one order (1 or B, N)."""
    logits = transformer(tokens, classes, order)
    wanted = sequence.to_order(tokens, order)
    loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    return -sequence.to_raster(loss.view_as(wanted), order)


def as_orders(orders: int | Tensor | Sequence[int], transformer: ImageTransformer, batch: int, seed: int) -> Tensor:
    """(K, 1 or B, N) permutations; ValueError if they are none."""
    num_tokens = transformer.config.num_tokens
    if isinstance(orders, Integral):
        several = several_orders(transformer, sequence.as_index("orders", orders), seed)[:, None]
        return transformer.own_order()[None] if transformer.trained_order == "raster" else several
    if orders is None or isinstance(orders, str):
        raise ValueError(f"orders must be a number of orders, or permutations of the locations; got {orders!r}")
    orders = sequence.as_tensor(orders)
    if orders.dim() == 3 and orders.shape[1] in (1, batch):
        return sequence.check_order(orders.flatten(0, 1), num_tokens).unflatten(0, orders.shape[:2])
    if orders.dim() == 3:
        raise ValueError(f"orders of shape {tuple(orders.shape)} for {batch} images: expected (K, {batch}, N)")
    several = sequence.check_order(orders, num_tokens)
    if len(several) not in (1, batch):
        raise ValueError(
            f"{len(several)} orders for {batch} images: give one for all or one for each; K orders of all images "
            f"have the shape (K, 1, {num_tokens})"
        )
    return several[None]


def surprisal_map(log_likelihoods: Tensor, image_size: int, limit: float) -> Tensor:
    """Draw −log p as a grey image: 0 nats are black, `limit` nats and more are white.

    Args:
        log_likelihoods: (B, N) nats in raster order, as `log_likelihood` gives them.
        image_size: S, a multiple of the grid side G; every token becomes a square of S/G pixels.
        limit: nats that are white; log V is the surprisal of a random guess among all V codes.

    Returns:
        (B, 3, S, S) float32 in [0, 1].
    """
    if not isinstance(log_likelihoods, Tensor):
        raise TypeError(f"log-likelihoods must be a tensor (B, N), got {type(log_likelihoods).__name__}")
    if log_likelihoods.ndim != 2 or not log_likelihoods.is_floating_point():
        got = f"{tuple(log_likelihoods.shape)}, {log_likelihoods.dtype}"
        raise ValueError(f"log-likelihoods must be floats (B, N), as log_likelihood gives them; got {got}")
    side = sequence.grid_side(log_likelihoods.shape[1])
    if sequence.as_index("image_size", image_size) < 1 or image_size % side:
        raise ValueError(f"image_size must be a multiple of the grid side {side}, got {image_size}")
    if not (is_number(limit) and limit > 0 and math.isfinite(limit)):
        raise ValueError(f"limit must be a positive number of nats, got {limit!r}")
    grey = (-log_likelihoods / float(limit)).clamp(0, 1).view(-1, 1, side, side)
    return F.interpolate(grey, size=(image_size, image_size), mode="nearest").expand(-1, 3, -1, -1)
