"""Retrieval: an index of images or of a table of features on disk, and searching it with images or vectors."""

from randar_features.retrieval.build import build_index
from randar_features.retrieval.search import Hits, Index, open_index

__all__ = ["Hits", "Index", "build_index", "open_index"]
