"""The feature engine: tokens once, the first showing once for all contexts, and no block after the deepest layer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from randar_features import sequence
from randar_features.data.ahead import sent
from randar_features.data.profile import part
from randar_features.features.spec import FeatureSpec, check_one, check_specs, model_specs, resolve_layers
from randar_features.hub import Model
from randar_features.hub.load import transformer_of
from randar_features.layers.attention import Positions, continued_mask
from randar_features.models import FeaturePass, ImageTransformer, LlamaGen, RandAR
from randar_features.models.base import Indices, check_tokens, evaluating, order_of, several_orders
from randar_features.precision import DType, computing_in

Pair = tuple[str, str]  # context and read
Place = tuple[str, str, int]  # context, read and layer


def encode(
    model: Model,
    images: Tensor,
    specs: Iterable[FeatureSpec | str],
    classes: Indices | int | None = None,
    dtype: DType = None,
) -> dict[FeatureSpec, Tensor]:
    """Several features of images, from one tokenization and as few passes as the model allows.

    Args:
        model: tokenizer and transformer; they are in evaluation mode while they encode.
        images: (B, 3, S, S) float in [0, 1].
        specs: which features, see `model_specs`.
        classes: (B,) class indices or one for all; None: the null class, so that no label leaks into the features.
        dtype: what it computes in, see `precision`; None: the format of the weights, or of the caller's autocast.

    Returns:
        Maps (B, G, G, D) float32 by spec, on the model's device, in the order of `specs`.

    Raises:
        TypeError, ValueError, IndexError: images, specs or classes that do not fit the model.
    """
    parsed = [FeatureSpec.parse(spec) for spec in specs]
    check_specs(model.transformer, parsed)
    model, own = model.fitted(dtype)
    with evaluating(model.transformer, model.tokenizer), computing_in(own, model.device, model.dtype):
        with part("tokenize", len(images), model.device):
            tokens = model.tokenizer.encode(sent(images, model.device))
        with part("encode", len(images), model.device):
            return encode_specs(model.transformer, tokens, parsed, classes)


def encode_tokens(
    transformer: ImageTransformer | Model,
    tokens: Tensor,
    classes: Indices | int | None = None,
    order: Indices | None = None,
    *,
    layers: int | Iterable[int] | None = None,
    context: str | None = None,
    read: str = "image",
    norm: bool = False,
) -> Tensor:
    """Compute the features of image tokens: the outputs of the given blocks, in raster order.

    The image is shown as `context` says and read at its last copy; with "repeat" and "reverse" every feature sees
    the whole image. Blocks after the deepest of the layers are not run, and no logits are computed.

    Args:
        transformer: the model or its transformer, in evaluation mode.
        tokens: (B, N) int64 codes in raster order.
        classes: (B,) class indices or one for all; None is the null class, so that no label leaks into the features.
        order: (N,) or (B, N) order of the first copy; None: the model's own (raster, or the groups of PAR).
        layers: block indices from 0, negative from the end; None: the middle one.
        context: "single", "repeat" or "reverse"; None: "reverse" for a model trained in random orders, "repeat" for
            one trained in a single order: LlamaGen, PAR, or RandAR in raster order.
        read: where the features are taken: "image" tokens; with RandAR also "instruction" tokens; with ARPG (context
            "single") also "query", a query at every location after the whole image, or "leave_one_out", where each
            query sees the whole image except the token at its own location.
        norm: apply the model's final norm (meant for the last layer).

    Returns:
        (B, L, G, G, D) float32, the layers in the given order.

    Raises:
        TypeError, ValueError, IndexError: tokens, classes, order, layers, context or read do not fit the model.
    """
    check_one(context, read)
    transformer = transformer_of(transformer)
    depth = transformer.config.num_layers
    given = layers if layers is None or isinstance(layers, str) else resolve_layers(layers, depth, ())
    specs = model_specs(transformer, layers=given, context=context, read=read, norm=norm)
    maps = encode_specs(transformer, tokens, specs, classes, order)
    if isinstance(given, list):  # a layer that was given twice comes twice
        by_layer = {spec.layer: spec for spec in specs}
        specs = [by_layer[layer] for layer in given]
    return torch.stack([maps[spec] for spec in specs], dim=1)


def encode_layer(
    transformer: ImageTransformer, tokens: Tensor, *, layer: int, context: Sequence[str], read: Sequence[str]
) -> dict[Pair, Tensor]:
    """Maps (B, G, G, D) float32 of one layer by context and read, those of them that go together."""
    specs = model_specs(transformer, layers=layer, context=context, read=read)
    return {(spec.context, spec.read): maps for spec, maps in encode_specs(transformer, tokens, specs).items()}


def encode_specs(
    transformer: ImageTransformer,
    tokens: Tensor,
    specs: Sequence[FeatureSpec],
    classes: Indices | int | None = None,
    order: Indices | None = None,
) -> dict[FeatureSpec, Tensor]:
    """Maps (B, G, G, D) float32 of image tokens (B, N) by spec; `order` is for the specs without orders of their own.

    `classes` and the errors are those of `encode_tokens`.
    """
    maps: dict[FeatureSpec, Tensor] = {}
    groups: dict[tuple[int, int, str], list[FeatureSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.orders or 0, spec.seed, spec.combine), []).append(spec)
    for group in groups.values():
        spec = group[0]
        if spec.orders is None:
            maps |= _in_one_order(transformer, tokens, group, classes, order)
        else:
            drawn = several_orders(transformer, spec.orders, spec.seed)
            each = (_in_one_order(transformer, tokens, group, classes, one) for one in drawn)
            if spec.combine == "mean":
                maps |= _mean(each)
            else:
                several = list(each)
                maps |= {spec: torch.cat([one[spec] for one in several], dim=-1) for spec in group}
    return {spec: maps[spec] for spec in specs}


def _mean(each: Iterator[dict[FeatureSpec, Tensor]]) -> dict[FeatureSpec, Tensor]:
    total, count = next(each), 1
    for maps in each:
        total, count = {spec: total[spec] + values for spec, values in maps.items()}, count + 1
    return {spec: values / count for spec, values in total.items()}


def _in_one_order(
    transformer: ImageTransformer,
    tokens: Tensor,
    specs: Sequence[FeatureSpec],
    classes: Indices | int | None,
    order: Indices | None,
) -> dict[FeatureSpec, Tensor]:
    """Maps by spec, of the passes that this order takes."""
    order = order_of(transformer, order, check_tokens(transformer, tokens))
    pairs: dict[Pair, list[int]] = {}
    for spec in specs:
        pairs.setdefault((spec.context, spec.read), []).append(spec.layer)
    states: dict[Place, Tensor] = {}
    for group in _passes(transformer, pairs):
        states |= _run(transformer, tokens, classes, order, group)
    return {spec: _as_map(transformer, spec, states[spec.context, spec.read, spec.layer], order) for spec in specs}


def _passes(transformer: ImageTransformer, pairs: Mapping[Pair, list[int]]) -> list[dict[Pair, list[int]]]:
    """Pairs of context and read, those together that share passes."""
    if transformer.reads_together:
        return [dict(pairs)]
    reads = dict.fromkeys(read for _, read in pairs)
    return [{pair: layers for pair, layers in pairs.items() if pair[1] == read} for read in reads]


def _as_map(transformer: ImageTransformer, spec: FeatureSpec, states: Tensor, order: Tensor) -> Tensor:
    """(B, G, G, D) float32 in raster order, from states (B, N, D) in the order of the last copy."""
    found = (transformer.final_norm(spec.read)(states) if spec.norm else states).float()
    raster = sequence.to_raster(found, sequence.read_order(order, spec.context))
    return raster.unflatten(1, (transformer.config.grid, -1))


def _run(
    transformer: ImageTransformer,
    tokens: Tensor,
    classes: Indices | int | None,
    order: Tensor,
    pairs: dict[Pair, list[int]],
) -> dict[Place, Tensor]:
    """States (B, N, D) of pairs that share passes, in the order in which they stand in the sequence."""
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    # Not PAR, one of whose groups may lie in both copies: its tokens see those after them in their group.
    if len(contexts) > 1 and isinstance(transformer, RandAR | LlamaGen):
        return _run_shared(transformer, tokens, classes, order, pairs)
    states: dict[Place, Tensor] = {}
    for context in contexts:
        own = {read: layers for (shown, read), layers in pairs.items() if shown == context}
        shown = transformer.feature_pass(tokens, classes, order, context=context, reads=list(own))  # type: ignore[arg-type]
        states |= {(context, *place): values for place, values in _read(transformer, shown, own).items()}
    return states


def _read(
    transformer: ImageTransformer, shown: FeaturePass, layers: Mapping[str, list[int]]
) -> dict[tuple[str, int], Tensor]:
    """States (B, N, D) of one pass by read and layer. The deepest block computes no more positions than are read."""
    deepest, x = max(max(own) for own in layers.values()), shown.x
    span, within = _span(shown.positions)
    states: dict[tuple[str, int], Tensor] = {}
    for layer in range(transformer.layers_of(next(iter(layers))).start, deepest + 1):
        positions = span if layer == deepest else None
        x = transformer.blocks[layer](x, shown.rotary, shown.mask, positions, shown.memory)
        held = x if layer == deepest else x[:, span]
        states |= {(read, layer): held[:, within[read]] for read, own in layers.items() if layer in own}
    return states


def _span(positions: Mapping[str, Positions]) -> tuple[Positions, dict[str, slice]]:
    """The positions in which all reads lie, and where in these each read is."""
    if len(positions) == 1:
        read, own = next(iter(positions.items()))
        return own, {read: slice(None)}
    slices = {read: own for read, own in positions.items() if isinstance(own, slice)}
    first = min(own.start for own in slices.values())
    return slice(first, None), {read: slice(own.start - first, None, own.step) for read, own in slices.items()}


def _run_shared(
    transformer: RandAR | LlamaGen,
    tokens: Tensor,
    classes: Indices | int | None,
    order: Tensor,
    pairs: dict[Pair, list[int]],
) -> dict[Place, Tensor]:
    """`_run` of several contexts of a causal model: the first copy runs once.

    None of its positions sees the second copy, so that its keys and values are the same in every context. This saves
    a third of the work of "repeat" and "reverse", and more with "single".
    """
    done = transformer.sequence_length()
    deepest = {context: max(max(own) for pair, own in pairs.items() if pair[0] == context) for context, _ in pairs}
    first, states = [FirstCopy() for _ in range(1 + max(deepest.values()))], {}
    for context in ["single", *(context for context in deepest if context != "single")]:
        start = 0 if context == "single" else done
        wanted = {read: layers for (shown, read), layers in pairs.items() if shown == context}
        whole = transformer.feature_pass(tokens, classes, order, context=context, reads=list(wanted))  # type: ignore[arg-type]
        x, rotary, mask = whole.x[:, start:], whole.rotary[:, start:], whole.mask
        if start:
            mask = continued_mask(x.shape[1], start, dtype=transformer.dtype, device=transformer.device)
        for layer in range(len(first) if context == "single" else 1 + deepest[context]):
            x = transformer.blocks[layer](x, rotary, mask, None, first[layer])
            for read, layers in wanted.items():
                if layer in layers:
                    states[context, read, layer] = x[:, _after(start, whole.positions[read])]
    return states


def _after(start: int, positions: Positions) -> slice:
    """Positions of a sequence, counted from `start`."""
    assert isinstance(positions, slice)
    return slice(positions.start - start, positions.stop - start, positions.step)


class FirstCopy:
    """Keys and values of the first copy in one block: held by the pass that computes them, given to those after it."""

    def __init__(self) -> None:
        self.held: tuple[Tensor, Tensor] | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What a pass sees of (B, Hkv, n, d) keys and values of its own: those of the first copy before them."""
        if self.held is None:
            self.held = keys, values
            return self.held
        return torch.cat([self.held[0], keys], dim=2), torch.cat([self.held[1], values], dim=2)
