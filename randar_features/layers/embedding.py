"""Class embedding with a null class."""

from collections.abc import Sequence

from torch import Tensor, nn

from randar_features import sequence


class ClassEmbedding(nn.Module):
    """A vector for each class, and last one for the null class, which stands for "no class given"."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embedding_table = nn.Embedding(num_classes + 1, dim)

    def forward(self, classes: Tensor | Sequence[int] | int | None, batch: int) -> Tensor:
        """Class indices (B,) or one for all, C = null class, None = null class for all → (B, D)."""
        if classes is None:
            return self.embedding_table.weight[-1].expand(batch, -1)
        classes = check_classes(classes, batch, self.num_classes)
        return self.embedding_table(classes.to(self.embedding_table.weight.device))


def check_classes(classes: Tensor | Sequence[int] | int, batch: int, num_classes: int) -> Tensor:
    """`classes`, one for each image or one for all, as (B,) int64 in 0 … C (C = null class), or ValueError."""
    try:
        given = sequence.as_tensor(classes)
    except TypeError:  # names, or no sequence
        raise TypeError(f"classes must be {batch} integers, shape ({batch},); got {classes!r}") from None
    given = given.expand(batch) if given.dim() == 0 else given
    if given.shape != (batch,) or not sequence.are_whole(given):
        raise ValueError(f"classes must be {batch} integers, shape ({batch},); got {tuple(given.shape)}, {given.dtype}")
    given = given.long()
    # Elsewhere the embedding itself refuses bad indices.
    if sequence.can_look_at(given) and not 0 <= given.min() <= given.max() <= num_classes:
        raise ValueError(
            f"classes must lie in 0 … {num_classes - 1}, or be {num_classes} for the null class; "
            f"got {int(given.min())} … {int(given.max())}"
        )
    return given
