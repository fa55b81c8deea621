"""The nearest-code search and the codebook."""

from __future__ import annotations

import pytest
import torch

from randar_features.tokenizers import Codebook, base, nearest_code


def brute_force(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    differences = vectors.double()[:, None] - codebook.double()[None]
    return differences.square().sum(dim=-1).argmin(dim=1)


@pytest.mark.parametrize("elements", [1, 1000, 1 << 24])
def test_nearest_code_is_brute_force_in_any_chunks(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = torch.randn(203, 7, generator=generator), torch.randn(150, 7, generator=generator)
    monkeypatch.setattr(base, "SEARCH_ELEMENTS", elements)
    assert torch.equal(nearest_code(vectors, codebook), brute_force(vectors, codebook))


def test_nearest_is_by_distance_not_by_inner_product() -> None:
    codebook = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    assert nearest_code(torch.tensor([[1.2, 0.1], [3.5, 0.0], [-1.0, -0.5]]), codebook).tolist() == [0, 1, 2]


def test_unit_length_compares_and_returns_directions() -> None:
    codebook = Codebook(vocab_size=3, code_dim=2, unit_length=True)
    with torch.no_grad():
        codebook.embedding.weight.copy_(torch.tensor([[0.1, 0.0], [0.0, 7.0], [-3.0, -4.0]]))
    latents = torch.tensor([[9.0, 8.0], [0.02, 0.03], [-0.1, -0.1]]).T.reshape(1, 2, 1, 3)
    tokens = codebook.nearest(latents)
    assert tokens.tolist() == [[0, 1, 2]]
    expected = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-0.6, -0.8]]])
    torch.testing.assert_close(codebook.lookup(tokens), expected)


def test_a_plain_codebook_returns_its_rows() -> None:
    codebook = Codebook(vocab_size=3, code_dim=2, unit_length=False)
    with torch.no_grad():
        codebook.embedding.weight.copy_(torch.tensor([[0.5, 0.0], [0.0, 7.0], [-3.0, -4.0]]))
    tokens = torch.tensor([[2, 0, 1]])
    assert torch.equal(codebook.lookup(tokens), codebook.embedding.weight[tokens])


def test_tokens_are_in_raster_order() -> None:
    codebook = Codebook(vocab_size=6, code_dim=6, unit_length=True)
    with torch.no_grad():
        codebook.embedding.weight.copy_(torch.eye(6))
    raster = torch.tensor([[3, 1, 4], [0, 5, 2]])
    latents = torch.eye(6)[raster].permute(2, 0, 1)[None]  # (1, C, 2, 3)
    assert codebook.nearest(latents).tolist() == [[3, 1, 4, 0, 5, 2]]
    _, quantized, tokens = codebook(latents)
    assert tokens.tolist() == [[3, 1, 4, 0, 5, 2]]
    torch.testing.assert_close(quantized, latents)
