from __future__ import annotations

import pytest
import torch

from randar_features import Model
from randar_features.encoding import encode_reads
from randar_features.encoding.contexts import encode_contexts


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("layers", [[0], [2, 0], [0, 1, 2]])
@pytest.mark.parametrize("contexts", [["reverse"], ["repeat", "reverse"], ["reverse", "single", "repeat"]])
def test_a_shared_first_copy_changes_nothing(small_model: Model, contexts: list[str], layers: list[int], norm: bool):
    transformer, generator = small_model.transformer, torch.Generator().manual_seed(0)
    tokens = torch.randint(transformer.config.vocab_size, (3, 16), generator=generator)
    order = torch.rand(3, 16, generator=generator).argsort(dim=1)
    for one in (None, order[0], order):
        options = {"layers": layers, "reads": transformer.reads, "norm": norm}
        maps = encode_contexts(transformer, tokens, one, contexts=contexts, **options)
        assert list(maps) == [(context, read) for context in contexts for read in transformer.reads]
        for context in contexts:
            for read, expected in encode_reads(transformer, tokens, None, one, context=context, **options).items():
                torch.testing.assert_close(maps[context, read], expected, rtol=1e-5, atol=1e-5)
