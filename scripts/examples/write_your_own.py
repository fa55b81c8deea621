# %% [markdown]
# # Your own encoder, probe and task, beside those of the suite
# An **encoder** is a function that gives a `torch.nn.Module`, the size of its images, and perhaps a transform of them.
# Its name is `module:function`. Here the module is this file; in earnest it is a file of yours on the Python path.

# %%
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin

from benchmarks import load_results, suite
from benchmarks.encoders import extract, load_encoder
from benchmarks.options import EncoderOptions
from benchmarks.result import AXES, Result, data_hash
from benchmarks.run import Measurement, Task
from probes import bootstrap_interval, stratified_holdout


def average_colours():
    """The mean colour in each field of 4x4: maps (B, 3, 4, 4) of images of 64x64 pixels in [0, 1]."""
    return torch.nn.AdaptiveAvgPool2d(4), 64


ENCODERS = ("__main__:average_colours", "pixels", "randar-tiny")

# %% [markdown]
# A **probe** is any classifier of scikit-learn: `fit` on vectors (n, D) and labels (n,), and `predict`.


# %%
class NearestMean(ClassifierMixin, BaseEstimator):
    """The class whose mean vector is nearest, by cosine."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == label].mean(axis=0) for label in self.classes_])
        self.means_ /= np.linalg.norm(self.means_, axis=1, keepdims=True)
        return self

    def predict(self, X):
        return self.classes_[(X @ self.means_.T).argmax(axis=1)]


# %% [markdown]
# A **task** is a dataclass of options and a function that measures. What all results share goes into their card; the
# runner adds machine, options, time and command.


# %%
@dataclass(frozen=True, kw_only=True)
class Config(EncoderOptions):
    """Accuracy of the nearest class mean on a fifth of the images.

    Attributes:
        data: labelled images, a folder with a folder for each class.
    """

    data: str


def measure(config, out):
    """One result for each feature of each encoder."""
    results, weights = [], {}
    for name in config.encoder:
        encoder = load_encoder(name, **config.loading)
        weights[name] = encoder.described_weights
        store = extract(encoder, config.data, **config.store)
        usable = np.flatnonzero(store.ok & (store.labels >= 0))
        labels = store.labels[usable]
        train, test = stratified_holdout(labels, 0.2, config.seed)
        for output in store.names:
            vectors = store.array(output, usable)
            predicted = NearestMean().fit(vectors[train], labels[train]).predict(vectors[test])
            right = (predicted == labels[test]).astype(float)
            axes = {"encoder": name, "output": output, "resolution": encoder.image_size, **encoder.axes(output)}
            results.append(Result(axes, {"accuracy": right.mean()}, interval=bootstrap_interval(right)))
    return Measurement(
        protocol="nearest class mean by cosine, trained on four fifths of the images",
        axes={axis: None for axis in AXES if axis not in axes} | {"pooling": "mean"},
        results=results,
        data={"evaluation": data_hash(config.data)},
        weights=weights,
        interval="percentile bootstrap over images",
    )


nearest_mean = Task("nearest_mean", Config, measure)

# %% [markdown]
# Run it, then the suite with the same encoders, into one folder: its page shows both.

# %%
OUT = Path("runs/own")
of_models = {"context": ("reverse",), "read": ("image",)}
nearest_mean(Config(data="photos", encoder=ENCODERS, **of_models), OUT / "nearest-mean")
settings = suite.Settings(data=("photos",), encoder=ENCODERS, probe=("knn",), single_layers=True, **of_models)
print(suite.run(settings, OUT))

# %%
table = load_results(OUT)
print(table[["task", "encoder", "output", "metric", "value", "low", "high"]].to_string())
