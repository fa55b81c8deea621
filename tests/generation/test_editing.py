from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from randar_features import Model, inpaint, outpaint
from randar_features.generation import editing, new_cache
from randar_features.generation.complete import ORDERS
from randar_features.generation.editing import fullest_window, window_starts


def images(count: int = 2, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def box(top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mask", [box(3, 6, 3, 6), box(0, 16, 0, 8), box(15, 16, 15, 16)])
def test_kept_pixels_are_equal_to_the_bit_and_the_others_are_new(small_model: Model, order: str, mask: Tensor):
    edited = inpaint(small_model, images(), mask, classes=[0, 2], order=order, generator=1)
    assert torch.equal(edited[:, :, ~mask], images()[:, :, ~mask])
    assert (edited[:, :, mask] != images()[:, :, mask]).all()
    assert edited.dtype == torch.float32 and edited.min() >= 0 and edited.max() <= 1


def test_pixels_are_kept_in_every_float_format(small_model: Model):
    given, mask = images().double(), box(0, 4, 0, 4)
    edited = inpaint(small_model, given, mask, generator=1)
    assert edited.dtype == torch.float64 and torch.equal(edited[:, :, ~mask], given[:, :, ~mask])


def record_generate(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    calls: list[dict] = []
    real = editing.generate

    def generate(transformer, classes, **settings) -> Tensor:
        calls.append({"classes": classes, **settings})
        return real(transformer, classes, **settings)

    monkeypatch.setattr(editing, "generate", generate)
    return calls


def test_a_token_is_redrawn_if_the_mask_touches_it(small_model: Model, monkeypatch: pytest.MonkeyPatch):
    calls = record_generate(monkeypatch)
    inpaint(small_model, images(), box(3, 5, 8, 9), generator=0)  # tokens are 4×4 pixels, rows 0 and 1, column 2
    (call,) = calls
    assert (~call["known"]).nonzero().tolist() == [[0, 2], [0, 6], [1, 2], [1, 6]]
    seen = editing.filled(images(), box(3, 5, 8, 9).expand(2, -1, -1))
    assert torch.equal(call["tokens"], small_model.tokenizer.encode(seen))


def test_what_lies_under_the_mask_changes_nothing(small_model: Model):
    mask = box(3, 5, 8, 9)
    black, white = (torch.where(mask, value, images()) for value in (0.0, 1.0))
    assert torch.equal(
        inpaint(small_model, black, mask, generator=0)[..., mask],
        inpaint(small_model, white, mask, generator=0)[..., mask],
    )


def test_pixels_under_the_mask_are_filled_from_the_nearest_kept():
    image = torch.tensor([[0.2, 0.4, 0.9, 0.9]]).expand(1, 3, 4, 4).clone()
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[..., 2:] = True
    expected = torch.tensor([0.2, 0.4, 0.4, 0.4]).expand(1, 3, 4, 4)
    torch.testing.assert_close(editing.filled(image, mask), expected)


def test_without_a_class_there_is_no_guidance(small_model: Model, monkeypatch: pytest.MonkeyPatch):
    calls = record_generate(monkeypatch)
    inpaint(small_model, images(), box(0, 4, 0, 4), generator=0)
    inpaint(small_model, images(), box(0, 4, 0, 4), classes=1, guidance=(1, 3), generator=0)
    assert [call["guidance"] for call in calls] == [1.0, (1, 3)]
    assert [call["classes"].tolist() for call in calls] == [[3, 3], [1, 1]]


def test_the_class_changes_what_is_drawn(small_model: Model):
    mask = box(0, 16, 0, 12)
    one, other = (inpaint(small_model, images(), mask, classes=c, generator=0, guidance=6.0) for c in (0, 2))
    assert not torch.equal(one, other)


def test_masks_of_their_own_give_what_each_gives_alone(small_model: Model):
    masks = torch.stack([box(0, 4, 0, 4), box(0, 16, 0, 8)])
    together = inpaint(small_model, images(), masks, classes=[0, 1], generator=3)
    generator = torch.Generator().manual_seed(3)
    for i, mask in enumerate(masks):
        alone = inpaint(small_model, images()[i : i + 1], mask, classes=[i], generator=generator)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


def test_masks_with_a_channel_or_for_all_images_and_of_numpy(small_model: Model):
    mask = box(2, 9, 3, 9)
    expected = inpaint(small_model, images(), mask, generator=1)
    for same in (mask[None], mask[None, None], mask.expand(2, 1, 16, 16), mask.numpy()):
        assert torch.equal(inpaint(small_model, images(), same, generator=1), expected)


def test_a_mask_that_touches_every_token_still_keeps_the_other_pixels(small_model: Model):
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[::4] = False
    edited = inpaint(small_model, images(), mask, generator=0)
    assert torch.equal(edited[:, :, ~mask], images()[:, :, ~mask])


@pytest.mark.parametrize(
    ("size", "padding"),
    [
        ((10, 12), (4, 3, 0, 3)),  # just the model's size
        ((16, 16), (5, 0, 0, 9)),
        ((16, 16), (20, 7, 20, 30)),
        ((3, 40), (0, 9, 0, 9)),
    ],
)
def test_outpainting_keeps_the_image_and_draws_everything_else(
    small_model: Model, size: tuple[int, int], padding: tuple[int, int, int, int]
):
    given = images(2, *size)
    left, top, right, bottom = padding
    drawn = outpaint(small_model, given, padding, classes=[0, 1], generator=2)
    assert drawn.shape == (2, 3, size[0] + top + bottom, size[1] + left + right)
    inside = torch.zeros(drawn.shape[-2:], dtype=torch.bool)
    inside[top : top + size[0], left : left + size[1]] = True
    assert torch.equal(drawn[:, :, inside], given.flatten(2))
    untouched = F.pad(given, (left, right, top, bottom), mode="replicate")
    assert (drawn != untouched).any(dim=1)[:, ~inside].all()


def test_outpainting_reproduces_whatever_the_batch(small_model: Model):
    whole = outpaint(small_model, images(), (8, 0, 8, 0), classes=[0, 1], generator=5)
    generator = torch.Generator().manual_seed(5)
    for i in range(2):
        alone = outpaint(small_model, images()[i : i + 1], (8, 0, 8, 0), classes=[i], generator=generator)
        torch.testing.assert_close(whole[i : i + 1], alone, atol=1e-5, rtol=0)


def test_windows_cover_the_canvas_and_the_fullest_comes_first():
    assert window_starts(16, 16) == [0]
    assert window_starts(40, 16) == [0, 8, 16, 24]
    assert window_starts(19, 16) == [0, 3]
    missing = torch.ones(16, 40, dtype=torch.bool)
    missing[:, 12:28] = False
    assert fullest_window(missing, 16) == (slice(0, 16), slice(8, 24))  # 4 columns missing, as at 16
    missing[:, 8:28] = False
    assert fullest_window(missing, 16) == (slice(0, 16), slice(16, 32))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(16, 16, dtype=torch.bool), "False everywhere"),
        (torch.ones(16, 16, dtype=torch.bool), "True everywhere.*use generate"),
        (torch.stack([box(0, 1, 0, 1), box(0, 0, 0, 0)]), "False everywhere"),
        (torch.ones(8, 16, dtype=torch.bool), r"shape \(16, 16\) or \(2, 16, 16\).* got \(8, 16\)"),
        (torch.ones(3, 16, 16, dtype=torch.bool), r"got \(3, 16, 16\)"),
        (torch.ones(16, 16), "must be boolean.*torch.float32"),
    ],
)
def test_bad_masks_are_refused(small_model: Model, mask: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        inpaint(small_model, images(), mask)


@pytest.mark.parametrize(
    ("given", "arguments", "message"),
    [
        (torch.rand(2, 1, 16, 16), {}, r"shape \(B, 3, H, W\); got \(2, 1, 16, 16\)"),
        (torch.rand(2, 3, 8, 16), {}, r"shape \(8, 16\) .* as the images"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), {}, "floats.*uint8"),
        (torch.full((2, 3, 16, 16), 2.0), {}, r"values in \[0, 1\]; got 2.0"),
        (torch.full((2, 3, 16, 16), torch.nan), {}, r"values in \[0, 1\]; got nan"),
        (images(), {"classes": [0, 1, 2]}, r"3 classes for 2 images"),
        (images(), {"classes": 4}, "classes must lie in 0 … 2"),
        (images(), {"steps": 0}, "steps must lie in 1 … 16"),
        (images(), {"order": "sideways"}, "order must be one of"),
    ],
)
def test_bad_input_is_refused(small_model: Model, given: Tensor, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        inpaint(small_model, given, box(0, 4, 0, 4), **arguments)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"order": "sideways"}, "order"),
        ({"order": [0, 1, 2]}, "order"),
        ({"schedule": "linear"}, "schedule"),
        ({"steps": 0}, "steps"),
        ({"steps": 17}, "steps"),
        ({"temperature": 0}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"guidance": (1, 2, 3), "classes": 1}, "guidance"),
        ({"generator": [1, 2, 3]}, "seeds"),
        ({"classes": [1, 2, 3]}, "classes"),
        ({"dtype": "int8"}, "dtype"),
        ({"cache": "cache"}, "cache"),
        ({"cache": False}, "cache"),
    ],
)
def test_settings_are_refused_before_images_are_tokenized(
    small_model: Model, settings: dict, named: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(small_model.tokenizer, "encode", lambda *given: pytest.fail("the images were tokenized"))
    with pytest.raises((TypeError, ValueError), match=named):
        inpaint(small_model, images(), box(0, 4, 0, 4), **settings)
    with pytest.raises((TypeError, ValueError), match=named):
        outpaint(small_model, images(), 4, **settings)


def test_a_cache_of_enough_sequences_serves_redrawing(small_model: Model, monkeypatch: pytest.MonkeyPatch):
    masks = torch.stack([box(0, 4, 0, 4), box(0, 16, 0, 8)])  # of other numbers of tokens: one image at a time
    for guidance, sequences in ((0, 1), (1.0, 1), (3.0, 2)):
        cache, settings = new_cache(small_model.transformer, sequences), {"guidance": guidance, "generator": 0}
        held = inpaint(small_model, images(), masks, classes=1, cache=cache, **settings)
        assert torch.equal(held, inpaint(small_model, images(), masks, classes=1, **settings))
    monkeypatch.setattr(small_model.tokenizer, "encode", lambda *given: pytest.fail("the images were tokenized"))
    with pytest.raises(ValueError, match="cache holds 2 sequences"):
        inpaint(small_model, images(), box(0, 4, 0, 4), classes=1, cache=cache)


@pytest.mark.parametrize("given", ["photo.png", Image.new("RGB", (16, 16)), np.zeros((1, 3, 16, 16), np.float32)])
def test_what_is_no_tensor_is_refused_with_the_way_to_one(small_model: Model, given: Any):
    name = type(given).__name__
    with pytest.raises(TypeError, match=rf"shape \(B, 3, H, W\) in \[0, 1\]; got {name}\. .*load_image\(path\)"):
        inpaint(small_model, given, box(0, 4, 0, 4))
    with pytest.raises(TypeError, match=rf"shape \(B, 3, H, W\) in \[0, 1\]; got {name}\. "):
        outpaint(small_model, given, 4)


@pytest.mark.parametrize("mask", ["mask.png", Image.new("L", (16, 16)), None])
def test_a_mask_that_is_no_tensor_is_refused(small_model: Model, mask: Any):
    with pytest.raises(TypeError, match=rf"boolean tensor \(H, W\).* got {type(mask).__name__}\. "):
        inpaint(small_model, torch.zeros(1, 3, 16, 16), mask)


def test_images_to_draw_on_at_may_have_any_size_but_not_any_shape(small_model: Model):
    with pytest.raises(ValueError, match=r"floats of shape \(B, 3, H, W\); got \(3, 16, 16\)"):
        outpaint(small_model, images()[0], 4)
    with pytest.raises(ValueError, match=r"floats of shape \(B, 3, H, W\); got \(\), "):
        outpaint(small_model, torch.tensor(0.5), 4)


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ((0, 0, 0, 0), "not all 0"),
        (None, "got None"),
        ((1.5, 0, 0, 8), r"four numbers of pixels.* got \(1.5, 0, 0, 8\)"),
        ((-1, 0, 0, 8), "none below 0"),
        (True, "got True"),
        (torch.tensor(8), r"got tensor\(8\)"),
        ((1, 2, 3), r"left, top, right, bottom"),
        ((1, 0, 0, 0), r"images of 12×12 pixels, padded by \(1, 0, 0, 0\), make 12×13.* at least 16×16"),
    ],
)
def test_bad_padding_is_refused(small_model: Model, padding: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        outpaint(small_model, images(1, 12, 12), padding)


def test_one_padding_for_all_sides(small_model: Model):
    expected = outpaint(small_model, images(), (3, 3, 3, 3), generator=0)
    assert torch.equal(outpaint(small_model, images(), 3, generator=0), expected)


def test_paddings_of_short_integers(small_model: Model, monkeypatch: pytest.MonkeyPatch):
    drawn = []

    def fake(model: Model, view: Tensor, mask: Tensor, *others: Any, **settings: Any) -> Tensor:
        drawn.append(int(mask.sum()))
        return view

    monkeypatch.setattr(editing, "inpaint", fake)
    given = images(1, 16, 100)  # 100 + 200 is more than 8 bits hold
    assert outpaint(small_model, given, np.array([200, 0, 0, 0], np.uint8), generator=0).shape == (1, 3, 16, 300)
    assert sum(drawn) == 16 * 200


def test_a_mask_that_hides_all_that_the_model_would_see_is_refused(small_model: Model):
    with pytest.raises(ValueError, match=r"all of the square around it.*one part after the other"):
        inpaint(small_model, images(1, 16, 32), torch.arange(32).expand(16, 32) < 16)


def test_the_tokens_next_to_an_edge_see_the_image_go_on(small_model: Model, monkeypatch: pytest.MonkeyPatch):
    calls = record_generate(monkeypatch)
    given = images(1)[..., :8]
    outpaint(small_model, given, (0, 0, 8, 0), generator=0)
    missing = box(0, 16, 8, 16)
    continued = editing.filled(F.pad(given, (0, 8)), missing[None])
    assert (continued[..., 8] - given[..., 7]).abs().mean() < 0.25  # grey would be as far off as any other picture
    assert torch.equal(calls[0]["tokens"], small_model.tokenizer.encode(continued))


def photograph(height: int = 43, width: int = 64) -> Tensor:
    return images(1, height, width)


def area(height: int, width: int, top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("place", [(5, 12, 3, 9), (30, 43, 55, 64), (0, 20, 10, 40), (20, 21, 20, 21)])
def test_a_photograph_keeps_its_size_and_its_other_pixels(small_model: Model, place: tuple[int, int, int, int]):
    given, mask = photograph(), area(43, 64, *place)
    edited = inpaint(small_model, given, mask, classes=1, generator=0)
    assert edited.shape == given.shape
    assert torch.equal(edited[:, :, ~mask], given[:, :, ~mask])
    assert (edited[:, :, mask] != given[:, :, mask]).float().mean() > 0.9


def test_a_window_of_the_models_size_is_drawn_as_an_image_of_that_size(small_model: Model):
    given, mask = photograph(), area(43, 64, 20, 24, 30, 36)
    (((top, left), side),) = editing.windows_around(mask[None], 16)
    assert (top, left, side) == (14, 25, 16)
    alone = inpaint(small_model, given[..., 14:30, 25:41], mask[14:30, 25:41], classes=1, generator=0)
    assert torch.equal(inpaint(small_model, given, mask, classes=1, generator=0)[..., 14:30, 25:41], alone)


def test_windows_stay_in_the_image_and_show_twice_the_mask():
    masks = torch.stack([area(40, 60, 0, 2, 58, 60), area(40, 60, 10, 22, 0, 14)])
    assert editing.windows_around(masks, 16) == [((0, 44), 16), ((2, 0), 28)]
    with pytest.raises(ValueError, match=r"reaches over 50 pixels, and the largest square in images of 60×40 has 40"):
        editing.windows_around(area(40, 60, 0, 2, 5, 55)[None], 16)


def test_what_is_redrawn_does_not_depend_on_the_other_masks(small_model: Model):
    given = torch.cat([photograph(), photograph()])
    masks = torch.stack([area(43, 64, 5, 12, 3, 9), area(43, 64, 0, 30, 20, 60)])
    together = inpaint(small_model, given, masks, classes=1, generator=[3, 4])
    alone = inpaint(small_model, given[:1], masks[:1], classes=1, generator=[3])
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_photograph_keeps_its_number_format(small_model: Model, dtype: torch.dtype):
    given, mask = photograph().to(dtype), area(43, 64, 0, 20, 10, 40)
    edited = inpaint(small_model, given, mask, generator=0)
    assert edited.dtype == dtype and torch.equal(edited[:, :, ~mask], given[:, :, ~mask])


def test_an_option_gives_the_middle_square(small_model: Model):
    given, mask = photograph(48, 64), area(48, 64, 10, 20, 20, 30)
    square = inpaint(small_model, given, mask, square=True, generator=0)
    assert square.shape == (1, 3, 16, 16)
    shown, hidden = editing.middle_square(given, mask[None], 16)
    assert hidden.nonzero().tolist() == [[0, row, column] for row in range(3, 7) for column in range(4, 8)]
    assert torch.equal(square[:, :, ~hidden[0]], shown[:, :, ~hidden[0]])


def test_a_mask_of_another_size_than_its_photograph_is_refused(small_model: Model):
    with pytest.raises(TypeError, match=r"a model is expected.*RandAR"):
        inpaint(small_model.transformer, photograph(), area(43, 64, 5, 12, 3, 9))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(43, 64\) .* as the images.* got \(16, 16\)"):
        inpaint(small_model, photograph(), box(0, 4, 0, 4))


@pytest.mark.parametrize("wrong", [float("nan"), "strong", True, (1, 2, 3)])
def test_a_wrong_guidance_is_refused_without_a_class_too(small_model: Model, wrong: Any):
    with pytest.raises((TypeError, ValueError), match="guidance"):
        inpaint(small_model, images(), box(0, 4, 0, 4), guidance=wrong)


def test_classes_that_can_be_read_once_serve_all_windows(small_model: Model):
    expected = outpaint(small_model, images(), 2, [0, 2], generator=1, steps=2)
    assert torch.equal(outpaint(small_model, images(), 2, iter([0, 2]), generator=1, steps=2), expected)


def test_square_is_true_or_false(small_model: Model):
    expected = inpaint(small_model, images(), box(0, 4, 0, 4), square=True, generator=1, steps=2)
    square: Any = np.bool_(True)
    assert torch.equal(inpaint(small_model, images(), box(0, 4, 0, 4), square=square, generator=1, steps=2), expected)
    for wrong in ("no", 1, torch.tensor([1, 0])):
        with pytest.raises(TypeError, match="square"):
            inpaint(small_model, images(), box(0, 4, 0, 4), square=wrong)  # type: ignore[arg-type]
