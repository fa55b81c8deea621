"""Probes for frozen features of any encoder: numpy arrays or torch tensors in, numbers out."""

from .correspondence import match_points
from .knn import KNNProbe
from .linear import LinearProbe
from .logistic import LogisticProbe
from .metrics import (
    accuracy,
    bootstrap_interval,
    confusion_matrix,
    mean_average_precision,
    mean_per_class_accuracy,
    pck,
    recall_at_k,
    top_k_accuracy,
)
from .pca import pca_colours
from .retrieval import Neighbours, search
from .splits import stratified_holdout
from .standardizer import Standardizer

__all__ = [
    "KNNProbe",
    "LinearProbe",
    "LogisticProbe",
    "Neighbours",
    "Standardizer",
    "accuracy",
    "bootstrap_interval",
    "confusion_matrix",
    "match_points",
    "mean_average_precision",
    "mean_per_class_accuracy",
    "pca_colours",
    "pck",
    "recall_at_k",
    "search",
    "stratified_holdout",
    "top_k_accuracy",
]
