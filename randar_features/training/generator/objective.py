"""The loss of training and of evaluation: next-token prediction over orders."""

import torch
from torch import Tensor, nn

from randar_features import sequence
from randar_features.models import ImageTransformer
from randar_features.models.base import several_orders


def next_token_loss(model: nn.Module, tokens: Tensor, classes: Tensor | None, order: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token of raster tokens (B, N) under an order, by a model that may be wrapped."""
    loss: Tensor = model(tokens, classes, order, loss=True)
    return loss


def training_order(
    model: ImageTransformer, batch: int, generator: torch.Generator, device: torch.device | str | None = None
) -> Tensor:
    """The orders of a training step on `device`: (B, N) int64, drawn for each image, or the only one, (1, N)."""
    if model.fixed_order:
        return model.own_order().to(device)
    return sequence.random_orders(batch, model.config.num_tokens, generator).to(device)


def evaluation_orders(model: ImageTransformer, count: int, seed: int = 0) -> Tensor:
    """Orders (K, N) to validate a model in: `count` antithetic ones, or the only one that it is trained in."""
    if model.trained_order == "raster":
        return sequence.raster_order(model.config.num_tokens)
    return several_orders(model, 1 if model.fixed_order else count, seed)


@torch.no_grad()
def validation_losses(
    model: nn.Module, tokens: Tensor, classes: Tensor, orders: Tensor, batch_size: int
) -> tuple[float, float]:
    """Nats per token with the classes and with the null class, summed over images (B, N) and orders (K, N)."""
    with_class = without = 0.0
    for rows in torch.arange(len(tokens), device="cpu").split(batch_size) if len(tokens) else ():
        for order in orders.to(tokens.device):
            shown = tokens[rows]
            with_class += next_token_loss(model, shown, classes[rows], order[None]).item() * len(rows)
            without += next_token_loss(model, shown, None, order[None]).item() * len(rows)
    return with_class, without
