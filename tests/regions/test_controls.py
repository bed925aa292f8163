import pytest
import torch

from san_cliptrase.regions.controls import (
    GridRegions,
    RandomRegions,
    ShuffledRegions,
    TrueRegions,
    canvas_labels,
    image_features,
)
from san_cliptrase.regions.pixels import pixel_partition
from tests.regions.given import GivenRegions, empty_features


@pytest.mark.parametrize("make", [GridRegions, RandomRegions])
def test_controls_divide_every_image_and_nothing_else(make):
    torch.manual_seed(0)
    given = empty_features((96, 96), (48, 80))
    regions = make(3)([], given)
    torch.testing.assert_close(regions.masks.sum(1).flatten(1), given.valid.float())
    assert regions.masks.flatten(2).any(2).eq(regions.valid).all()


def test_a_grid_has_equal_cells_row_by_row():
    given = empty_features((96, 96))
    regions = GridRegions(3)([], given)
    masks = regions.masks[0]
    assert masks.shape == (9, 6, 6)
    assert masks.flatten(1).sum(1).tolist() == [4] * 9
    assert masks[4, 2:4, 2:4].all()
    (pixels,) = pixel_partition(regions, given)
    assert pixels[::32, ::32].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert pixels.flatten().bincount().tolist() == [32 * 32] * 9


def test_random_cells_are_drawn_from_the_generator():
    given, source = empty_features((96, 96)), RandomRegions(5)
    torch.manual_seed(0)
    first, second = source([], given).masks, source([], given).masks
    torch.manual_seed(0)
    assert torch.equal(source([], given).masks, first)
    assert first.shape != second.shape or not torch.equal(first, second)


def test_shuffled_regions_are_those_of_another_image_inside_the_own_image():
    halves, whole = torch.zeros(96, 96), torch.zeros(48, 96)
    halves[48:] = 1
    given = empty_features((96, 96), (48, 96))
    regions = ShuffledRegions(GivenRegions([halves.long(), whole.long()]))([], given)
    expected = torch.zeros(6, 6)
    expected[:3] = 1
    assert torch.equal(regions.masks[0, 0], expected), "the other image is only so large"
    assert torch.equal(regions.masks[1, 0], expected)
    assert regions.valid.tolist() == [[True, False], [True, False]], "the other region lies outside of this image"
    large, small = pixel_partition(regions, given)
    assert torch.equal(large, halves.long()), "what is left over is one region"
    assert not small.any()
    with pytest.raises(ValueError, match="batches of two images or more"):
        ShuffledRegions(GivenRegions([halves.long()]))([], empty_features((96, 96)))


def test_truth_gives_every_patch_its_most_frequent_class_and_every_pixel_its_own():
    labels = torch.full((96, 96), 7)
    labels[:, 40:] = 2
    labels[:16] = 255
    given = empty_features((96, 96))
    regions = TrueRegions()([], given, [canvas_labels(labels, (96, 96), 255)])
    (masks,) = regions.masks
    assert masks.shape[0] == 2
    assert not masks[:, 0].any(), "ignored patches belong to no region"
    assert masks[1, 1:, :2].all(), "class 7 comes after class 2"
    assert masks[0, 1:, 3:].all()
    assert torch.equal(masks.sum(0)[1:], torch.ones(5, 6))
    (pixels,) = pixel_partition(regions, given)
    assert torch.stack([pixels, labels]).flatten(1).unique(dim=1).tolist() == [[0, 1, 2], [255, 2, 7]]
    for missing in ([None], []):
        with pytest.raises(ValueError, match="image 0 of the batch has no label map"):
            TrueRegions()([], given, missing)


def test_truth_at_another_scale_than_clips_and_in_padding():
    """Labels of 40x60 on a canvas of 64x64, of which CLIP sees half."""
    labels = torch.arange(40 * 60).view(40, 60) // 60 // 20  # two rows of 20 pixels each
    features = image_features(empty_features((32, 32), patch=8), [(40, 60)], (64, 64))
    assert features.sizes == ((20, 30),)
    assert features.valid.view(4, 4).int().tolist() == [[1, 1, 1, 1]] * 3 + [[0, 0, 0, 0]]
    regions = TrueRegions()([], features, [canvas_labels(labels, (64, 64), 255)])
    # Half of the third row of patches is padding, of its corner more than half.
    assert regions.masks[0, 1].int().tolist() == [[0] * 4, [1] * 4, [1, 1, 1, 0], [0] * 4]
    (pixels,) = pixel_partition(regions, features)
    assert torch.equal(pixels, labels[::2, ::2])
