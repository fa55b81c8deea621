"""What the auxiliary losses compare, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from randar_features.sequence import random_orders, read_order, to_raster
from randar_features.store.writer import StoreWriter
from randar_features.training.auxiliary.heads import (
    Alignment,
    ClassHead,
    SelfDistillation,
    alignment_target,
    standardized,
)
from randar_features.training.auxiliary.showing import show
from randar_features.training.auxiliary.teacher_maps import TeacherMaps, write_teacher_maps
from tests.small_models import NUM_CLASSES, VOCAB_SIZE, small_transformer
from tests.training.auxiliary.small import checkered, small_images, small_teacher
from tests.training.small import random_tokens, write_store

GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.randint(VOCAB_SIZE, (2, 16), generator=GENERATOR)
ORDER = random_orders(2, 16, GENERATOR)
CLASSES = torch.tensor([1, NUM_CLASSES])


@pytest.mark.parametrize("context", ["single", "reverse", "repeat"])
@pytest.mark.parametrize("layers", [{0}, {1, 2}])
def test_one_pass_gives_the_logits_and_the_states_of_the_last_copy(context: str, layers: set[int]):
    model = small_transformer()
    shown = show(model, TOKENS, CLASSES, ORDER, context=context, reads=("image", "instruction"), layers=layers)
    assert shown.states is not None and shown.features.keys() == layers
    torch.testing.assert_close(model.logits(shown.states), model(TOKENS, CLASSES, ORDER), rtol=1e-4, atol=1e-5)
    whole = model.feature_pass(TOKENS, CLASSES, ORDER, context=context, reads=("image", "instruction"))
    x = whole.x
    for layer, block in enumerate(model.blocks):
        x = block(x, whole.rotary, whole.mask)
        for read in ("image", "instruction") if layer in layers else ():
            expected = to_raster(x[:, whole.positions[read]], read_order(ORDER, context))
            torch.testing.assert_close(shown.features[layer][read], expected, rtol=1e-4, atol=1e-5)


def test_targets_keep_a_share_of_the_mean_and_have_deviation_one():
    maps = torch.randn(2, 4, 4, 3, generator=GENERATOR) * 5 + 7
    for removed in (0.0, 0.25, 1.0):
        target = alignment_target(maps, 4, removed)
        deviation, mean = maps.std((1, 2), correction=0), maps.mean((1, 2))
        torch.testing.assert_close(target.std((2, 3), correction=0), torch.ones(2, 3), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(target.mean((2, 3)), (1 - removed) * mean / deviation, rtol=1e-3, atol=1e-3)
    assert alignment_target(maps, 8, 0.5).shape == (2, 3, 8, 8)


def test_alignment_is_zero_where_the_projection_points_at_the_target():
    alignment = Alignment(3, 3, 4, ("image",))
    projector = alignment.projectors["image"]
    torch.nn.init.dirac_(projector.weight)
    torch.nn.init.zeros_(projector.bias)
    features = torch.randn(2, 16, 3, generator=GENERATOR)
    target = features.transpose(1, 2).unflatten(2, (4, 4))
    assert alignment({"image": features}, 3 * target).item() == pytest.approx(0, abs=1e-6)
    assert alignment({"image": features}, -target).item() == pytest.approx(2, abs=1e-6)


def test_distillation_compares_with_standardized_features():
    teacher = torch.randn(3, 16, 4, generator=GENERATOR) * torch.tensor([1, 2, 3, 0]) + 100
    target = standardized(teacher)
    torch.testing.assert_close(target.mean((0, 1)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(target.std((0, 1), correction=0), torch.tensor([1.0, 1, 1, 0]), rtol=1e-4, atol=1e-4)
    loss = SelfDistillation(4, ("image",))
    loss.predictors["image"] = torch.nn.Identity()
    assert loss({"image": target}, {"image": teacher}).item() == pytest.approx(0, abs=1e-5)


def test_the_class_head_leaves_out_what_has_no_label():
    head = ClassHead(4, 3, ("image",))
    features = torch.randn(3, 16, 4, generator=GENERATOR)
    expected = -head.classifiers["image"](features.mean(1)).log_softmax(1)[[0, 2], [2, 1]].mean()
    assert head({"image": features}, torch.tensor([2, -1, 1])).item() == pytest.approx(expected.item())
    assert head({"image": features}, torch.full((3,), -1)).item() == 0


def test_maps_are_those_of_the_images_mirrored_with_their_view(tmp_path: Path):
    store = write_store(tmp_path / "train", random_tokens())
    teacher = small_teacher(tmp_path / "teacher", store)
    assert teacher.about["network"] == "colours" and teacher.about["shape"] == [20, 2, 2, 2]
    maps = teacher.batch(torch.tensor([3, 3]), torch.tensor([0, 1]))
    assert maps.dtype == torch.float16 and torch.equal(maps[1], maps[0].flip(1))
    colours = checkered(torch.stack([pixels for pixels, _ in small_images()])).flatten(0, 2)
    everything = teacher.batch(torch.arange(20), torch.zeros(20)).float().flatten(0, 2)
    centred = colours - colours.mean(0)
    kept = everything @ torch.linalg.lstsq(everything, centred).solution  # the plane of two components holds the most
    lost = (centred - kept).square().sum() / centred.square().sum()
    assert lost.item() == pytest.approx(1 - teacher.about["variance_kept"], abs=1e-3)
    assert everything.square().mean().item() == pytest.approx(1, rel=1e-2)


def test_a_killed_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("randar_features.training.auxiliary.teacher_maps.SHARD_BYTES", 8 * 16)  # eight images
    store, seen = write_store(tmp_path / "train", random_tokens()), []

    def network(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        if sum(seen) > 32:  # 20 for the components, 8 of the first shard, some of the second
            raise KeyboardInterrupt
        return checkered(pixels)

    options = {"image_size": 8, "channels": 2, "batch_size": 4}
    with pytest.raises(KeyboardInterrupt):
        write_teacher_maps(network, {}, small_images(), store, tmp_path / "teacher", **options)
    with pytest.raises(ValueError, match="lacks the rows 8 to 19"):
        TeacherMaps(tmp_path / "teacher", store)
    write_teacher_maps(checkered, {}, small_images(), store, tmp_path / "teacher", **options)
    expected = small_teacher(tmp_path / "other", store)
    everything = torch.arange(20), torch.zeros(20)
    assert torch.equal(TeacherMaps(tmp_path / "teacher", store).batch(*everything), expected.batch(*everything))


def test_maps_of_other_images_are_refused(tmp_path: Path):
    store = write_store(tmp_path / "train", random_tokens())
    small_teacher(tmp_path / "teacher", store)
    other = write_store(tmp_path / "other", random_tokens(seed=1))
    with pytest.raises(ValueError, match="other images"):
        TeacherMaps(tmp_path / "teacher", other)
    with pytest.raises(ValueError, match="19 readable"):
        write_teacher_maps(checkered, {}, small_images(19), store, tmp_path / "b", image_size=8)
    with pytest.raises(ValueError, match="labels"):
        write_teacher_maps(checkered, {}, small_images()[::-1], store, tmp_path / "c", image_size=8)
    shard = next((tmp_path / "teacher").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is torn"):
        TeacherMaps(tmp_path / "teacher", store)


def test_components_of_other_maps_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = write_store(tmp_path / "train", random_tokens())
    monkeypatch.setattr(StoreWriter, "fill", lambda *_: None)  # killed before the first map
    with pytest.raises(FileNotFoundError):
        small_teacher(tmp_path / "teacher", store)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"basis\.npz is of another network"):
        write_teacher_maps(
            checkered, {"network": "other"}, small_images(), store, tmp_path / "teacher", image_size=8, channels=2
        )
