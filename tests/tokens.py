"""Token stores of codes that are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from randar_features.data.token_store import SHARD_SIZE, TOKENS, TokenStore, fill_token_store
from randar_features.store.identity import hash_image
from randar_features.store.records import OK, Block, Record


class _Given:
    """Tokens in memory as a source."""

    streamed, root = False, None

    def __init__(self, tokens: np.ndarray, labels: Sequence[int], label_names: list[str] | None) -> None:
        self.tokens, self.length, self.label_names = tokens.astype(np.uint16), len(tokens), label_names
        pairs = zip(self.tokens, labels, strict=True)
        self._records = [Record(None, int(label), hash_image(image)) for image, label in pairs]

    def records(self) -> list[Record]:
        return self._records

    def read(self, runs: Iterator[Sequence[int]]) -> Iterator[Block]:
        for run in runs:
            numbers = list(run)
            records = [self._records[number] for number in numbers]
            yield Block({TOKENS: self.tokens[numbers]}, records, [OK] * len(numbers))


def write_tokens(
    folder: Path,
    tokens: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    label_names: list[str] | None = None,
    shard_size: int = SHARD_SIZE,
    **settings: Any,
) -> TokenStore:
    """A store of tokens (n, K, N) that are in memory; `settings` as for `fill_token_store`."""
    store = fill_token_store(_Given(tokens, list(labels), label_names), folder, settings, shard_size=shard_size)
    assert store is not None  # a single process without a deadline makes all
    return store
