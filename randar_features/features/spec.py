"""A spec names a feature by context, read, layer, orders and norm; which specs a model has."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from randar_features import sequence
from randar_features.hub import Model
from randar_features.models import ImageTransformer, middle_layer
from randar_features.models.base import context_of, several_orders
from randar_features.sequence import as_flag, as_index, has_several

COMBINE = ("mean", "concatenate")


@dataclass(frozen=True)
class FeatureSpec:
    """One feature of an image, written "reverse/image/2".

    Suffixes name what differs from the defaults: "reverse/image/2/norm", "reverse/image/2/orders=4",
    "reverse/image/2/orders=4/seed=7/concatenate".

    Attributes:
        context: how the image is shown, "single", "repeat" or "reverse".
        read: at which tokens the feature is taken, "image", "instruction", "query" or "leave_one_out".
        layer: the block that the feature is taken from, counted from 0.
        orders: number of seeded random orders that are combined; None: the model's own order.
        norm: whether the model's final norm is applied.
        seed: seed of the random orders.
        combine: "mean" of the orders, or "concatenate" them along D.

    Raises:
        TypeError, ValueError: a value of another type or outside its range.
    """

    context: str
    read: str
    layer: int
    orders: int | None = None
    norm: bool = False
    seed: int = 0
    combine: str = "mean"

    def __post_init__(self) -> None:
        sequence.check_choice("context", self.context, sequence.CONTEXTS)
        if not isinstance(self.read, str) or not self.read.isidentifier():
            raise ValueError(f"read must be the name of a kind of tokens, such as image; got {self.read!r}")
        if as_index("layer", self.layer) < 0:
            raise ValueError(f"the layer of a spec is counted from 0, got {self.layer}")
        check_orders(self.orders, self.seed, self.combine)
        if self.orders is None and (self.seed, self.combine) != (0, "mean"):
            raise ValueError(
                f"seed={self.seed} and combine={self.combine!r} go with several orders, but orders is None"
            )
        object.__setattr__(self, "norm", as_flag("norm", self.norm))
        for name in ("layer", "orders", "seed"):  # Python's own numbers: a tensor's hash is not that of its value
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else as_index(name, value))

    @classmethod
    def parse(cls, text: str | Self) -> Self:
        """Parse a text such as "reverse/image/2/norm"; a spec is returned as it is.

        Raises:
            ValueError: the text is not a spec.
        """
        if isinstance(text, cls):
            return text
        if not isinstance(text, str):
            raise TypeError(f"a spec is a text such as 'reverse/image/2' or a FeatureSpec; got {text!r}")
        try:
            context, read, layer, *suffixes = text.split("/")
            return cls(context, read, _number(layer), **_options(suffixes))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{text!r} is no spec ({error}): expected context/read/layer, such as reverse/image/2, and perhaps "
                "/norm, /orders=4, /seed=7 or /concatenate"
            ) from error

    def __str__(self) -> str:
        parts = [self.context, self.read, str(self.layer)]
        parts += ["norm"] if self.norm else []
        parts += [] if self.orders is None else [f"orders={self.orders}"]
        parts += [f"seed={self.seed}"] if self.seed else []
        return "/".join(parts + ([self.combine] if self.combine != "mean" else []))

    def details(self) -> dict[str, Any]:
        """All fields by name, for records; seed and combine only if there are several orders."""
        several = self.orders is not None
        return {name: value for name, value in asdict(self).items() if several or name not in ("seed", "combine")}


def _options(suffixes: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for suffix in suffixes:
        name, equals, value = suffix.partition("=")
        if name in ("orders", "seed") and equals:
            found: dict[str, Any] = {name: _number(value)}
        elif suffix == "norm":
            found = {"norm": True}
        elif suffix == "concatenate":
            found = {"combine": suffix}
        else:
            raise ValueError(f"unknown suffix {suffix!r}")
        if found.keys() & options.keys():
            raise ValueError(f"the suffix {suffix!r} is there twice")
        options |= found
    return options


def _number(text: str) -> int:
    if not text.removeprefix("-").isdecimal() or str(int(text)) != text:
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def check_orders(orders: int | None, seed: int, combine: str) -> None:
    """TypeError or ValueError for a number of orders below 1, a seed that no generator takes, another `combine`."""
    sequence.check_choice("combine", combine, COMBINE)
    sequence.check_seed(seed)
    if orders is not None and as_index("orders", orders) < 1:
        raise ValueError(f"the number of orders must be at least 1, got {orders}")


def check_numbers(num_workers: int, **images: int | None) -> None:
    """TypeError or ValueError for fewer than 0 processes, a number of images below 1, or what is no integer."""
    for name, count in images.items():
        if count is not None and as_index(name, count) < 1:
            raise ValueError(f"{name} must be at least 1, or None; got {count}")
    if as_index("num_workers", num_workers) < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")


def model_specs(
    model: Model | ImageTransformer,
    *,
    layers: int | Iterable[int] | Literal["all"] | None = None,
    context: str | Sequence[str] | None = None,
    read: str | Sequence[str] = "image",
    orders: int | None = None,
    norm: bool = False,
    seed: int = 0,
    combine: str = "mean",
) -> list[FeatureSpec]:
    """The features that these settings name: every context, read and layer that go together.

    Args:
        model: whose features; of a `Model` the recommended layers are known.
        layers: block indices from 0, negative from the end; "all" that have features of a read; None: the recommended
            ones, else the middle one.
        context, read: one or several; context None: the one that the model recommends for each read.
        orders, norm, seed, combine: as in `FeatureSpec`; without orders `seed` and `combine` say nothing.

    Raises:
        ValueError, IndexError, TypeError: what the model does not have.
    """
    transformer = model.transformer if isinstance(model, Model) else model
    recommended = model.recommended_layers if isinstance(model, Model) else ()
    check_orders(orders, seed, combine)
    shared: dict[str, Any] = {"norm": norm}
    if orders is not None:
        several_orders(transformer, orders, seed)  # of a fixed order there is one alone
        shared |= {"orders": operator.index(orders), "seed": operator.index(seed), "combine": combine}
    if not isinstance(layers, str) and has_several(layers):
        layers = list(layers)  # an iterator is empty after the first read
    specs = [
        FeatureSpec(own_context, own_read, layer, **shared)
        for own_context, own_read in _pairs(transformer, context, read)
        for layer in _layers_of(transformer, layers, own_read, recommended)
    ]
    return list(dict.fromkeys(specs))


def check_specs(transformer: ImageTransformer, specs: Iterable[FeatureSpec]) -> None:
    """ValueError or IndexError for the first of these features that the model does not have."""
    for spec in specs:
        _layers_of(transformer, spec.layer, spec.read, ())
        context_of(transformer, spec.context, spec.read)
        if spec.orders is not None and transformer.fixed_order:  # any other model has as many as are asked for
            several_orders(transformer, spec.orders, spec.seed)


def model_spec(model: Model, *, layer: int | None, context: str | None, read: str, **settings: Any) -> FeatureSpec:
    """The one feature that these settings of `model_specs` name; without a layer that of the first recommended one.

    Raises:
        ValueError, IndexError, TypeError: what the model does not have, or several where there is one.
    """
    check_one(context, read)
    layers = None if layer is None else as_index("layer", layer)
    return model_specs(model, layers=layers, context=context, read=read, **settings)[0]


def check_one(context: Any, read: Any) -> None:
    """TypeError for several contexts or reads."""
    for name, given in (("context", context), ("read", read)):
        if not isinstance(given, str | None):
            raise TypeError(f"{name} must be one name, got {given!r}")


def _pairs(
    transformer: ImageTransformer, context: str | Sequence[str] | None, read: str | Sequence[str]
) -> list[tuple[str, str]]:
    """The contexts and reads that go together; without a context the recommended one of each read."""
    reads = _names("read", read)
    recommended = [(context_of(transformer, None, name), name) for name in reads]
    if context is None:
        return recommended
    pairs = []
    for own in _names("context", context):
        fitting = [name for name in reads if own in transformer.reads[name]]
        if not fitting:
            context_of(transformer, own, reads[0])
        pairs += [(own, name) for name in fitting]
    return pairs


def _names(name: str, given: str | Sequence[str]) -> list[str]:
    """One name or several as a list; ValueError for none, TypeError for what is no name."""
    if isinstance(given, str):
        return [given]
    names: list[Any] = list(given) if has_several(given) else [given]
    if not all(isinstance(one, str) for one in names):
        raise TypeError(f"{name} must be a name or several, got {given!r}")
    if not names:
        raise ValueError(f"{name} is empty: give at least one name")
    return names


def _layers_of(
    transformer: ImageTransformer,
    layers: int | Iterable[int] | str | None,
    read: str,
    recommended: Sequence[int],
) -> list[int]:
    """The layers, counted from 0; ValueError for one that has no such read."""
    available = transformer.layers_of(read)
    if isinstance(layers, str):
        if layers != "all":
            raise TypeError(f"layers: integers or 'all' are expected, got {layers!r}")
        return list(available)
    default = [layer for layer in recommended if layer in available] or [middle_layer(transformer, read)]
    wanted = resolve_layers(layers, transformer.config.num_layers, default)
    if outside := [layer for layer in wanted if layer not in available]:
        raise ValueError(
            f"read={read!r} is of the layers {available[0]} … {available[-1]} of a {type(transformer).__name__} with "
            f"{transformer.config.num_layers}; got {outside}: the others hold other tokens"
        )
    return wanted


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
    several: Iterable[Any] = layers if has_several(layers) else [layers]
    wanted = [as_index("layers", layer) for layer in several]
    if not wanted:
        raise ValueError("layers is empty: give at least one index, or None for the recommended ones")
    for layer in wanted:
        if not -num_layers <= layer < num_layers:
            raise IndexError(
                f"layer {layer} is out of range: the model has {num_layers} layers, "
                f"0 … {num_layers - 1} or {-num_layers} … -1"
            )
    return [layer % num_layers for layer in wanted]
