"""Edge-aware smoothing against the linear system that it solves, and in strips."""

import pytest
import torch
import torch.nn.functional as F

from san_cliptrase.refine.laplacian import edges, laplacian, own_similarity


def given(classes, height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(classes, height, width, generator=generator), torch.rand(3, height, width, generator=generator)


def refined(scores, image, **options):
    return torch.cat(list(laplacian(scores, image, **options)), dim=1)


def test_it_comes_near_the_solution_of_its_system():
    scores, image = (one.double() for one in given(3, 6, 7))
    text = F.normalize(torch.randn(3, 5, dtype=torch.double, generator=torch.Generator().manual_seed(1)), dim=-1)
    own, shares = own_similarity(3, text), scores.softmax(0)
    grey = (image * torch.tensor([0.299 / 0.26862954, 0.587 / 0.26130258, 0.114 / 0.27577711])[:, None, None]).sum(0)
    system = torch.zeros(42, 42, dtype=torch.double)
    for weights, step in ((edges(grey, shares, own, 0), 7), (edges(grey, shares, own, 1), 1)):
        for y in range(weights.shape[0]):
            for x in range(weights.shape[1]):
                i = 7 * y + x
                system[i, i] += weights[y, x]
                system[i + step, i + step] += weights[y, x]
                system[i, i + step] -= weights[y, x]
                system[i + step, i] -= weights[y, x]
    weight = (shares.amax(0) ** 2).clamp(min=0.0025) * (1 + (own[:, None, None] * shares**2).sum(0))
    system += weight.flatten().diag()
    expected = torch.linalg.solve(system, (weight * scores).flatten(1).T).T.view(3, 6, 7)
    assert (refined([scores], image, text_weights=text) - expected).abs().max() < 1e-2 * scores.abs().max()


def test_edges_are_weak_where_grey_values_jump():
    grey = torch.zeros(4, 6)
    grey[:, 3:] = 1
    shares = torch.full((2, 4, 6), 0.5)
    across = edges(grey, shares, own_similarity(2, None), 1)
    assert (across[:, 2] < 1e-5).all() and (across[:, [0, 1, 3, 4]] == 1).all()
    assert (edges(grey, shares, own_similarity(2, None), 0) == 1).all()


@pytest.mark.parametrize("size", [(200, 330), (37, 61), (161, 20), (1, 1)])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_strips_give_what_the_whole_image_gives(size, rows):
    scores, image = given(3, *size)
    whole = refined([scores], image)
    assert whole.shape == scores.shape and whole.isfinite().all()
    torch.testing.assert_close(refined(scores.split(rows, dim=1), image), whole, atol=1e-5, rtol=1e-4)


def test_few_rows_at_a_time_change_nothing(monkeypatch):
    scores, image = given(3, 300, 200)
    whole = refined([scores], image)
    monkeypatch.setattr("san_cliptrase.refine.coarse.SCORES_AT_ONCE", 7 * 3 * 200)
    assert len(list(laplacian([scores], image))) == 43
    torch.testing.assert_close(refined([scores], image), whole)


def test_it_is_resized_as_torch_does():
    scores, image = given(2, 163, 245)  # cells of 2 x 3, one row and two columns left over
    found = refined([scores], image)
    small = refined([F.avg_pool2d(scores[None], (2, 3))[0]], F.avg_pool2d(image[None], (2, 3))[0])
    torch.testing.assert_close(found, F.interpolate(small[None], (163, 245), mode="bilinear")[0], atol=1e-4, rtol=1e-3)
