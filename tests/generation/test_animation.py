from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from randar_features import Model, generate
from randar_features.data import to_image
from randar_features.generation.animation import check_ending, decoding_frames, reveal, save_animation
from randar_features.generation.complete import ORDERS


def test_tokens_appear_in_their_order():
    image = torch.ones(3, 4, 4)
    frames = reveal(image, torch.tensor([3, 0, 1, 2]), [1, 2, 1])
    patches = frames[:, 0, ::2, ::2].flatten(1)
    assert patches.tolist() == [[0.5, 0.5, 0.5, 1], [1, 1, 0.5, 1], [1, 1, 1, 1]]
    assert torch.equal(frames[:, :, 1::2, 1::2], frames[:, :, ::2, ::2])


@pytest.mark.parametrize("order", ORDERS)
def test_the_last_frame_is_the_generated_image(small_model: Model, order: str):
    frames = decoding_frames(small_model, 1, seed=4, order=order, steps=5)
    tokens = generate(small_model.transformer, 1, generator=torch.tensor([4]), order=order, steps=5)
    assert torch.equal(frames[-1:], small_model.tokenizer.decode(tokens))
    drawn = (frames != 0.5).any(dim=1).flatten(1).sum(dim=1) // 16
    assert drawn.tolist() == [1, 4, 7, 12, 16]


@pytest.mark.parametrize(("ending", "format"), [("gif", "GIF"), ("png", "PNG"), ("webp", "WEBP")])
def test_an_animation_holds_all_frames_and_rests_on_the_last(tmp_path: Path, ending: str, format: str):
    frames = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    path = tmp_path / f"one.{ending}"
    save_animation(path, [to_image(frame) for frame in frames], seconds_per_frame=0.1, last=1.0)
    with Image.open(path) as animation:
        assert (animation.format, animation.n_frames, animation.size) == (format, 4, (8, 8))
        animation.seek(3)
        animation.load()
        assert animation.info["duration"] == 1000


def test_another_ending_is_refused():
    with pytest.raises(ValueError, match=r"orders\.jpg names no animation: .*\.gif, \.png, \.webp"):
        check_ending(Path("orders.jpg"))
