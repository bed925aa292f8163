import pytest
import torch

from san_cliptrase.regions.pooling import mask_average_pool
from san_cliptrase.structures import Regions


def regions():
    masks = torch.zeros(1, 3, 2, 2)
    masks[0, 0, 0] = 1
    masks[0, 1, 1, 1] = 1
    return Regions(masks=masks, valid=torch.tensor([[True, True, False]]))


def test_averages_inside_each_region():
    features = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]], [[0.0, 4.0], [8.0, 9.0]]]])
    pooled = mask_average_pool(features, regions())
    torch.testing.assert_close(pooled, torch.tensor([[[2.0, 2.0], [7.0, 9.0], [0.0, 0.0]]]))


def test_soft_masks_weigh():
    soft = Regions(masks=torch.tensor([[[[0.75, 0.25]]]]), valid=torch.tensor([[True]]))
    assert mask_average_pool(torch.tensor([[[[4.0, 8.0]]]]), soft).item() == pytest.approx(5.0)


def test_gradient_goes_to_the_patches_of_regions():
    features = torch.zeros(1, 2, 2, 2, requires_grad=True)
    mask_average_pool(features, regions()).sum().backward()
    assert features.grad[0, 0].tolist() == [[0.5, 0.5], [0.0, 1.0]]


def test_half_precision_does_not_overflow_in_large_regions():
    features = torch.full((1, 1, 64, 64), 100.0, dtype=torch.float16)
    everything = Regions(masks=torch.ones(1, 1, 64, 64), valid=torch.tensor([[True]]))
    assert mask_average_pool(features, everything).item() == pytest.approx(100, rel=1e-2)


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"features on a \(4, 4\) grid, regions on \(2, 2\)"):
        mask_average_pool(torch.zeros(1, 2, 4, 4), regions())
