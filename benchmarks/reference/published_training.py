"""RandAR's published training step, restated plainly: what `training_speed` measures against.

It keeps what the published code does in each step: an order drawn for each image by a loop over `randperm`, the
whole sequence [class, P1, x1, …, PN, xN] under a boolean mask of its length squared, normalisation and rotation
in separate operations, the last block and the logits of all 1 + 2N rows, gradient norms taken one parameter after
the other with `.item()`, AdamW in separate operations, and the average of the weights moved one by one. Weights
and their average are float32; half precision is autocast's.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reference.published_loop import normed, projected
from randar_features.layers.block import Block
from randar_features.models import RandAR


class PublishedTraining:
    """The state of a run: a model of ours as the holder of the weights, AdamW, and the average of the weights."""

    def __init__(
        self,
        model: RandAR,
        *,
        learning_rate: float,
        weight_decay: float,
        ema_decay: float = 0.9999,
        gradient_clip: float = 1.0,
        skip_norm: float = 10.0,
        skip_after: int = 100,
        dtype: torch.dtype = torch.float32,
        micro_batch_size: int | None = None,
    ) -> None:
        self.model, self.average = model, copy.deepcopy(model).requires_grad_(False)
        self.ema_decay, self.gradient_clip = ema_decay, gradient_clip
        self.skip_norm, self.skip_after, self.steps = skip_norm, skip_after, 0
        self.dtype, self.micro_batch_size = dtype, micro_batch_size
        decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
        others = [parameter for parameter in model.parameters() if parameter.dim() < 2]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))

    def train_step(self, tokens: Tensor, classes: Tensor, order: Tensor | None = None) -> tuple[float, float]:
        """Loss and gradient norm of one update on tokens (B, N); orders (B, N) are drawn if not given."""
        order = self.draw_orders(tokens) if order is None else order
        size, mean = self.micro_batch_size or len(tokens), 0.0
        for start in range(0, len(tokens), size):
            rows = slice(start, start + size)
            loss = self.loss(tokens[rows], classes[rows], order[rows]) * size / len(tokens)
            loss.backward()
            mean += loss.item()
        total = 0.0
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                total += parameter.grad.norm(2).item() ** 2
        nn.utils.clip_grad_norm_(self.model.parameters(), self.gradient_clip)
        if self.steps < self.skip_after or total**0.5 <= self.skip_norm:
            self.optimizer.step()
        self.steps += 1
        self.optimizer.zero_grad()
        self.move_average()
        return mean, total**0.5

    def loss(self, tokens: Tensor, classes: Tensor, order: Tensor) -> Tensor:
        """Mean cross-entropy of all tokens."""
        with torch.autocast(tokens.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = training_logits(self.model, tokens, classes, order)
            return F.cross_entropy(logits.flatten(0, 1), tokens.gather(1, order).flatten())

    def draw_orders(self, tokens: Tensor) -> Tensor:
        """An order for each image, one after the other."""
        order = torch.arange(tokens.shape[1], device=tokens.device).repeat(len(tokens), 1)
        for row in range(len(tokens)):
            order[row] = order[row][torch.randperm(tokens.shape[1], device=tokens.device)]
        return order

    @torch.no_grad()
    def move_average(self) -> None:
        """Each weight's average towards the weight."""
        weights = dict(self.model.named_parameters())
        for name, value in self.average.named_parameters():
            value.mul_(self.ema_decay).add_(weights[name].data, alpha=1 - self.ema_decay)


def training_logits(model: RandAR, tokens: Tensor, classes: Tensor, order: Tensor) -> Tensor:
    """Logits (B, N, V) float32 in decoding order; computed at all rows, and taken at the instructions'."""
    batch, num_tokens = tokens.shape
    embedded = model.token_dropout(model.tok_embeddings(tokens.gather(1, order)))
    instructions = model.instructions()[order]
    pairs = torch.zeros(batch, 2 * num_tokens, model.config.dim, device=tokens.device, dtype=embedded.dtype)
    pairs[:, 0::2], pairs[:, 1::2] = instructions, embedded
    x = torch.cat([model.cls_embedding(classes, batch)[:, None], pairs], dim=1)
    at_locations = model.rotary[1:][order].repeat_interleave(2, dim=1)
    angles = torch.cat([model.rotary[:1].expand(batch, 1, -1, -1), at_locations], dim=1)
    length = 1 + 2 * num_tokens
    mask = torch.tril(torch.ones(length, length, dtype=torch.bool, device=tokens.device)).repeat(batch, 1, 1)
    for block in model.layers:
        assert isinstance(block, Block)
        x = x + attention(block, normed(block.attention_norm, x), angles, mask[:, None])
        h = normed(block.ffn_norm, x)
        layer = block.feed_forward
        x = x + layer.dropout(layer.w2(F.silu(layer.w1(h)) * layer.w3(h)))
    logits = model.output(normed(model.norm, x)).float()
    return logits[:, 1::2].contiguous()


def attention(block: Block, x: Tensor, angles: Tensor, mask: Tensor) -> Tensor:
    """Self-attention under the mask (B, 1, L, L)."""
    layer, (queries, keys, values) = block.attention, projected(block, x, angles)
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return layer.dropout(layer.wo(attended.transpose(1, 2).contiguous().flatten(2)))
