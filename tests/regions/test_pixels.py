import pytest
import torch

from san_cliptrase.regions.maps import partition_pixels, regions_from_maps, smooth_maps
from san_cliptrase.regions.pixels import patch_masks, pixel_partition, regions_from_pixels
from san_cliptrase.structures import Regions
from tests.regions.given import empty_features


def test_a_patch_is_of_the_region_that_has_most_of_it():
    # Patches of 2x2 pixels on a padded grid of 2x4; the image is 3x5. Region 0 has most of no patch, 1 has no pixel.
    regions = torch.tensor([[2, 0, 3, 3, 3], [2, 2, 3, 3, 3], [3, 2, 3, 3, 2]])
    masks = patch_masks(regions, (2, 4), (2, 2))
    assert masks.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 1, 0, 1, 0],
        [0, 1, 1, 0, 0, 1, 0, 0],
    ]


def test_regions_from_elsewhere_are_numbered_without_gaps_and_have_masks():
    features = empty_features((2, 2), (2, 4), patch=2)
    found = regions_from_pixels([torch.tensor([[7, 10**15], [-1, 7]]), None], features)
    assert found.labels[0].tolist() == [[1, 2], [0, 1]]
    assert found.labels[1] is None
    assert found.valid.tolist() == [[True, True, True], [False, False, False]]
    assert found.masks[0].flatten(1).tolist() == [[1, 0], [1, 0], [1, 0]], "most of one patch each, none of the padding"
    assert pixel_partition(found, features) == list(found.labels)
    with pytest.raises(ValueError, match=r"regions of \(1, 2\) pixels were given for an image of \(2, 2\)"):
        regions_from_pixels([torch.zeros(1, 2).long(), None], features)


def test_of_maps_pixels_are_partitioned_smoothly_each_image_on_its_own_grid():
    features = empty_features((29, 32), (16, 20), patch=8)
    maps = torch.rand(2, 3, 16, generator=torch.Generator().manual_seed(0))
    maps[1, 2] = -torch.inf
    large, small = pixel_partition(regions_from_maps(maps, features.valid, features.grid), features)
    assert large.shape == (29, 32)
    own = maps[1, :2].view(2, 4, 4)[:, :2, :3]
    assert torch.equal(small, partition_pixels(smooth_maps(own), (16, 24), (16, 20)))
    nothing = regions_from_maps(torch.zeros(2, 0, 16), features.valid, features.grid)
    assert pixel_partition(nothing, features) == [None, None]


def test_of_masks_a_pixel_has_its_patchs_first_region():
    features = empty_features((4, 3), (2, 2), patch=2)
    masks = torch.zeros(2, 3, 2, 2)
    masks[0, 0, 0, 0] = masks[0, 1, 0] = 1  # both have the first patch; the lower ones are in no region
    first, second = pixel_partition(Regions(masks, masks.flatten(2).any(2)), features)
    assert first.tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 2], [2, 2, 2]]
    assert second is None
