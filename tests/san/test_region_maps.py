import torch

from san_cliptrase.san.region_maps import assign_regions
from san_cliptrase.structures import Regions


def regions_of_areas(*areas):
    """One image whose region k covers areas[k] patches of an 8x8 grid."""
    masks = torch.zeros(1, len(areas), 64)
    for row, area in zip(masks[0], areas, strict=True):
        row[:area] = 1
    return Regions(masks.unflatten(2, (8, 8)), masks.sum(-1) > 0)


def areas(assigned):
    return assigned.masks.flatten(2).sum(-1)[0].tolist()


def test_queries_beyond_the_last_region_have_none():
    assigned = assign_regions(regions_of_areas(3, 9, 5), 5)
    assert areas(assigned) == [9, 5, 3, 0, 0]
    assert assigned.valid[0].tolist() == [True, True, True, False, False]


def test_repeated_regions_go_round_from_the_largest():
    assigned = assign_regions(regions_of_areas(3, 9, 5, 0), 8, repeat=True)
    assert areas(assigned) == [9, 5, 3, 9, 5, 3, 9, 5]
    assert assigned.valid.all()


def test_repeating_changes_nothing_where_regions_suffice():
    regions = regions_of_areas(3, 9, 5, 7)
    assert areas(assign_regions(regions, 2, repeat=True)) == areas(assign_regions(regions, 2)) == [9, 7]


def test_an_image_without_regions_gives_none_to_repeat():
    empty = Regions(torch.zeros(1, 0, 8, 8), torch.zeros(1, 0, dtype=torch.bool))
    for regions in (empty, regions_of_areas(0, 0)):
        assert not assign_regions(regions, 4, repeat=True).valid.any()


def test_images_of_a_batch_go_round_on_their_own():
    one, other = regions_of_areas(4, 2, 1), regions_of_areas(6, 0, 0)
    both = Regions(torch.cat([one.masks, other.masks]), torch.cat([one.valid, other.valid]))
    assigned = assign_regions(both, 4, repeat=True)
    assert assigned.masks.flatten(2).sum(-1).tolist() == [[4, 2, 1, 4], [6, 6, 6, 6]]
