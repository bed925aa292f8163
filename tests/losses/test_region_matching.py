import torch

from san_cliptrase.losses.criterion import SetCriterion
from san_cliptrase.losses.matcher import HungarianMatcher
from san_cliptrase.losses.region_matching import match_regions
from san_cliptrase.losses.targets import MaskTarget
from san_cliptrase.structures import Regions


def halves(count=4):
    """Queries 0 and 2 on the left half of a 2x4 grid, 1 on the right, the last without a region."""
    masks = torch.zeros(1, count, 2, 4)
    masks[0, [0, 2], :, :2] = 1
    masks[0, 1, :, 2:] = 1
    return Regions(masks, masks.flatten(2).any(2))


def target(*columns, labels=(5, 3)):
    """Two true masks side by side on an 8x16 canvas; the second begins at the given column."""
    masks = torch.zeros(2, 8, 16)
    masks[0, :, : columns[0]], masks[1, :, columns[0] :] = 1, 1
    return MaskTarget(torch.tensor(labels), masks)


def test_every_query_meets_the_mask_that_covers_its_region():
    ((queries, found),) = match_regions(halves(), [target(8)])
    assert queries.tolist() == [0, 1, 2]
    assert found.tolist() == [0, 1, 0]


def test_regions_of_mixed_content_are_left_out():
    ((queries, found),) = match_regions(halves(), [target(12)], purity=0.6)
    assert (queries.tolist(), found.tolist()) == ([0, 2], [0, 0])


def test_an_image_without_masks():
    nothing = MaskTarget(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, 16))
    ((queries, found),) = match_regions(halves(), [nothing])
    assert len(queries) == len(found) == 0


def test_queries_left_over_by_one_to_one_matching_become_positives():
    """Three queries predict class 5 and its mask, one nothing: without region matches two of the three are punished."""
    truth = target(8)
    logits = torch.zeros(1, 4, 8)
    masks = torch.full((1, 4, 2, 4), -8.0)
    for query, (label, columns) in enumerate([(5, slice(0, 2)), (3, slice(2, 4)), (5, slice(0, 2))]):
        logits[0, query, label], masks[0, query, :, columns] = 20.0, 8.0
    logits[0, 3, -1] = 20.0
    criterion = SetCriterion(7, HungarianMatcher(num_points=64), num_points=64)
    torch.manual_seed(0)
    alone = criterion([(logits, masks)], [truth])
    torch.manual_seed(0)
    more = criterion([(logits, masks)], [truth], match_regions(halves(), [truth]))
    assert alone["loss_ce"] > 0.5
    assert more["loss_ce"] < 1e-3
