"""PAR (Wang et al., arXiv 2412.15119): groups of distant tokens in parallel, in one fixed order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from randar_features import sequence
from randar_features.layers import Mask, Rows
from randar_features.models.causal import CausalTransformer
from randar_features.models.config import TransformerConfig
from randar_features.sequence import GROUP


@dataclass(frozen=True, kw_only=True)
class PARConfig(TransformerConfig):
    """Sizes of a PAR, see `TransformerConfig`; the grid's side must be even."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sequence.group_order(self.num_tokens)


class PAR(CausalTransformer):
    """[class, t1 … t4, three special tokens, t5 … tN] in the order of `sequence.group_order`.

    The first four tokens are predicted one by one. From the fourth on, groups of four rows see each other, and
    each predicts the token of its own quadrant in the next group; the special tokens fill up the first group.
    """

    contexts = ("single", "repeat")
    fixed_order = True

    def build(self, config: TransformerConfig) -> None:
        """As `ImageTransformer.build`."""
        super().build(config)
        self.spe_tok_embeddings = nn.ModuleDict({"special_embeddings": nn.Embedding(GROUP - 1, config.dim)})

    def own_order(self) -> Tensor:
        """The order of groups, (1, N)."""
        return sequence.group_order(self.config.num_tokens, self.device)

    def arrange(self, first: Tensor, tokens: Tensor, asking: Tensor) -> Tensor:
        """[class, t1 … t4, special tokens, t5 …]."""
        return sequence.with_specials(first, tokens, asking)

    def asking_rows(self, rotary: Tensor) -> Tensor:
        """The three special tokens."""
        return self.spe_tok_embeddings.get_parameter("special_embeddings.weight")

    def asked(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """The special tokens, nowhere."""
        rows = torch.arange(GROUP - 1, device=order.device).expand(len(order), -1)
        return rows, torch.full_like(rows, -1)

    def length_of(self, num_tokens: int, context: str = "single") -> int:
        """As `ImageTransformer.length_of`."""
        return super().length_of(num_tokens, context) + (GROUP - 1 if num_tokens >= GROUP else 0)

    def tokens_before(self, start: int) -> int:
        """As `ImageTransformer.tokens_before`: where the special tokens stand is counted from the first token."""
        return 0

    def read_rows(self, context: str, read: str) -> Rows:
        """As `CausalTransformer.read_rows`: of a first copy the special tokens are left out."""
        if context != "single":
            return super().read_rows(context, read)
        rows = torch.arange(self.length_of(self.config.num_tokens), device=self.device)
        return torch.cat([rows[1 : 1 + GROUP], rows[2 * GROUP :]])

    def mask(self, count: int, start: int = 0, *, separate: int = 0) -> Mask:
        """As `CausalTransformer.mask`, and the rows of a group see each other."""
        if count == 1 or (count == GROUP and start and start % GROUP == 0):
            return None
        return sequence.group_mask(start + count, self.device)[start:]
