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
from randar_features.layers import Rows
from randar_features.models import ImageTransformer
from randar_features.models.passes import Reading


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


def resolve_view(
    transformer: ImageTransformer,
    *,
    layers: int | Iterable[int] | None,
    context: str | None,
    read: str,
    recommended: Sequence[int] = (),
) -> tuple[list[int], str]:
    """Layers and context that the model has for a read; for None its recommended ones.

    Args:
        recommended: layers to take for None, where the read has them; else it is the middle one.

    Raises:
        IndexError, TypeError, ValueError: as `resolve_layers`, and for what does not go with the model or the read.
    """
    context = transformer.check_view(context, read)
    available = transformer.layers_of(read)
    default = [layer for layer in recommended if layer in available] or [transformer.middle_layer(read)]
    wanted = resolve_layers(layers, transformer.config.num_layers, default)
    outside = [layer for layer in wanted if layer not in available]
    if outside:
        raise ValueError(
            f"read={read!r} is of the layers {available[0]} … {available[-1]} of a {type(transformer).__name__} with "
            f"{transformer.config.num_layers}; got {outside}: the others hold other tokens"
        )
    return wanted, context


def encode_tokens(
    transformer: ImageTransformer,
    tokens: Tensor,
    classes: Tensor | None = None,
    order: Tensor | None = None,
    *,
    layers: int | Iterable[int] | None = None,
    context: str | None = None,
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
        order: (N,) or (B, N) order of the first copy; None: the model's own, raster but for PAR's groups.
        layers: block indices from 0, negative from the end; None: the middle one.
        context: "single", "repeat" or "reverse"; None: the model's recommended one, "reverse" for a model of any
            order, "repeat" for one trained in a single order: LlamaGen, PAR, or RandAR in raster order.
        read: at the "image" tokens; with RandAR also at the "instruction" tokens; with ARPG (context "single") at a
            "query" at every location behind the whole image, or "leave_one_out": each query sees the whole image
            but the token at its own location.
        norm: apply the model's final norm (meant for the last layer).

    Returns:
        (B, L, G, G, D) float32, the layers in the order they were asked for.

    Raises:
        ValueError, IndexError: tokens, classes, order, layers, context or read that do not fit the model.
    """
    maps = encode_reads(transformer, tokens, classes, order, layers=layers, context=context, reads=(read,), norm=norm)
    return maps[read]


def encode_reads(
    transformer: ImageTransformer,
    tokens: Tensor,
    classes: Tensor | None = None,
    order: Tensor | None = None,
    *,
    layers: int | Iterable[int] | None = None,
    context: str | None = None,
    reads: Sequence[str] | None = None,
    norm: bool = False,
) -> dict[str, Tensor]:
    """`encode_tokens` at several kinds of tokens, None: all, in as few passes as the model allows: each read's maps."""
    reads = tuple(transformer.reads if reads is None else reads)
    views = {read: resolve_view(transformer, layers=layers, context=context, read=read) for read in reads}
    maps: dict[str, Tensor] = {}
    for group in [reads] if transformer.reads_together else [(read,) for read in reads]:
        wanted, shown = views[group[0]]
        reading = transformer.reading(tokens, classes, order, context=shown, reads=group)
        maps |= _maps(transformer, reading, wanted, norm)
    return maps


def _maps(transformer: ImageTransformer, reading: Reading, wanted: list[int], norm: bool) -> dict[str, Tensor]:
    """Each read's features (B, L, G, G, D) of one pass."""
    grid, picks = transformer.config.grid, dict(reading.rows)
    if len(picks) == 1:
        rows: Rows = picks.popitem()[1]
        picks = {read: slice(None) for read in reading.rows}
    else:
        first = min(own.start for own in picks.values() if isinstance(own, slice))
        rows = slice(first, None)
        picks = {
            read: slice(own.start - first, None, own.step) for read, own in picks.items() if isinstance(own, slice)
        }
    states = _states(transformer, reading, set(wanted), rows)
    stacked = torch.stack([states[layer] for layer in wanted], dim=2)
    maps = {}
    for read, pick in picks.items():
        found = stacked[:, pick]
        found = (transformer.final_norm(read)(found) if norm else found).float()
        raster = sequence.to_raster(found, reading.order)  # (B, N, L, D)
        maps[read] = raster.transpose(1, 2).unflatten(2, (grid, grid))
    return maps


def _states(transformer: ImageTransformer, reading: Reading, wanted: set[int], rows: Rows) -> dict[int, Tensor]:
    """The residual stream at some rows behind each wanted block; none behind the deepest is run."""
    x, deepest, states = reading.x, max(wanted), {}
    for layer in range(reading.layers.start, deepest + 1):
        own = rows if layer == deepest else None
        x = transformer.blocks[layer](x, reading.rotary, reading.mask, own, reading.window)
        if layer in wanted:
            states[layer] = x if layer == deepest else x[:, rows]
    return states


def encode_orders(
    transformer: ImageTransformer,
    tokens: Tensor,
    classes: Tensor | None = None,
    *,
    orders: int | None = None,
    combine: str = "mean",
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """`encode_tokens` over several orders: `orders` seeded random ones in antithetic pairs; None: the model's own.

    Returns (B, L, G, G, D), or (B, L, G, G, orders·D) if `combine` is "concatenate" instead of "mean".
    """
    sequence.check_choice("combine", combine, ("mean", "concatenate"))
    if orders is None:
        return encode_tokens(transformer, tokens, classes, **options)
    drawn = transformer.several_orders(as_index(orders), seed)
    if combine == "concatenate":
        return torch.cat([encode_tokens(transformer, tokens, classes, order, **options) for order in drawn], dim=-1)
    total = encode_tokens(transformer, tokens, classes, drawn[0], **options)
    for order in drawn[1:]:
        total += encode_tokens(transformer, tokens, classes, order, **options)
    return total / orders


class ImageEncoder(nn.Module):
    """Images to features, with timm's `forward_features` / `forward_intermediates` contract.

    Args:
        model: a name, a folder, or a loaded model, whose modules are then shared, not copied.
        layer: block that `forward_features` reads; None: the model's first recommended one.
        context, read: see `encode_tokens`.
        orders: None: the model's own order; K: mean over K seeded random orders, see `encode_orders`.
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
        context: str | None = None,
        read: str = "image",
        orders: int | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        loaded = load_model(model)
        self.tokenizer, self.transformer = loaded.tokenizer, loaded.transformer
        config = self.transformer.config
        # Unknown names and numbers are refused now, not at the first image.
        layers, self.context = resolve_view(
            self.transformer,
            layers=None if layer is None else [layer],
            context=context,
            read=read,
            recommended=loaded.recommended_layers,
        )
        if orders is not None:
            self.transformer.several_orders(as_index(orders))
        self.layer, self.read, self.orders, self.seed = layers[0], read, orders, seed
        self.dtype = check_dtype(dtype)
        self.image_size = loaded.image_size
        self.num_features = self.embed_dim = config.dim
        self.grid_size = (config.grid, config.grid)
        reduction = loaded.image_size // config.grid
        names = {id(module): name for name, module in self.transformer.named_modules()}
        self.feature_info = [
            {"module": names[id(block)], "num_chs": config.dim, "reduction": reduction}
            for block in self.transformer.blocks
        ]

    def train(self, mode: bool = True) -> ImageEncoder:
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
            indices: layer indices; an int n: the last n layers; None: all; of those that the read has. As in timm
                the maps come by depth, each layer once.
            norm: apply the final norm to each.
            stop_early: with `intermediates_only`, run no block behind the deepest index (always so here).
            output_fmt: "NCHW": (B, D, G, G); "NLC": (B, G·G, D).
            intermediates_only: leave out the last layer's normed features (B, G·G, D), which come first otherwise.
        """
        sequence.check_choice("output_fmt", output_fmt, ("NCHW", "NLC"))
        available = self.transformer.layers_of(self.read)
        if isinstance(indices, int):
            indices = available[-_last(indices, len(available)) :]
        asked = available if indices is None else indices
        wanted, _ = resolve_view(self.transformer, layers=asked, context=self.context, read=self.read)
        wanted = sorted(set(wanted))
        layers = wanted if intermediates_only else [*wanted, available[-1]]
        maps = self.encode(x, layers=layers, norm=norm)
        final, maps = maps[:, -1], maps[:, : len(wanted)]
        if output_fmt == "NCHW":
            intermediates = list(maps.permute(1, 0, 4, 2, 3).unbind(0))
        else:
            intermediates = list(maps.flatten(2, 3).unbind(1))
        if intermediates_only:
            return intermediates
        final = final if norm else self.transformer.final_norm(self.read)(final)
        return final.flatten(1, 2), intermediates

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


RandAREncoder = ImageEncoder
