import math

import pytest
import torch

from san_cliptrase.losses import HungarianMatcher, MaskTarget, SetCriterion, criterion
from san_cliptrase.losses.targets import UNNAMED, pseudo_targets
from tests.losses import scenes

POINTS = 256


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(**changes) -> SetCriterion:
    return SetCriterion(scenes.CLASSES, HungarianMatcher(num_points=POINTS), num_points=POINTS, **changes)


def random_prediction(batch=1):
    return torch.randn(batch, scenes.QUERIES, 5, requires_grad=True), torch.randn(
        batch, scenes.QUERIES, 8, 8, requires_grad=True
    )


def test_perfect_prediction_costs_nothing_and_a_wrong_one_does():
    target = scenes.target(2, 0)
    logits, masks = scenes.perfect(target, [3, 1])
    losses = build()([(logits, masks)], [target])
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}
    assert losses["loss_ce"] < 1e-6
    # Points between two pixels of a stripe's edge see both sides, and those points are drawn on purpose.
    worse = build()([(logits, torch.full_like(masks, -50))], [target])
    assert losses["loss_dice"] < 0.2 * worse["loss_dice"]
    assert losses["loss_mask"] < 0.2 * worse["loss_mask"]


def test_values_of_a_prediction_that_knows_nothing():
    target = scenes.target(1)
    losses = build()([(torch.zeros(1, scenes.QUERIES, 5), torch.zeros(1, scenes.QUERIES, 8, 8))], [target])
    # ce = log 5 whatever the weights; bce = log 2; dice = 1 - (2 P/2 + 1) / (P/2 + P + 1) for a mask of everything,
    # but that a point in the outer half of a border pixel reads part of the zeros outside.
    assert losses["loss_ce"].item() == pytest.approx(2 * math.log(5), rel=1e-5)
    assert losses["loss_mask"].item() == pytest.approx(5 * math.log(2), rel=1e-5)
    assert losses["loss_dice"].item() == pytest.approx(5 * (1 - (POINTS + 1) / (1.5 * POINTS + 1)), rel=0.05)


def test_no_object_counts_by_its_weight():
    target = scenes.target(1)
    logits, masks = scenes.perfect(target, [0])
    logits[0, 1] = torch.tensor([2.0, 0, 0, 0, 0])  # one of five unmatched queries is wrong
    wrong = -torch.log_softmax(logits[0, 1], -1)[-1]
    loss = build(class_weight=1.0, no_object_weight=0.1)([(logits, masks)], [target])["loss_ce"]
    torch.testing.assert_close(loss, 0.1 * wrong / (1 + 5 * 0.1))


def test_blocks_before_the_last_get_numbered_names():
    target = scenes.target(1, 2)
    good, bad = scenes.perfect(target, [0, 1]), random_prediction()
    losses = build()([bad, bad, good], [target])
    assert set(losses) == {f"loss_{part}{suffix}" for part in ("ce", "mask", "dice") for suffix in ("", "_0", "_1")}
    assert losses["loss_ce"] < losses["loss_ce_0"]


@pytest.mark.parametrize("targets", [[()], [(), (1, 3)]])
def test_images_without_masks_train_the_no_object_class_only(targets):
    targets = [scenes.target(*labels) for labels in targets]
    logits, masks = random_prediction(len(targets))
    sum(build()([(logits, masks)], targets).values()).backward()
    assert logits.grad[0].abs().sum() > 0
    assert masks.grad is not None, "every parameter takes part, or distributed training would hang"
    assert masks.grad[0].abs().sum() == 0
    assert masks.grad.isfinite().all()


def test_images_without_masks_cost_nothing_where_no_object_has_no_weight():
    empty = MaskTarget(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 32, 32))
    logits, masks = random_prediction()
    losses = build(no_object_weight=0.0)([(logits, masks)], [empty])
    assert losses["loss_ce"] == 0, "not 0 / 0"
    sum(losses.values()).backward()
    assert not logits.grad.any()


@pytest.mark.parametrize(("processes", "parts"), [(1, [[0, 1], [2, 3]]), (2, [[0, 2], [1, 3]]), (1, [[0], [1, 2, 3]])])
def test_a_batch_in_parts_gives_what_it_gives_as_a_whole(monkeypatch, processes, parts):
    targets = [scenes.target(*labels) for labels in ((1, 3), (), (2,), (0, 1, 2))]
    targets[3] = targets[3]._replace(labels=torch.tensor([0, UNNAMED, 2]))
    seeds = [11, 22, 33, 44]
    logits, masks = random_prediction(len(targets))
    whole = build(pseudo_weight=0.5)([(logits, masks)], targets, seeds=seeds)
    whole_gradient = torch.autograd.grad(sum(whole.values()), masks)[0]
    monkeypatch.setattr(criterion.comm, "get_world_size", lambda: processes)
    counts, sums, gradient = [2, 0, 1, 2], dict.fromkeys(whole, 0.0), 0
    torch.manual_seed(99)
    for part in parts:
        found = build(pseudo_weight=0.5)(
            [(logits[part], masks[part])], [targets[i] for i in part], counts, [seeds[i] for i in part]
        )
        sums = {name: sums[name] + loss.item() / processes for name, loss in found.items()}
        gradient = gradient + torch.autograd.grad(sum(found.values()), masks)[0] / processes
    assert sums == pytest.approx({name: loss.item() for name, loss in whole.items()}, rel=1e-5)
    torch.testing.assert_close(gradient, whole_gradient)


def test_a_query_of_an_unnamed_mask_learns_the_mask_and_no_class():
    target = scenes.target(1, 2)
    (logits, masks), named = random_prediction(), MaskTarget(target.labels[:1], target.masks[:1])
    unnamed = target._replace(labels=torch.tensor([1, UNNAMED]))
    gradients = {}
    for weight, given in ((0.0, named), (0.5, unnamed), (1.0, unnamed)):
        losses = build(pseudo_weight=weight)([(logits, masks)], [given], seeds=[7])
        gradients[weight] = torch.autograd.grad(sum(losses.values()), (logits, masks))
    without, half, full = ((of_classes[0], of_masks[0]) for of_classes, of_masks in gradients.values())
    (query,) = (half[1].flatten(1).any(1) & ~without[1].flatten(1).any(1)).nonzero()[0].tolist()
    assert without[0][query].any()
    assert not half[0][query].any()
    others = torch.arange(scenes.QUERIES) != query
    torch.testing.assert_close(half[0][others], without[0][others])
    torch.testing.assert_close(2 * half[1][query], full[1][query])


def test_half_precision_predictions_are_scored_in_float32():
    target = scenes.target(1, 2)
    logits, masks = random_prediction()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = build()([(logits.bfloat16(), masks.bfloat16())], [target])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())


def test_training_on_it_recovers_the_masks():
    target = scenes.target(3, 1)
    logits, masks = random_prediction()
    optimiser = torch.optim.Adam([logits, masks], lr=0.3)
    for _ in range(60):
        optimiser.zero_grad()
        sum(build()([(logits, masks)], [target]).values()).backward()
        optimiser.step()
    classes = logits.argmax(-1)[0]
    assert sorted(classes[classes != scenes.CLASSES].tolist()) == [1, 3]
    found = masks[0, (classes == 3).nonzero()[0, 0]] > 0
    assert torch.equal(found, target.masks[0, ::2, ::2])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([scenes.target(4)], r"target 0: labels \[4\] must lie in 0..3"),
        ([scenes.target(1), scenes.target(1)], "2 targets were given for predictions of 1 images"),
        ([MaskTarget(torch.zeros(2, dtype=torch.long), torch.zeros(1, 8, 8))], r"labels \(2,\) and masks \(1, 8, 8\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        build()([random_prediction()], targets)


def test_pseudo_targets_are_the_unlabelled_pixels_of_regions_that_mostly_have_no_label():
    unlabelled = torch.zeros(8, 8, dtype=torch.bool)
    unlabelled[:, 3:] = True
    regions = torch.zeros(4, 4, 4)  # a patch has 2 x 2 pixels
    regions[0, :, :2] = 1  # a quarter of it has no label
    regions[1, :2, 1:] = 1  # most
    regions[2, 2:, 3:] = 1  # all; and one that is absent
    labels, masks = pseudo_targets(regions, unlabelled)
    assert labels.tolist() == [UNNAMED, UNNAMED]
    assert masks[0].sum() == 4 * 5
    assert masks[0, :4, 3:].all()
    assert torch.equal(masks[1], torch.nn.functional.pad(torch.ones(4, 2, dtype=torch.bool), (6, 0, 4, 0)))


def test_masks_of_different_canvases_are_refused():
    targets = [scenes.target(1), MaskTarget(torch.tensor([1]), torch.zeros(1, 8, 8))]
    with pytest.raises(ValueError, match=r"share the padded canvas, got \[\(8, 8\), \(16, 16\)\]"):
        build()([random_prediction(2)], targets)


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="3 classes; 4 and the background"):
        build()([(torch.zeros(1, 6, 3), torch.zeros(1, 6, 8, 8))], [scenes.target(1)])
