import torch

from san_cliptrase.cliptrase.voting import (
    classify_pixels,
    majority_vote,
    merge_background,
    patch_logits,
    resize_labels,
)


def test_patch_logits_and_cls_prior():
    tokens = torch.tensor([[[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]]])
    words = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(patch_logits(tokens, words), torch.tensor([[[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]]))
    prior = torch.tensor([0.6, 0.8, -0.6])
    torch.testing.assert_close(patch_logits(tokens, words, cls_prior=True), patch_logits(tokens, words) * prior)


def test_pixels_take_the_upsampled_maximum_inside_the_image():
    logits = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    classes = classify_pixels(logits, canvas=(4, 8), size=(4, 7))
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


def test_resized_labels_keep_classes_apart():
    labels = torch.tensor([[0, 7], [0, 7]])
    resized = resize_labels(labels, (4, 6))
    assert resized.tolist() == [[0, 0, 0, 7, 7, 7]] * 4
    assert resize_labels(labels, (2, 2)) is labels
