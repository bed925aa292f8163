import pytest
import torch

from san_cliptrase.cliptrase import voting
from san_cliptrase.cliptrase.voting import (
    Background,
    decide_pixels,
    feature_surgery,
    majority_vote,
    merge_background,
    patch_logits,
    pixel_logits,
    resize_labels,
    vote_shares,
)


def test_patch_logits_and_cls_prior():
    tokens = torch.tensor([[[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]]])
    words = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(patch_logits(tokens, words), torch.tensor([[[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]]))
    prior = torch.tensor([0.6, 0.8, -0.6])
    torch.testing.assert_close(patch_logits(tokens, words, cls_prior=True), patch_logits(tokens, words) * prior)


def test_feature_surgery_takes_the_mean_over_classes_off_every_channel():
    generator = torch.Generator().manual_seed(0)
    tokens, words = (
        torch.nn.functional.normalize(torch.randn(*s, generator=generator), dim=-1) for s in ((2, 5, 6), (4, 6))
    )
    found = patch_logits(tokens, words, surgery=True)
    for image in range(2):
        p = torch.stack([(2 * tokens[image, 0] @ word).exp() for word in words])
        p = p / p.sum()
        w = p / (sum(p) / 4)
        for patch in range(4):
            features = [w[k] * tokens[image, 1 + patch] * words[k] for k in range(4)]
            redundant = sum(features) / 4
            expected = torch.stack([(feature - redundant).sum() for feature in features])
            torch.testing.assert_close(found[image, patch], expected)


def test_surgery_favours_what_the_whole_image_is_about():
    logits = torch.tensor([[[0.3, 0.31, 0.2]]])
    assert logits.argmax() == 1
    assert feature_surgery(logits, torch.tensor([[[0.5, 0.1, 0.1]]])).argmax() == 0
    # All classes alike in [CLS]: only a constant is taken off.
    torch.testing.assert_close(feature_surgery(logits, torch.ones(1, 1, 3)), logits - 0.27)


def test_pixels_take_the_upsampled_maximum_inside_the_image():
    logits = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    classes = decide_pixels(pixel_logits(logits, canvas=(4, 8), size=(4, 7)), (4, 7))
    # Bilinear between patch centres at 1.5 and 5.5: class 1 is ahead from a quarter of the way, 2.5.
    assert classes.tolist() == [[0, 0, 0, 1, 1, 1, 1]] * 4


def test_the_most_frequent_class_of_a_region_wins():
    classes = torch.tensor([[2, 2, 0], [1, 3, 3]])
    regions = torch.tensor([[0, 0, 0], [4, 4, 4]])
    assert majority_vote(classes, regions, 5).tolist() == [[2, 2, 2], [3, 3, 3]]


def test_the_lowest_class_wins_a_tie():
    classes = torch.tensor([[3, 1, 1, 3]])
    assert majority_vote(classes, torch.zeros(1, 4, dtype=torch.int64), 4).tolist() == [[1, 1, 1, 1]]


def test_background_words_are_one_class():
    assert merge_background(torch.tensor([0, 4, 5, 8]), 5).tolist() == [0, 4, 5, 5]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_deciding_a_few_classes_at_a_time_changes_nothing(monkeypatch, at_once):
    monkeypatch.setattr(voting, "CLASSES_AT_ONCE", at_once)
    scores = torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(scores[None], (9, 7), mode="bilinear")[0]
    assert torch.equal(decide_pixels(scores, (9, 7)), large.argmax(0))
    sure = (8 * large).softmax(0).amax(0) >= 0.5
    expected = torch.where(sure, large.argmax(0), 5)
    assert 0 < sure.sum() < sure.numel()
    assert torch.equal(decide_pixels(scores, (9, 7), Background(5, threshold=0.5, scale=8)), expected)


def test_scores_that_are_probabilities_are_compared_as_they_are():
    scores = torch.tensor([[[0.6, 0.2]], [[0.1, 0.4]]])
    assert decide_pixels(scores, (1, 2), Background(2, threshold=0.5)).tolist() == [[0, 2]]


def test_shares_of_a_vote_have_its_winner_and_add_up_to_one():
    classes = torch.tensor([[2, 2, 0], [1, 3, 3]])
    regions = torch.tensor([[0, 0, 0], [4, 4, 4]])
    shares = vote_shares(classes, regions, 5)
    assert torch.equal(shares.argmax(0), majority_vote(classes, regions, 5))
    torch.testing.assert_close(shares[:, 0, 2], torch.tensor([1, 0, 2, 0, 0]) / 3)
    torch.testing.assert_close(shares.sum(0), torch.ones(2, 3))
    assert torch.equal(vote_shares(classes, None, 4).argmax(0), classes)


def test_resized_labels_keep_classes_apart():
    labels = torch.tensor([[0, 7], [0, 7]])
    resized = resize_labels(labels, (4, 6))
    assert resized.tolist() == [[0, 0, 0, 7, 7, 7]] * 4
    assert resize_labels(labels, (2, 2)) is labels
