import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter

from san_cliptrase.regions.maps import (
    _median_filter,
    image_grids,
    own_maps,
    partition_pixels,
    region_maps,
    regions_from_maps,
    smooth_maps,
)


def padded_valid():
    """Grid 3x4 of a batch: the first image is all of it, the second its top-left 2x3."""
    valid = torch.zeros(2, 3, 4, dtype=torch.bool)
    valid[0] = True
    valid[1, :2, :3] = True
    return valid.flatten(1)


def test_each_image_has_its_own_grid():
    assert image_grids(padded_valid(), (3, 4)) == [(3, 4), (2, 3)]


def test_map_is_the_mean_row_of_its_cluster():
    rows = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 12), -1)
    labels[0, :5] = 1
    labels[0, 6:8] = 0
    first, second = own_maps(region_maps(rows, labels), padded_valid(), (3, 4))
    torch.testing.assert_close(first[0], rows[0, 6:8].mean(0).view(3, 4))
    torch.testing.assert_close(first[1], rows[0, :5].mean(0).view(3, 4))
    assert second.shape == (0, 2, 3)


def test_map_of_a_padded_image_uses_only_its_own_patches():
    valid = padded_valid()
    rows, labels = torch.full((2, 12, 12), 9.0), torch.full((2, 12), -1)
    own = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    rows[1][valid[1][:, None] & valid[1]] = own.flatten()
    labels[1][valid[1]] = torch.tensor([0, 0, -1, 0, -1, -1])
    rows = rows * (valid[:, :, None] & valid[:, None, :])
    second = own_maps(region_maps(rows, labels), valid, (3, 4))[1]
    torch.testing.assert_close(second, own[[0, 1, 3]].mean(0).view(1, 2, 3))


def test_smoothing_is_bilinear_then_a_median_that_repeats_the_edge():
    maps = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(maps[None], scale_factor=4, mode="bilinear")[0].numpy()
    expected = np.empty_like(fine)
    for index, single in enumerate(fine):
        padded = np.pad(single, 3, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7))
        expected[index] = np.median(windows, axis=(2, 3))
    np.testing.assert_array_equal(smooth_maps(maps).numpy(), expected)
    np.testing.assert_array_equal(expected[0], median_filter(fine[0], size=7, mode="reflect"))


@pytest.mark.parametrize("in_numpy", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (30, 7)])
def test_the_median_is_scipys_on_a_cpu_and_elsewhere(size, in_numpy):
    pixels = torch.rand(size, generator=torch.Generator().manual_seed(0))
    expected = median_filter(pixels.numpy(), size=7, mode="reflect")
    np.testing.assert_array_equal(_median_filter(pixels, 7, in_numpy).numpy(), expected)


def test_smoothing_of_no_map():
    assert smooth_maps(torch.zeros(0, 5, 3)).shape == (0, 20, 12)


def test_pixels_go_to_the_largest_map():
    left = torch.tensor([[1.0, 0.0]]).repeat(2, 1)
    partition = partition_pixels(torch.stack([left, 1 - left]), canvas=(8, 8), size=(6, 7))
    assert partition.shape == (6, 7)
    assert partition[:, :4].eq(0).all()
    assert partition[:, 4:].eq(1).all()


def test_regions_cover_every_patch_once_and_no_padding():
    maps = torch.rand(2, 3, 12, generator=torch.Generator().manual_seed(0))
    maps[1, 1:] = -torch.inf
    regions = regions_from_maps(maps, padded_valid(), (3, 4))
    torch.testing.assert_close(regions.masks.sum(dim=1).flatten(1), padded_valid().float())
    assert regions.valid.tolist() == [[True, True, True], [True, False, False]]
    assert regions.masks.flatten(2).any(dim=2).eq(regions.valid).all()


def test_regions_that_win_nothing_are_dropped():
    maps = torch.tensor([0.1, 0.5, 0.3]).view(1, 3, 1).expand(1, 3, 12)
    regions = regions_from_maps(maps, padded_valid()[:1], (3, 4))
    assert regions.masks.shape == (1, 1, 3, 4)
    assert regions.masks.eq(1).all()


def test_an_image_without_clusters_in_a_batch_has_no_region():
    maps = torch.rand(2, 2, 12, generator=torch.Generator().manual_seed(0))
    maps[1] = -torch.inf
    regions = regions_from_maps(maps, padded_valid(), (3, 4))
    assert regions.valid.tolist() == [[True, True], [False, False]]
    assert not regions.masks[1].any()


def test_no_cluster_at_all():
    regions = regions_from_maps(torch.zeros(1, 0, 12), padded_valid()[:1], (3, 4))
    assert regions.masks.shape == (1, 0, 3, 4)
    assert regions.valid.shape == (1, 0)
