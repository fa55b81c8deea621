"""One pass over images shown once or twice: predictions at the first copy, features at the last."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from randar_features import sequence
from randar_features.models import LlamaGen, RandAR
from randar_features.models.base import order_of

Features = Mapping[str, Tensor]
"""(B, N, D) in raster order by read."""


class Shown(NamedTuple):
    """What a pass gives."""

    states: Tensor | None
    """(B, N, D) in the first copy's order: what `ImageTransformer.logits` predicts its tokens from."""
    features: dict[int, Features]
    """The residual stream after each block, by its number, at the last copy's tokens."""


def show(
    transformer: RandAR | LlamaGen,
    tokens: Tensor,
    classes: Tensor | None,
    order: Tensor,
    *,
    context: str,
    reads: Sequence[str],
    layers: Collection[int],
    predict: bool = True,
) -> Shown:
    """Run images (B, N) in an order (B or 1, N), shown as `context` says.

    Nothing of the first copy sees the second, so the predictions are those of `transformer(tokens, classes, order)`.
    After the deepest of the `layers` the first copy alone goes on, and only as far as tokens are predicted.
    Without `predict` the pass ends at that block, and there are none.
    """
    shown = transformer.feature_pass(tokens, classes, order, context=context, reads=reads)
    shown_order = sequence.read_order(order_of(transformer, order, len(tokens)), context)
    predicting, deepest = transformer.predicting, max(layers)
    x, rotary, blocks = shown.x, shown.rotary, transformer.blocks
    features: dict[int, Features] = {}
    for layer, block in enumerate(blocks[: None if predict else deepest + 1]):
        if layer > deepest:
            x, rotary = x[:, : predicting.stop], rotary[:, : predicting.stop]
        narrowed = layer > deepest and layer == len(blocks) - 1
        x = block(x, rotary, shown.mask, predicting if narrowed else None)
        if layer in layers:
            features[layer] = {
                read: sequence.to_raster(x[:, positions], shown_order) for read, positions in shown.positions.items()
            }
    if not predict:
        return Shown(None, features)
    return Shown(x if len(blocks) - 1 > deepest else x[:, predicting], features)
