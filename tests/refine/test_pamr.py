"""Pixel-adaptive refinement against its equations, written out pixel by pixel, and in strips."""

import math

import pytest
import torch

from san_cliptrase.refine.pamr import affinities, pamr, pamr_half


def given(classes, height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(classes, height, width, generator=generator), torch.rand(3, height, width, generator=generator)


def naive_affinities(image, y, x):
    """Of one pixel: neighbours' places, and how much they count."""
    _, height, width = image.shape
    places, points = [], []
    for dilation in (8, 16):
        for row in (-1, 0, 1):
            for column in (-1, 0, 1):
                place = (min(max(y + dilation * row, 0), height - 1), min(max(x + dilation * column, 0), width - 1))
                points.append(place)
                if (row, column) != (0, 0):
                    places.append(place)
    logits = []
    for place in places:
        total = 0.0
        for channel in image.double():
            values = [channel[point].item() for point in points]
            mean = sum(values) / 18
            sigma = math.sqrt(sum((value - mean) ** 2 for value in values) / 17)
            total -= abs(channel[y, x].item() - channel[place].item()) / (0.1 * sigma + 1e-8) / 3
        logits.append(total)
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return places, [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("pixel", [(0, 0), (20, 13), (29, 39), (7, 39)])
def test_pixels_take_the_scores_of_neighbours_of_their_colour(pixel):
    scores, image = given(2, 30, 40)
    places, weights = naive_affinities(image, *pixel)
    torch.testing.assert_close(affinities(image)[:, pixel[0], pixel[1]].tolist(), weights, atol=1e-5, rtol=1e-4)
    expected = sum(weight * scores[:, y, x] for weight, (y, x) in zip(weights, places, strict=True))
    (found,) = pamr([scores], image, steps=1)
    torch.testing.assert_close(found[:, pixel[0], pixel[1]], expected)


def test_an_edge_between_two_colours_holds_scores_apart():
    image = torch.zeros(3, 48, 48)
    image[:, :, 24:] = 1
    scores = torch.zeros(2, 48, 48)
    scores[0, :, :21], scores[1, :, 21:] = 1, 1  # three columns off
    (found,) = pamr([scores], image)
    assert (found.argmax(0) == (torch.arange(48) >= 24)).all()


@pytest.mark.parametrize("rows", [1, 50, 161, 400])
def test_strips_give_what_the_whole_image_gives(rows):
    scores, image = given(3, 500, 20)
    whole = torch.cat(list(pamr([scores], image)), dim=1)
    strips = list(pamr(scores.split(rows, dim=1), image))
    assert len(strips) > 1
    torch.testing.assert_close(torch.cat(strips, dim=1), whole, atol=1e-6, rtol=1e-6)  # rounding of the softmax


def test_few_classes_at_a_time_change_nothing(monkeypatch):
    scores, image = given(5, 20, 30)
    whole = torch.cat(list(pamr([scores], image)), dim=1)
    monkeypatch.setattr("san_cliptrase.refine.pamr.SCORES_AT_ONCE", 2 * 20 * 30)
    torch.testing.assert_close(torch.cat(list(pamr([scores], image)), dim=1), whole)


def test_shares_stay_shares_and_a_flat_image_gives_means():
    scores = given(4, 20, 30)[0].softmax(0)
    (found,) = pamr([scores], torch.full((3, 20, 30), 0.3))
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(0), torch.ones(20, 30))
    assert found.std() < scores.std()


def test_neighbours_are_as_far_as_patches_are_large():
    scores, image = given(2, 40, 48)
    fine = [torch.repeat_interleave(torch.repeat_interleave(one, 2, 1), 2, 2) for one in (scores, image)]
    (coarse,), (refined,) = pamr([scores], image, 8, 1), pamr([fine[0]], fine[1], 16, 1)
    # Inside, where no border is repeated, a pixel and its four copies have the same neighbours.
    torch.testing.assert_close(refined[:, 16:-16:2, 16:-16:2], coarse[:, 8:-8, 8:-8])


def test_half_the_size_is_the_same_on_means_of_pixels():
    scores, image = given(3, 41, 60)  # a row is left over
    small = [torch.nn.functional.avg_pool2d(one[None], 2)[0] for one in (scores, image)]
    (coarse,), half = pamr([small[0]], small[1], 8), torch.cat(list(pamr_half(scores.split(7, 1), image, 16)), dim=1)
    expected = torch.nn.functional.interpolate(coarse[None], (41, 60), mode="bilinear")[0]
    torch.testing.assert_close(half, expected, atol=1e-5, rtol=1e-5)
    line = torch.cat(list(pamr_half([scores[:, :1]], image[:, :1])), dim=1)
    assert line.shape == (3, 1, 60) and line.isfinite().all()
