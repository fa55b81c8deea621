"""Indexes of feature vectors on faiss: bounded memory, a record of what the features are, ties by lowest id."""

from ..transforms import NORMALIZATIONS
from .blocks import Blocks, blocks_of, rebatched
from .build import build_index
from .files import IndexFilesError
from .memory import IndexMemoryError, available_memory, in_words, predict_memory, process_memory, require_memory
from .search import VectorIndex
from .settings import KINDS, IndexSettings, choose_settings

__all__ = [
    "KINDS",
    "NORMALIZATIONS",
    "Blocks",
    "IndexFilesError",
    "IndexMemoryError",
    "IndexSettings",
    "VectorIndex",
    "available_memory",
    "blocks_of",
    "build_index",
    "choose_settings",
    "in_words",
    "predict_memory",
    "process_memory",
    "rebatched",
    "require_memory",
]
