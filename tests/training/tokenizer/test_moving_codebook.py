from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from randar_features.training.tokenizer.moving_codebook import MovingCodebook

CODES = 12


def vectors(count: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def codebook(decay: float = 0.98, revive_below: float = 0.1) -> MovingCodebook:
    return MovingCodebook(vectors(CODES, seed=1), decay=decay, revive_below=revive_below, accelerator=Accelerator())


def as_latents(vectors: Tensor) -> Tensor:
    """Vectors (n, C) as latents (1, C, 1, n)."""
    return vectors.T[None, :, None]


def test_codes_follow_the_mean_of_what_they_win():
    book = codebook(decay=0.75, revive_below=0.0)
    book.counts.fill_(2.0)
    old, won = book.weight.clone(), vectors(3)
    book.move(as_latents(won), torch.tensor([[4, 1, 4]]), torch.Generator())
    expected = old.clone()
    expected[4] = F.normalize(0.75 * 2 * old[4] + 0.25 * (won[0] + won[2]), dim=0)
    expected[1] = F.normalize(0.75 * 2 * old[1] + 0.25 * won[1], dim=0)
    torch.testing.assert_close(book.weight, expected)
    counts = torch.full((CODES,), 1.5)
    counts[[1, 4]] = torch.tensor([1.75, 2.0])
    torch.testing.assert_close(book.counts, counts)


def test_unused_codes_move_onto_latents_and_the_rest_stay_of_unit_length():
    book = codebook()
    old, won = book.weight.clone(), vectors(3)
    book.move(as_latents(won), torch.zeros(1, 3, dtype=torch.long), torch.Generator().manual_seed(0))
    # Of the 11 codes that won nothing there are latents for 3; the others wait where they are.
    torch.testing.assert_close(book.weight[1:4].sort(dim=0).values, won.sort(dim=0).values)
    assert torch.equal(book.weight[4:], old[4:])
    torch.testing.assert_close(book.weight.norm(dim=1), torch.ones(CODES))
    torch.testing.assert_close(book.weight[0], F.normalize(won.sum(0), dim=0))


def test_usage_by_hand():
    book = codebook(revive_below=0.5)
    book.counts[:4] = torch.tensor([6.0, 3.0, 2.5, 0.5])  # the mean is 1, so half of it counts
    entropy = -sum(share * math.log(share) for share in (6 / 12, 3 / 12, 2.5 / 12, 0.5 / 12))
    assert book.usage() == pytest.approx({"codebook_usage": 4 / 12, "codebook_perplexity": math.exp(entropy)}, rel=1e-5)
    assert codebook().usage() == {"codebook_usage": 0.0, "codebook_perplexity": 1.0}
