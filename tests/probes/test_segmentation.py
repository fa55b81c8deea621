from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.nn import functional as F

from probes import KNNSegmenter, LinearSegmenter, LogisticSegmenter, mean_iou
from probes.classifier import warm_up_cosine
from probes.patch_segmentation import gather_patches, nearest_by_distance, patch_labels
from probes.segmentation import count_scores, resize_mask, segment, upsample

SEGMENTERS: dict[str, Callable[..., Any]] = {
    "linear": lambda **options: LinearSegmenter(3, learning_rates=(1e-3, 1e-1), iterations=30, batch_size=4, **options),
    "knn": lambda **options: KNNSegmenter(3, k_grid=(1, 3), **options),
    "logistic": lambda **options: LogisticSegmenter(3, C_grid=(1e-3, 1e-2), **options),
}


@pytest.fixture(params=SEGMENTERS, scope="module")
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return SEGMENTERS[request.param]


@pytest.fixture(scope="module")
def fitted(make: Callable[..., Any]) -> Any:
    return make(seed=0).fit(*scenes())


def scenes(
    count: int = 12, grid: tuple[int, int] = (4, 5), patch: int = 6, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Maps (h, w, 8) whose tokens tell the class of their patch, and masks `patch` times as large."""
    generator = np.random.default_rng(seed)
    centres = 3 * np.eye(3, 8)
    labels = generator.integers(0, 3, (count, *grid))
    maps = centres[labels] + 0.3 * generator.standard_normal((count, *grid, 8)) + 5
    masks = labels.repeat(patch, 1).repeat(patch, 2)
    return list(maps.astype(np.float32)), list(masks)


def miou(segmenter: Any, maps: list[np.ndarray], masks: list[np.ndarray], ignore_index: int = 255) -> float:
    scores = [segmenter.scores(features) for features in maps]
    return mean_iou(count_scores(scores, masks, segmenter.num_classes, ignore_index).sum(0))


# What every segmenter promises


def test_classes_that_tokens_tell_are_found(fitted: Any) -> None:
    new = scenes(seed=1)
    scores = fitted.scores(new[0][0])
    assert scores.shape == (4, 5, 3)
    np.testing.assert_array_equal(scores.argmax(2).numpy(), new[1][0][3::6, 3::6])
    assert miou(fitted, *new) > 0.75  # interpolation cuts corners
    assert fitted.validation_miou > 0.7


def test_ignored_pixels_have_no_influence(make: Callable[..., Any]) -> None:
    """Half of each image is ignored; its tokens are those of class 0."""
    maps, masks = scenes()
    for features, mask in zip(maps, masks, strict=True):
        features[:2] = 5 + 3 * np.eye(1, 8)
        mask[:12] = 9
    plain = make(ignore_index=9, seed=3).fit(maps, masks)
    found = plain.scores(maps[0])[2:].argmax(2).numpy()
    np.testing.assert_array_equal(found, masks[0][15::6, 3::6])
    assert miou(plain, maps, masks, ignore_index=9) > 0.75


def test_the_same_seed_gives_the_same_scores(make: Callable[..., Any], fitted: Any) -> None:
    maps, masks = scenes()
    again = make(seed=0).fit(maps, masks)
    torch.testing.assert_close(again.scores(maps[0]), fitted.scores(maps[0]), atol=0, rtol=0)


def test_maps_may_be_torch_or_half_and_stay_as_they_were(make: Callable[..., Any]) -> None:
    maps, masks = scenes()
    before = [features.copy() for features in maps]
    for same in ([torch.from_numpy(features) for features in maps], [features.astype(np.float16) for features in maps]):
        segmenter = make().fit(same, masks)
        np.testing.assert_array_equal(segmenter.scores(same[0]).argmax(2).numpy(), masks[0][3::6, 3::6])
    for features, old in zip(maps, before, strict=True):
        np.testing.assert_array_equal(features, old)


def test_images_may_have_different_sizes(make: Callable[..., Any]) -> None:
    maps, masks = (one + other for one, other in zip(scenes(8), scenes(8, grid=(7, 3), patch=4, seed=1), strict=True))
    assert miou(make().fit(maps, masks), maps, masks) > 0.7


def test_bad_input_is_refused(make: Callable[..., Any], fitted: Any) -> None:
    maps, masks = scenes()
    with pytest.raises(ValueError, match=r"mask 1 holds \[7\]: expected classes 0 … 2, or 255"):
        make().fit(maps, [masks[0], np.full_like(masks[1], 7), *masks[2:]])
    with pytest.raises(ValueError, match=r"as many maps as masks.*12 and 11"):
        make().fit(maps, masks[1:])
    with pytest.raises(ValueError, match=r"mask 0 must be integers \(H, W\), got float32 \(24, 30\)"):
        make().fit(maps, [mask.astype(np.float32) for mask in masks])
    with pytest.raises(ValueError, match="maps must share D, got 8 and, in map 1, 7"):
        make().fit([maps[0], maps[1][..., :7], *maps[2:]], masks)
    with pytest.raises(ValueError, match=r"map 2: row 3 of 4 holds NaN"):
        broken = [features.copy() for features in maps]
        broken[2][3, 1, 5] = np.nan
        make().fit(broken, masks)
    with pytest.raises(ValueError, match="10% of 3 images leave none to choose options on"):
        make().fit(maps[:3], masks[:3])
    with pytest.raises(RuntimeError, match=r"call fit\(maps, masks\)"):
        make().scores(maps[0])
    with pytest.raises(ValueError, match=r"shape \(h, w, 8\) as in fit, got \(4, 5, 7\)"):
        fitted.scores(maps[0][..., :7])


# Sizes


def test_up_sampling_is_bilinear_by_hand() -> None:
    scores = torch.tensor([[[0.0, 1.0], [4.0, 1.0]]])  # one row of two tokens, two classes
    torch.testing.assert_close(upsample(scores, (1, 4))[0], torch.tensor([[0.0, 1.0, 3.0, 4.0]]))
    assert segment(scores, (2, 4)).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]  # equal scores: the lowest class


def test_masks_are_resized_by_the_nearest_pixel() -> None:
    mask = np.arange(12).reshape(2, 6)
    assert resize_mask(mask, (2, 3)).tolist() == [[1, 3, 5], [7, 9, 11]]
    assert resize_mask(mask, (1, 2)).tolist() == [[7, 10]]
    np.testing.assert_array_equal(resize_mask(mask, (4, 12)), mask.repeat(2, 0).repeat(2, 1))
    expected = F.interpolate(torch.arange(35.0).view(1, 1, 5, 7), size=(8, 3), mode="nearest-exact")[0, 0]
    np.testing.assert_array_equal(resize_mask(np.arange(35).reshape(5, 7), (8, 3)), expected.long().numpy())


def test_the_size_at_which_masks_are_scored_changes_the_score() -> None:
    """A thin line that one token sees: lost at the size of the tokens, an error at the mask's own size."""
    scores = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    mask = np.zeros((8, 8), int)
    mask[4:, 4:] = 1
    mask[0] = 1
    native = mean_iou(count_scores([scores], [mask], 2, 255).sum(0))
    small = mean_iou(count_scores([scores], [resize_mask(mask, (2, 2))], 2, 255).sum(0))
    assert small == 1
    assert segment(scores, (8, 8)).tolist() == [[0] * 8] * 4 + [[0] * 5 + [1] * 3] + [[0] * 4 + [1] * 4] * 3
    assert native == pytest.approx((15 / 24 + 40 / 49) / 2)


# The linear head


def slow_linear(maps: list[np.ndarray], masks: list[np.ndarray], rate: float, iterations: int, ignore: int) -> Any:
    """The published head in torch's own modules, with all logits up-sampled: seven images in batches of 3."""
    generator = torch.Generator().manual_seed(5)
    width = maps[0].shape[2]
    head = nn.Sequential(nn.BatchNorm2d(width, affine=False), nn.Conv2d(width, 3, 1))
    with torch.no_grad():
        head[1].weight[..., 0, 0] = torch.empty(3, width).normal_(0, 0.01, generator=generator)
        head[1].bias.zero_()
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=1e-3)
    inputs, targets = torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks))
    order: list[int] = []
    for step in range(iterations):
        if len(order) < 3:
            order = torch.randperm(len(maps), generator=generator).tolist()
        rows, order = order[:3], order[3:]
        for group in optimizer.param_groups:
            group["lr"] = rate * warm_up_cosine(step, iterations, iterations // 25)
        logits = F.interpolate(head(inputs[rows]), size=targets.shape[1:], mode="bilinear")
        loss = F.cross_entropy(logits, targets[rows], ignore_index=ignore)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


def test_the_linear_head_equals_the_slow_one() -> None:
    maps, masks = scenes(8)
    masks = [np.where(np.random.default_rng(i).random(mask.shape) < 0.3, 9, mask) for i, mask in enumerate(masks)]
    options = {"ignore_index": 9, "pixels": None, "iterations": 30, "batch_size": 3, "seed": 5}
    fast = LinearSegmenter(3, learning_rates=(1e-2, 5e-2), **options).fit(maps, masks)
    held = np.random.default_rng(5).permutation(8)[0]
    kept = [i for i in range(8) if i != held]
    slow = slow_linear([maps[i] for i in kept], [masks[i] for i in kept], fast.learning_rate, 30, 9)
    with torch.no_grad():
        expected = slow(torch.from_numpy(maps[0]).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    torch.testing.assert_close(fast.scores(maps[0]), expected, atol=1e-5, rtol=1e-4)
    alone = LinearSegmenter(3, learning_rates=(fast.learning_rate,), **options).fit(maps, masks)
    torch.testing.assert_close(fast.scores(maps[0]), alone.scores(maps[0]))


def test_the_loss_of_random_pixels_is_that_of_all_in_the_mean() -> None:
    maps, masks = scenes(4)
    few, all_of_them = (LinearSegmenter(3, learning_rates=(1e-2,), iterations=20, pixels=n) for n in (50, None))
    generator = torch.Generator().manual_seed(0)
    heads = few._train(maps, masks, np.arange(4), [1e-2]).eval()
    with torch.no_grad():
        draws = [few._loss(heads, [(maps[0], *few._draw(masks[0], generator))]) for _ in range(200)]
        expected = all_of_them._loss(heads, [(maps[0], *all_of_them._draw(masks[0], generator))])
    assert float(torch.stack(draws).mean()) == pytest.approx(float(expected), rel=0.05)


def test_the_learning_rate_of_the_best_validation_miou_is_kept() -> None:
    maps, masks = scenes()
    segmenter = LinearSegmenter(3, learning_rates=(1e-9, 3e-2), iterations=60).fit(maps, masks)
    assert segmenter.learning_rate == 3e-2
    assert segmenter.validation_mious[3e-2] == segmenter.validation_miou > segmenter.validation_mious[1e-9]


# Patches


def test_a_patch_has_the_label_of_most_of_its_pixels_by_hand() -> None:
    mask = np.array([[0, 0, 1, 2], [0, 1, 2, 1], [9, 9, 1, 9], [9, 1, 9, 1]])
    # cells: three of 0; two each of 1 and 2, the lower; three ignored; two of 1 and two ignored, the class
    assert patch_labels(mask, (2, 2), 3, ignore_index=9).tolist() == [[0, 1], [9, 1]]


def test_pixels_belong_to_the_cell_with_their_middle() -> None:
    mask = np.array([[0, 0, 1, 1, 1]])  # cells end at 2.5: the middle of pixel 2 is the border, and goes right
    assert patch_labels(mask, (1, 2), 2).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match=r"mask of \(1, 5\) must have .* the grid \(2, 2\)"):
        patch_labels(mask, (2, 2), 2)


def test_ignored_patches_stay_ignored_where_the_masks_format_ends_below_the_classes() -> None:
    mask = np.array([[255, 7], [255, 7]], np.uint8)
    assert patch_labels(mask, (1, 2), 300).tolist() == [[255, 7]]


def test_patches_are_gathered_in_order_and_drawn_by_seed() -> None:
    maps, masks = scenes(3)
    masks[1][:6, :12] = 255
    whole = gather_patches(maps, masks, num_classes=3)
    assert whole.rows.shape == (58, 8)
    np.testing.assert_array_equal(whole.rows[20], maps[1][0, 2])
    assert whole.labels[20] == masks[1][0, 12]
    last = gather_patches(maps, masks, num_classes=3, images=[2])
    torch.testing.assert_close(last.rows, whole.rows[38:], atol=0, rtol=0)
    some = gather_patches(maps, masks, num_classes=3, most=10, seed=4)
    again = gather_patches(maps, masks, num_classes=3, most=10, seed=4)
    torch.testing.assert_close(some.rows, again.rows, atol=0, rtol=0)
    rows = {tuple(row): label for row, label in zip(whole.rows.tolist(), whole.labels, strict=True)}
    assert [rows[tuple(row)] for row in some.rows.tolist()] == some.labels.tolist()
    assert len(some.labels) == 10


def test_images_to_fit_or_choose_on_without_labelled_pixels_are_refused(make: Callable[..., Any]) -> None:
    """One image of ten has labels: either the images to fit or those to choose on have none."""
    maps, masks = scenes(10)
    for mask in masks[1:]:
        mask[:] = 255
    with pytest.raises(ValueError, match="only ignored pixels"):
        make().fit(maps, masks)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
def test_nearest_by_distance_are_exact_in_tight_clusters(spread: float) -> None:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((5, 24)) * generator.uniform(0.2, 5, (5, 1))
    gallery, queries = (
        (centres[generator.integers(0, 5, n)] + spread * generator.standard_normal((n, 24))) for n in (300, 30)
    )
    gallery[7] *= 1e5
    found = nearest_by_distance(torch.from_numpy(queries), torch.from_numpy(gallery), 10)
    expected = NearestNeighbors(n_neighbors=10, algorithm="kd_tree").fit(gallery).kneighbors(queries)[1]
    np.testing.assert_array_equal(found.numpy(), expected)


def test_equal_distances_go_to_the_lowest_row() -> None:
    gallery = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0], [1.0, 1.0], [5.0, 5.0]], dtype=torch.float64)
    found = nearest_by_distance(torch.tensor([[1.0, 1.0]], dtype=torch.float64), gallery, 4)
    assert found.tolist() == [[1, 3, 0, 2]]


def test_nearest_patches_vote_by_hand() -> None:
    """Tokens on a line, so that cosine and distance disagree: 1 is near 0.9 in distance, all have one direction."""
    maps = [np.array([[[1.0, 0.1], [9.0, 0.1]]], np.float32)] * 9 + [np.array([[[1.0, 0.0], [9.0, 0.9]]], np.float32)]
    masks = [np.array([[0, 0, 1, 1]])] * 10
    segmenter = KNNSegmenter(2, k_grid=(1,), distances=("euclidean",)).fit(maps, masks)
    assert segmenter.scores(np.array([[[1.1, 0.2], [7.0, 0.0]]], np.float32)).tolist() == [[[1, 0], [0, 1]]]
    three = KNNSegmenter(2, k_grid=(15,), distances=("euclidean",)).fit(maps, masks)
    votes = three.scores(np.array([[[1.1, 0.2]]], np.float32))
    torch.testing.assert_close(votes, torch.tensor([[[10 / 15, 5 / 15]]]))


def test_k_and_distance_are_those_of_the_best_validation_miou() -> None:
    """Classes by length alone: a cosine cannot tell them apart."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (10, 3, 3))
    angles = generator.uniform(0, 0.2, labels.shape)
    maps = list(((1 + labels[..., None]) * np.stack([np.cos(angles), np.sin(angles)], -1)).astype(np.float32))
    masks = list(labels.repeat(4, 1).repeat(4, 2))
    segmenter = KNNSegmenter(2, k_grid=(1, 3)).fit(maps, masks)
    assert segmenter.distance == "euclidean" and segmenter.k == 1
    assert len(segmenter.validation_mious) == 4
    with pytest.raises(ValueError, match="k = 30 needs as many training patches, got 27"):
        KNNSegmenter(2, k_grid=(30,), validation_fraction=0.7).fit(maps, masks)


def test_of_patches_at_one_distance_the_first_is_nearest() -> None:
    """Small whole numbers, whose distances are exact; each patch is a class of its own, which names it."""
    generator = np.random.default_rng(0)
    maps = list(generator.integers(-2, 3, (10, 4, 4, 5)).astype(np.float32))
    masks = list(np.arange(160).reshape(10, 4, 4))
    segmenter = KNNSegmenter(160, k_grid=(1,), distances=("euclidean",), ignore_index=-1).fit(maps, masks)
    query = generator.integers(-2, 3, (6, 6, 5)).astype(np.float32)
    squares = np.square(np.stack(maps).reshape(-1, 5) - query[:, :, None]).sum(-1)
    np.testing.assert_array_equal(segmenter.scores(query).argmax(2), squares.argmin(2))


def test_options_that_cannot_be_are_refused_before_any_fit() -> None:
    for make, named in (
        (lambda: KNNSegmenter(2, k_grid=(1, 2.5)), "2.5"),
        (lambda: KNNSegmenter(2, distances=("manhattan",)), "manhattan"),
        (lambda: LogisticSegmenter(2, C_grid=()), "C_grid"),
        (lambda: LinearSegmenter(2.5), "num_classes"),
        (lambda: LinearSegmenter(2, pixels=0), "pixels"),
        (lambda: LinearSegmenter(2, device="nowhere"), "nowhere"),
    ):
        with pytest.raises((TypeError, ValueError, RuntimeError), match=named):
            make()


def test_classes_without_patches_can_be_scored_but_do_not_win() -> None:
    maps, masks = scenes()
    segmenter = LogisticSegmenter(5, C_grid=(1.0,)).fit(maps, masks)
    scores = segmenter.scores(maps[0])
    assert scores.shape == (4, 5, 5) and scores.isfinite().all()
    assert scores.argmax(2).max() <= 2
    assert segmenter.converged == {1.0: True}
