import pytest
import torch
import torch.nn.functional as F

from san_cliptrase.losses import HungarianMatcher, MaskTarget
from san_cliptrase.losses.matcher import pairwise_bce, pairwise_dice
from san_cliptrase.losses.targets import UNNAMED
from tests.losses import scenes


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_finds_the_query_that_predicts_each_mask():
    target = scenes.target(2, 0, 3)
    ((queries, found),) = HungarianMatcher(num_points=64)(*scenes.perfect(target, [5, 1, 4]), [target])
    assert dict(zip(found.tolist(), queries.tolist(), strict=True)) == {0: 5, 1: 1, 2: 4}


@pytest.mark.parametrize("weight", ["class_weight", "mask_weight", "dice_weight"])
def test_each_cost_alone_finds_it(weight):
    target = scenes.target(2, 0, 3)
    weights = dict.fromkeys(["class_weight", "mask_weight", "dice_weight"], 0.0) | {weight: 1.0}
    ((queries, found),) = HungarianMatcher(**weights, num_points=64)(*scenes.perfect(target, [5, 1, 4]), [target])
    assert dict(zip(found.tolist(), queries.tolist(), strict=True)) == {0: 5, 1: 1, 2: 4}


def test_pair_costs_are_those_of_the_losses():
    logits, targets = torch.randn(3, 10), torch.rand(2, 10)
    for q in range(3):
        for n in range(2):
            bce = F.binary_cross_entropy_with_logits(logits[q], targets[n])
            p = logits[q].sigmoid()
            dice = 1 - (2 * (p * targets[n]).sum() + 1) / (p.sum() + targets[n].sum() + 1)
            torch.testing.assert_close(pairwise_bce(logits, targets)[q, n], bce)
            torch.testing.assert_close(pairwise_dice(logits, targets)[q, n], dice)


def test_image_without_masks_matches_nothing():
    target = scenes.target()
    ((queries, found),) = HungarianMatcher(num_points=8)(*scenes.perfect(target, []), [target])
    assert queries.dtype == found.dtype == torch.int64
    assert len(queries) == len(found) == 0


def test_more_masks_than_queries_uses_every_query_once():
    target = scenes.target(*[0, 1, 2, 3] * 2)
    logits, masks = torch.zeros(1, scenes.QUERIES, 5), torch.randn(1, scenes.QUERIES, 8, 8)
    ((queries, found),) = HungarianMatcher(num_points=8)(logits, masks, [target])
    assert sorted(queries.tolist()) == list(range(scenes.QUERIES))
    assert len(set(found.tolist())) == scenes.QUERIES


def test_unnamed_masks_get_the_best_of_the_queries_that_are_left():
    target = scenes.target(2, 0, 3)
    logits, masks = scenes.perfect(target, [5, 1, 4])
    masks[0, 2] = masks[0, 1]  # the mask of the second too, of no class
    unnamed = MaskTarget(torch.tensor([UNNAMED, 0, 3]), target.masks[[1, 1, 2]])
    ((queries, found),) = HungarianMatcher(num_points=64)(logits, masks, [unnamed])
    assert dict(zip(found.tolist(), queries.tolist(), strict=True)) == {0: 2, 1: 1, 2: 4}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_named(bad):
    target = scenes.target(0, 1)
    logits, masks = scenes.perfect(target, [0, 1])
    masks[0, 3, 2, 2] = bad
    with pytest.raises(FloatingPointError, match="image 0.*0 class logits and 1 mask logits.*diverged"):
        HungarianMatcher(num_points=4096)(logits, masks, [target])
