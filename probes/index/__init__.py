"""Indexes of feature vectors on faiss: bounded memory, a record of what the features are, ties by lowest id."""

from probes.index.blocks import Blocks, blocks_of, rebatched
from probes.index.build import build_index, check_continued, settings_there
from probes.index.files import IndexFilesError
from probes.index.memory import (
    IndexMemoryError,
    available_memory,
    in_words,
    predict_memory,
    process_memory,
    require_memory,
)
from probes.index.search import VectorIndex
from probes.index.settings import KINDS, IndexSettings, choose_settings
from probes.transforms import NORMALIZATIONS

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
    "check_continued",
    "choose_settings",
    "in_words",
    "predict_memory",
    "process_memory",
    "rebatched",
    "require_memory",
    "settings_there",
]
