"""Probes for frozen features of any encoder: numpy arrays or torch tensors in, numbers out."""

from probes.attentive import AttentiveProbe
from probes.correspondence import match_points, positional_basis, remove_basis, similarity_maps
from probes.dense_metrics import (
    class_ious,
    intersections_and_unions,
    mean_iou,
    miou_difference,
    pck,
    pck_table,
    segmentation_counts,
    segmentation_scores,
)
from probes.few_shots import few_shot
from probes.intervals import Difference, bootstrap_interval, bootstrap_of_sums, holm, paired_bootstrap, paired_interval
from probes.knn import KNNProbe
from probes.linear import JointLinearProbe, LinearProbe
from probes.logistic import LogisticProbe
from probes.metrics import (
    accuracy,
    average_precisions,
    confusion_matrix,
    first_ranks,
    mean_average_precision,
    mean_per_class_accuracy,
    mean_rank,
    neighbour_recall,
    recall_at_k,
    top_k_accuracy,
)
from probes.patch_segmentation import KNNSegmenter, LogisticSegmenter
from probes.pca import align_colours, pca_colours
from probes.retrieval import Neighbours, rank_all, search
from probes.segmentation import LinearSegmenter, segment
from probes.splits import stratified_holdout, stratified_rows
from probes.transforms import Standardizer, Whitener

__all__ = [
    "AttentiveProbe",
    "Difference",
    "JointLinearProbe",
    "KNNProbe",
    "KNNSegmenter",
    "LinearProbe",
    "LinearSegmenter",
    "LogisticProbe",
    "LogisticSegmenter",
    "Neighbours",
    "Standardizer",
    "Whitener",
    "accuracy",
    "align_colours",
    "average_precisions",
    "bootstrap_interval",
    "bootstrap_of_sums",
    "class_ious",
    "confusion_matrix",
    "few_shot",
    "first_ranks",
    "holm",
    "intersections_and_unions",
    "match_points",
    "mean_average_precision",
    "mean_iou",
    "mean_per_class_accuracy",
    "mean_rank",
    "miou_difference",
    "neighbour_recall",
    "paired_bootstrap",
    "paired_interval",
    "pca_colours",
    "pck",
    "pck_table",
    "positional_basis",
    "rank_all",
    "recall_at_k",
    "remove_basis",
    "search",
    "segment",
    "segmentation_counts",
    "segmentation_scores",
    "similarity_maps",
    "stratified_holdout",
    "stratified_rows",
    "top_k_accuracy",
]
