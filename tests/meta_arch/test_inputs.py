import torch

from san_cliptrase.meta_arch.inputs import one_hot_scores


def test_each_pixel_scores_its_own_class():
    labels = torch.tensor([[0, 2, 1], [3, 3, 0]])
    scores = one_hot_scores(labels, 5)
    assert scores.shape == (5, 2, 3)
    assert scores.dtype == torch.float32
    assert torch.equal(scores.argmax(0), labels)
    assert scores.sum(0).unique().tolist() == [1]
    assert scores.count_nonzero() == 6
