"""First weights of a deeper transformer: what they keep of the trained one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from randar_features import load_model
from scripts.grow_transformer import GrowOptions, cells_in_common, grow, rotated, translated
from tests.small_models import write_folder


@pytest.fixture
def grown(tmp_path: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    folder = write_folder(tmp_path / "model")
    grow(GrowOptions(tokenizer=folder, model=str(folder), out=tmp_path / "grown", blocks=(0, 0, 1)))
    return load_model(folder, "cpu").transformer.state_dict(), load_file(tmp_path / "grown/model.safetensors")


def test_a_repeated_block_is_damped_where_it_adds(
    grown: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]],
) -> None:
    trained, state = grown
    for name in ("attention.wqkv.weight", "feed_forward.w1.weight", "ffn_norm.weight"):
        assert torch.equal(state[f"layers.1.{name}"], trained[f"layers.0.{name}"])
        assert torch.equal(state[f"layers.2.{name}"], trained[f"layers.1.{name}"])
    for name in ("attention.wo.weight", "feed_forward.w2.weight"):
        assert torch.equal(state[f"layers.0.{name}"], trained[f"layers.0.{name}"])
        torch.testing.assert_close(state[f"layers.1.{name}"], trained[f"layers.0.{name}"] * 0.1)
    assert torch.equal(state["pos_instruct_embeddings"], trained["pos_instruct_embeddings"])


def test_codes_that_are_alike_begin_alike() -> None:
    codes = torch.nn.functional.normalize(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    found = rotated(codes, 16, torch.tensor(0.5), torch.Generator().manual_seed(1))
    centred = codes - codes.mean(0)
    torch.testing.assert_close(found.std(), torch.tensor(0.5))
    scale = found.norm() / centred.norm()
    torch.testing.assert_close(found @ found.T, scale**2 * centred @ centred.T, atol=1e-3, rtol=1e-3)


def test_a_new_code_begins_as_the_trained_codes_of_its_cells() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])
    found = translated(rows, torch.tensor([[0, 5, 0], [3, 0, 1], [0, 0, 8], [0, 0, 0]]))
    means = torch.tensor([[-1.0, 0.0], [0.75, 0.5], [0.0, 2.0], [-2 / 17, 18 / 17]])
    expected = means.mean(0) + (means - means.mean(0)) * rows.std() / means.std()
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


def test_a_tokenizer_finds_its_own_codes_in_every_cell(tmp_path: Path) -> None:
    model = load_model(write_folder(tmp_path / "model"), "cpu")
    (tmp_path / "images").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (model.image_size, model.image_size, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "images/one.png")
    options = GrowOptions(
        tokenizer=tmp_path / "model", out=tmp_path / "grown", data=str(tmp_path / "images"), split=None
    )
    together = cells_in_common(options, model.tokenizer, model)
    tokens = model.tokenizer.encode(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    assert torch.equal(together, torch.bincount(tokens[0], minlength=model.tokenizer.vocab_size).diag())


def test_a_block_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    with pytest.raises(ValueError, match="9"):
        grow(GrowOptions(tokenizer=folder, model=str(folder), out=tmp_path / "grown", blocks=(0, 9)))
