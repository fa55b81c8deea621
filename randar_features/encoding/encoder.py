"""Bidirectional features out of a causal model: the sequence is shown twice, features are read at the second copy."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from randar_features import sequence
from randar_features.encoding.precision import autocast, check_dtype
from randar_features.hub import Model, load_model
from randar_features.models import RandAR


def resolve_layers(layers: int | Iterable[int] | None, num_layers: int, default: Sequence[int]) -> list[int]:
    """Layer indices counted from 0; negative ones count from the end.

    Args:
        layers: one index, several, or None for `default`.
        num_layers: how many layers the model has.

    Raises:
        IndexError: an index outside −num_layers … num_layers − 1.
        TypeError: an index that is no integer.
        ValueError: no layer at all.
    """
    layers = default if layers is None else layers
    asked = [as_index(layer) for layer in (layers if isinstance(layers, Iterable) else [layers])]
    if not asked:
        raise ValueError("no layers were asked for; give at least one index, or None for the recommended ones")
    for layer in asked:
        if not -num_layers <= layer < num_layers:
            raise IndexError(
                f"layer {layer} is out of range: the model has {num_layers} layers, "
                f"0 … {num_layers - 1} or {-num_layers} … -1"
            )
    return [layer % num_layers for layer in asked]


def as_index(value: Any) -> int:
    """An integer of any kind as an int; TypeError for anything else, fractions and booleans among them."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"an integer is expected, got {value!r}")
    return operator.index(value)


def encode_tokens(
    transformer: RandAR,
    tokens: Tensor,
    classes: Tensor | None = None,
    order: Tensor | None = None,
    *,
    layers: int | Iterable[int] | None = None,
    context: str = "reverse",
    read: str = "image",
    norm: bool = False,
) -> Tensor:
    """Features of image tokens: the residual stream behind each asked-for block, in raster order.

    The image is shown as `context` says and read at its last copy; with "repeat" and "reverse" every
    feature sees the whole image. Blocks behind the deepest asked-for one are not run, logits are not computed.

    Args:
        transformer: the model; in evaluation mode.
        tokens: (B, N) int64 codes in raster order.
        classes: (B,) class indices; None is the null class, so that no label leaks into the features.
        order: (N,) or (B, N) order of the first copy; None: raster.
        layers: block indices from 0, negative from the end; None: the middle one.
        context: "single", "repeat" or "reverse".
        read: at the "image" tokens or at the "instruction" tokens.
        norm: apply the model's final norm (meant for the last layer).

    Returns:
        (B, L, G, G, D) float32, the layers in the order they were asked for.

    Raises:
        ValueError, IndexError: tokens, classes, order, layers, context or read that do not fit the model.
    """
    return encode_reads(transformer, tokens, classes, order, layers=layers, context=context, reads=(read,), norm=norm)[
        read
    ]


def encode_reads(
    transformer: RandAR,
    tokens: Tensor,
    classes: Tensor | None = None,
    order: Tensor | None = None,
    *,
    layers: int | Iterable[int] | None = None,
    context: str = "reverse",
    reads: Sequence[str] = sequence.READS,
    norm: bool = False,
) -> dict[str, Tensor]:
    """`encode_tokens` at several kinds of tokens in one pass: the maps of each read."""
    config = transformer.config
    wanted = resolve_layers(layers, config.num_layers, [config.middle_layer])
    each = {read: sequence.read_rows(config.num_tokens, context, read) for read in reads}
    rows = next(iter(each.values())) if len(each) == 1 else sequence.copy_rows(config.num_tokens, context)
    x, rotary = transformer.embed(tokens, classes, order, context)
    states = _states(transformer, x, rotary, set(wanted), rows)
    stacked = torch.stack([transformer.norm(states[i]) if norm else states[i] for i in wanted], dim=2).float()
    shown = sequence.read_order(transformer.check_order(order, len(tokens)), context)
    maps = {}
    for read, own in each.items():
        picked = stacked[:, (own.start - rows.start) :: own.step // rows.step]
        raster = sequence.to_raster(picked, shown)  # (B, N, L, D)
        maps[read] = raster.transpose(1, 2).unflatten(2, (config.grid, config.grid))
    return maps


def _states(transformer: RandAR, x: Tensor, rotary: Tensor, wanted: set[int], rows: slice) -> dict[int, Tensor]:
    deepest, states = max(wanted), {}
    for index, block in enumerate(transformer.layers[:deepest]):
        x = block(x, rotary)
        if index in wanted:
            states[index] = x[:, rows]
    states[deepest] = transformer.layers[deepest](x, rotary, rows)
    return states


def encode_orders(
    transformer: RandAR,
    tokens: Tensor,
    classes: Tensor | None = None,
    *,
    orders: int | None = None,
    combine: str = "mean",
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """`encode_tokens` over several orders: `orders` seeded random ones in antithetic pairs; None: raster alone.

    Returns (B, L, G, G, D), or (B, L, G, G, orders·D) if `combine` is "concatenate" instead of "mean".
    """
    sequence.check_choice("combine", combine, ("mean", "concatenate"))
    if orders is None:
        return encode_tokens(transformer, tokens, classes, **options)
    drawn = sequence.antithetic_orders(as_index(orders), transformer.config.num_tokens, seed)
    if combine == "concatenate":
        return torch.cat([encode_tokens(transformer, tokens, classes, order, **options) for order in drawn], dim=-1)
    total = encode_tokens(transformer, tokens, classes, drawn[0], **options)
    for order in drawn[1:]:
        total += encode_tokens(transformer, tokens, classes, order, **options)
    return total / orders


class RandAREncoder(nn.Module):
    """Images to features, with timm's `forward_features` / `forward_intermediates` contract.

    Args:
        model: a name, a folder, or a loaded model, whose modules are then shared, not copied.
        layer: block that `forward_features` reads; None: the model's first recommended one.
        context, read: see `encode_tokens`.
        orders: None: one raster order; K: mean over K seeded random orders, see `encode_orders`.
        seed: of the K orders.
        dtype: format of the matrix products; None: bfloat16 where the hardware has it, else float32.

    `num_features` is D, `grid_size` (G, G), `image_size` S; images are (B, 3, S, S) in [0, 1]. The frozen model
    stays in evaluation mode when the module around it trains: its dropout would blur the features.
    """

    def __init__(
        self,
        model: str | Model = "randar-tiny",
        *,
        layer: int | None = None,
        context: str = "reverse",
        read: str = "image",
        orders: int | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        loaded = load_model(model)
        self.tokenizer, self.transformer = loaded.tokenizer, loaded.transformer
        config = self.transformer.config
        asked = None if layer is None else [layer]
        self.layer = resolve_layers(asked, config.num_layers, loaded.recommended_layers)[0]
        # Unknown names and numbers are refused now, not at the first image.
        sequence.read_rows(config.num_tokens, context, read)
        if orders is not None:
            sequence.antithetic_orders(as_index(orders), config.num_tokens)
        self.context, self.read, self.orders, self.seed = context, read, orders, seed
        self.dtype = check_dtype(dtype)
        self.image_size = loaded.image_size
        self.num_features = self.embed_dim = config.dim
        self.grid_size = (config.grid, config.grid)
        reduction = loaded.image_size // config.grid
        self.feature_info = [
            {"module": f"layers.{index}", "num_chs": config.dim, "reduction": reduction}
            for index in range(config.num_layers)
        ]

    def train(self, mode: bool = True) -> RandAREncoder:
        """Set the mode of this module alone; tokenizer and transformer stay in evaluation mode."""
        super().train(mode)
        self.tokenizer.eval()
        self.transformer.eval()
        return self

    def forward(self, x: Tensor, classes: Tensor | None = None) -> Tensor:
        """Mean of `forward_features` over locations: (B, 3, S, S) → (B, D)."""
        return self.forward_features(x, classes).mean(dim=1)

    def forward_features(self, x: Tensor, classes: Tensor | None = None) -> Tensor:
        """Features of `layer`: (B, 3, S, S) in [0, 1] → (B, G·G, D) float32, raster order."""
        return self.encode(x, classes, layers=[self.layer])[:, 0].flatten(1, 2)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = True,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features of several layers, as timm's vision transformers give them.

        Args:
            x: (B, 3, S, S) in [0, 1].
            indices: layer indices; an int n: the last n layers; None: all. As in timm the maps come by depth,
                each layer once.
            norm: apply the final norm to each.
            stop_early: with `intermediates_only`, run no block behind the deepest index (always so here).
            output_fmt: "NCHW": (B, D, G, G); "NLC": (B, G·G, D).
            intermediates_only: leave out the last layer's normed features (B, G·G, D), which come first otherwise.
        """
        sequence.check_choice("output_fmt", output_fmt, ("NCHW", "NLC"))
        count = self.transformer.config.num_layers
        if isinstance(indices, int):
            indices = range(count - _last(indices, count), count)
        wanted = sorted(set(resolve_layers(indices, count, default=range(count))))
        layers = wanted if intermediates_only else [*wanted, count - 1]
        maps = self.encode(x, layers=layers, norm=norm)
        final, maps = maps[:, -1], maps[:, : len(wanted)]
        if output_fmt == "NCHW":
            intermediates = list(maps.permute(1, 0, 4, 2, 3).unbind(0))
        else:
            intermediates = list(maps.flatten(2, 3).unbind(1))
        if intermediates_only:
            return intermediates
        return (final if norm else self.transformer.norm(final)).flatten(1, 2), intermediates

    def encode(self, x: Tensor, classes: Tensor | None = None, *, layers: Sequence[int], norm: bool = False) -> Tensor:
        """Maps (B, L, G, G, D) float32 of the given layers."""
        if not isinstance(x, Tensor):
            raise TypeError(
                f"images must be a float tensor, got {type(x).__name__}: extract_features takes other forms"
            )
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images must be {self.image_size}x{self.image_size} pixels, shape (B, 3, {self.image_size}, "
                f"{self.image_size}); got {tuple(x.shape)}: crop with randar_features.data.adm_center_crop"
            )
        tokens = self.tokenizer.encode(x)
        with autocast(tokens.device, self.dtype):
            return encode_orders(
                self.transformer,
                tokens,
                classes,
                orders=self.orders,
                seed=self.seed,
                layers=layers,
                context=self.context,
                read=self.read,
                norm=norm,
            )


def _last(n: int, count: int) -> int:
    if not 1 <= n <= count:
        raise IndexError(f"the last {n} layers were asked for: the model has {count}")
    return n
