"""A codebook of unit-length vectors that follows the latents instead of gradients."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor


class MovingCodebook:
    """Each code is the moving mean of the latents it won; codes that hardly win any move onto present latents.

    van den Oord et al. 2017, arXiv:1711.00937, appendix A.1. Several processes see each other's latents, and
    all do the same.

    Args:
        weight: the codebook (V, C), changed in place.
        decay: of the moving means.
        revive_below: share of the mean use under which a code is replaced.
        accelerator: this process among those that train together.
    """

    def __init__(self, weight: Tensor, *, decay: float, revive_below: float, accelerator: Accelerator) -> None:
        self.weight, self.decay, self.revive_below = weight, decay, revive_below
        self.accelerator = accelerator
        self.counts = torch.zeros(len(weight), device=weight.device)

    @torch.no_grad()
    def move(self, latents: Tensor, tokens: Tensor, generator: torch.Generator) -> None:
        """One step after latents (B, C, h, w) and the tokens (B, N) they became."""
        vectors = self.accelerator.gather(latents.permute(0, 2, 3, 1).flatten(0, 2))  # (B·N, C) of the whole batch
        winners = self.accelerator.gather(tokens.flatten())
        weight, decay = self.weight, self.decay
        counts = torch.bincount(winners, minlength=len(weight)).float()
        sums = torch.zeros_like(weight).index_add_(0, winners, vectors)
        means = weight * self.counts[:, None] * decay + sums * (1 - decay)
        self.counts.mul_(decay).add_(counts, alpha=1 - decay)
        used = self.counts > 0
        weight[used] = F.normalize(means[used], dim=-1)
        dead = (self.counts < self.revive_below * self.counts.mean()).nonzero().flatten()
        chosen = torch.randperm(len(vectors), generator=generator, device="cpu")[: len(dead)].to(vectors.device)
        self.weight[dead[: len(chosen)]] = vectors[chosen]
        self.counts[dead[: len(chosen)]] = self.counts.mean()

    def usage(self) -> dict[str, float]:
        """`codebook_usage`, the share of codes in use, and `codebook_perplexity`, exp of their use's entropy."""
        share = self.counts / self.counts.sum().clamp(min=1e-12)
        alive = (self.counts >= self.revive_below * self.counts.mean()) & (self.counts > 0)
        entropy = torch.special.entr(share).sum()
        return {"codebook_usage": alive.float().mean().item(), "codebook_perplexity": entropy.exp().item()}
