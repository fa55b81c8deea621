"""Features of images as a transformer of scikit-learn: `make_pipeline(RandARFeatures(), LogisticRegression())`."""

import os
from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from randar_features import sequence
from randar_features.data import ImageBatch, ImageError, open_images
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.features import FeatureSpec, encode
from randar_features.features.extract import own_batch_size
from randar_features.features.spec import check_numbers, model_spec
from randar_features.hub import Model, load_model
from randar_features.precision import DType, check_dtype
from randar_features.store.records import OK

ON_ERROR = ("raise", "nan")
MODELS_KEPT = 2
BYTES_KEPT = 2**28

Vectors = NDArray[np.float32]


class RandARFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no type stubs
    """Images to mean-pooled features (n, D), the numbers of `extract_features(…, pool="mean")`.

    `fit` learns nothing: it checks the settings. Models and vectors that were used last stay in memory for the whole
    process, vectors by the content of their images: a grid search loads a model once, and encodes an image once a
    feature, whatever the folds and the settings of the classifier.

    A pickle holds the model's name, not its weights; other weights under that name are refused.

    Args:
        model: a name (`list_models()`) or a folder; a loaded model will do, but each clone copies it.
        spec: the whole feature in one text, "reverse/image/2"; it takes the place of the six arguments after it.
        layer: block from 0, negative from the end; None: the first that the model recommends.
        context, read, orders, norm, seed: as in `extract_features`.
        on_error: "raise" an ImageError at the first image that cannot be read, or leave "nan" in its place.
        batch_size, device, dtype, num_workers, value_range, max_pixels: as in `extract_features`.

    Attributes:
        spec_: the feature, as a text.
        weights_: hash of the model's weights.
    """

    spec_: str
    weights_: str

    def __init__(
        self,
        model: str | os.PathLike[str] | Model = "randar-tiny",
        spec: str | FeatureSpec | None = None,
        *,
        layer: int | None = None,
        context: str | None = None,
        read: str = "image",
        orders: int | None = None,
        norm: bool = False,
        seed: int = 0,
        on_error: str = "raise",
        batch_size: int | None = None,
        device: str | None = None,
        dtype: DType = None,
        num_workers: int = 0,
        value_range: tuple[float, float] | None = None,
        max_pixels: int = DEFAULT_READING.max_pixels,
    ) -> None:
        self.model, self.spec = model, spec
        self.layer, self.context, self.read = layer, context, read
        self.orders, self.norm, self.seed = orders, norm, seed
        self.on_error, self.batch_size, self.device, self.dtype = on_error, batch_size, device, dtype
        self.num_workers, self.value_range, self.max_pixels = num_workers, value_range, max_pixels

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Load the model and check the settings; no image is read.

        Raises:
            ValueError, IndexError, TypeError: settings that the model does not have.
        """
        if hasattr(self, "weights_"):
            del self.weights_
        model = self._model()
        self.spec_, self.weights_ = str(self._spec(model)), model.weights_hash
        return self

    def transform(self, X: Any) -> Vectors:
        """Vectors (n, D) float32 of images in any form that `extract_features` takes.

        Raises:
            ImageError: with on_error="raise", an image cannot be read.
            ValueError: the weights are not those that `fit` found.
        """
        model = self._model()
        spec = self._spec(model)
        source = open_images(X, value_range=self.value_range, max_pixels=self.max_pixels)
        size = self.batch_size or own_batch_size(model, [spec])
        batches = source.batches(model.image_size, size, self.num_workers)
        found: list[Vectors] = []
        for batch in batches:
            found.append(self._vectors(model, spec, batch, first=sum(map(len, found))))
        return np.concatenate(found)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """The names of the D columns, "reverse/image/2_0" and so on."""
        model = self._model()
        spec = self._spec(model)
        return np.array([f"{spec}_{number}" for number in range(_width(model, spec))], object)

    def _model(self) -> Model:
        sequence.check_choice("on_error", self.on_error, ON_ERROR)
        check_numbers(self.num_workers, batch_size=self.batch_size)
        Reading(self.value_range, self.max_pixels)  # refuses wrong ones
        check_dtype(self.dtype)
        if isinstance(self.model, Model):
            loaded = self.model.to(self.device)
        else:
            loaded = _loaded(self.model, self.device, _state(self.model))  # type: ignore[arg-type]  # paths have hashes
        if getattr(self, "weights_", loaded.weights_hash) != loaded.weights_hash:
            raise ValueError(
                f"{loaded.name} has the weights {loaded.weights_hash} now, and had {self.weights_} when this "
                "transformer was fitted: fit it again, with what follows it"
            )
        return loaded

    def _spec(self, model: Model) -> FeatureSpec:
        """The feature that the settings name, if the model has it."""
        parts: dict[str, Any] = {name: getattr(self, name) for name in ("context", "read", "orders", "norm", "seed")}
        if self.spec is not None:
            if self.layer is not None or parts != _NO_PARTS:
                raise ValueError(f"spec={str(self.spec)!r} says it all: leave out layer and {', '.join(_NO_PARTS)}")
            given = FeatureSpec.parse(self.spec)
            return model_spec(model, **given.details())
        return model_spec(model, layer=self.layer, **parts)

    def _vectors(self, model: Model, spec: FeatureSpec, batch: ImageBatch, first: int) -> Vectors:
        """(b, D) of the batch that begins with image `first`; NaN for the images that cannot be read."""
        failed = [place for place, status in enumerate(batch.status) if status != OK]
        if failed and self.on_error == "raise":
            path, reason = batch.paths[failed[0]], batch.status[failed[0]]
            raise ImageError(
                f"image {first + failed[0]} ({path or 'no path'}): {reason}. on_error='nan' leaves NaN in the place of "
                "such images"
            )
        value_range = Reading(self.value_range).value_range  # a list has no hash
        about = (model.weights_hash, model.device, model.dtype, model.fitted(self.dtype)[1], spec, value_range)
        keys = [(*about, content) for content in batch.hashes]
        readable = [place for place in range(len(keys)) if place not in failed]
        known = {place: found for place in readable if (found := _recent.get(keys[place])) is not None}
        new = [place for place in readable if place not in known]
        if new:
            maps = encode(model, batch.pixels[new], [spec], dtype=self.dtype)[spec]
            for place, vector in zip(new, maps.mean(dim=(1, 2)).cpu().numpy(), strict=True):
                known[place] = _recent.put(keys[place], vector.copy())
        nothing = np.full(_width(model, spec), np.nan, np.float32)
        return np.stack([known.get(place, nothing) for place in range(len(keys))])

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        model = state["model"]
        return state | {"model": model.name if isinstance(model, Model) else model}

    def __sklearn_is_fitted__(self) -> bool:
        return True  # there is nothing to learn

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit, tags.no_validation = False, True
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags


_NO_PARTS = {"context": None, "read": "image", "orders": None, "norm": False, "seed": 0}


def _width(model: Model, spec: FeatureSpec) -> int:
    """D of a feature."""
    parts = spec.orders if spec.orders is not None and spec.combine == "concatenate" else 1
    return parts * model.transformer.config.dim


@lru_cache(MODELS_KEPT)
def _loaded(name: Any, device: str | None, state: Hashable) -> Model:
    """A model, once a process; `state` is that of its folder."""
    return load_model(name, device=device)


def _state(name: str | os.PathLike[str]) -> Hashable:
    """What changes when a training writes the folder of a model anew; () for the name of a model."""
    try:
        files = sorted(Path(name).glob("*.*"))
    except TypeError:
        return ()  # no name at all, which `load_model` refuses
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


class _Recent:
    """Vectors by key; those that were not used for longest go once they are more than `BYTES_KEPT`."""

    def __init__(self) -> None:
        self.vectors: OrderedDict[Hashable, Vectors] = OrderedDict()
        self.bytes = 0
        self.lock = Lock()

    def get(self, key: Hashable) -> Vectors | None:
        with self.lock:
            if key in self.vectors:
                self.vectors.move_to_end(key)
            return self.vectors.get(key)

    def put(self, key: Hashable, vector: Vectors) -> Vectors:
        with self.lock:
            if key not in self.vectors:
                self.bytes += vector.nbytes
            self.vectors[key] = vector
            while self.bytes > BYTES_KEPT:
                self.bytes -= self.vectors.popitem(last=False)[1].nbytes
        return vector


_recent = _Recent()
