"""Class embedding with a null class."""

from __future__ import annotations

from torch import Tensor, nn


class ClassEmbedding(nn.Module):
    """A vector a class, and in the last row the null class that stands for "no class given"."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embedding_table = nn.Embedding(num_classes + 1, dim)

    @property
    def null_class(self) -> int:
        """Index of the null class: C."""
        return self.num_classes

    def forward(self, classes: Tensor | None, batch: int) -> Tensor:
        """Class indices (B,), C = null class, None = null class for all → (B, D)."""
        if classes is None:
            return self.embedding_table.weight[-1].expand(batch, -1)
        return self.embedding_table(check_classes(classes, batch, self.num_classes))


def check_classes(classes: Tensor, batch: int, num_classes: int) -> Tensor:
    """`classes` as (B,) integers in 0 … C (C = null class), or ValueError."""
    if classes.shape != (batch,) or classes.is_floating_point():
        raise ValueError(
            f"classes must be {batch} integers, shape ({batch},); got {tuple(classes.shape)}, {classes.dtype}"
        )
    # On an accelerator a check would wait for the device; there the embedding itself refuses bad indices.
    if classes.device.type == "cpu" and classes.numel() and not 0 <= classes.min() <= classes.max() <= num_classes:
        raise ValueError(
            f"classes must lie in 0 … {num_classes - 1}, or be {num_classes} for the null class; "
            f"got {int(classes.min())} … {int(classes.max())}"
        )
    return classes
