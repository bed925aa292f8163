import pytest
import torch
from detectron2.utils.events import EventStorage

from san_cliptrase.clip.build import build_clip
from san_cliptrase.cliptrase import RegionFinder
from san_cliptrase.regions.controls import (
    REGION_SOURCES,
    RegionSource,
    grid_regions,
    picture_features,
    random_regions,
    shuffle_regions,
    truth_regions,
)
from san_cliptrase.scenes import make_scene
from san_cliptrase.structures import ClipFeatures, Regions


def features(*sizes, grid=(6, 6), canvas=(96, 96)):
    """Features without tokens of pictures of these pixel sizes."""
    empty = ClipFeatures({}, grid, torch.ones(len(sizes), grid[0] * grid[1], dtype=torch.bool))
    return picture_features(empty, sizes, canvas)


@pytest.mark.parametrize("make", [grid_regions, random_regions])
def test_controls_divide_every_picture_and_nothing_else(make):
    torch.manual_seed(0)
    given = features((96, 96), (48, 80))
    regions = make(given, 3)
    torch.testing.assert_close(regions.masks.sum(1).flatten(1), given.valid.float())
    assert regions.masks.flatten(2).any(2).eq(regions.valid).all()


def test_a_grid_has_equal_cells_row_by_row():
    masks = grid_regions(features((96, 96)), 3).masks[0]
    assert masks.shape == (9, 6, 6)
    assert masks.flatten(1).sum(1).tolist() == [4] * 9
    assert masks[4, 2:4, 2:4].all()


def test_random_cells_are_drawn_from_the_generator():
    given = features((96, 96))
    torch.manual_seed(0)
    first, second = random_regions(given, 5).masks, random_regions(given, 5).masks
    torch.manual_seed(0)
    assert torch.equal(random_regions(given, 5).masks, first)
    assert first.shape != second.shape or not torch.equal(first, second)


def test_shuffled_regions_are_those_of_another_image_inside_the_own_picture():
    masks = torch.zeros(2, 2, 6, 6)
    masks[0, 0, :3], masks[0, 1, 3:], masks[1, 0] = 1, 1, 1
    given = features((96, 96), (48, 96))
    regions = shuffle_regions(Regions(masks, masks.flatten(2).any(2)), given)
    assert torch.equal(regions.masks[0, 0], torch.ones(6, 6))
    assert torch.equal(regions.masks[1, 0, :3], torch.ones(3, 6))
    assert regions.valid.tolist() == [[True, False], [True, False]], "the other region lies outside of this picture"
    with pytest.raises(ValueError, match="batches of two images or more"):
        shuffle_regions(Regions(masks[:1], masks[:1].flatten(2).any(2)), features((96, 96)))


def test_truth_gives_every_patch_its_most_frequent_class():
    labels = torch.full((96, 96), 7)
    labels[:, 40:] = 2
    labels[:16] = 255
    (masks,) = truth_regions(features((96, 96)), [labels], (96, 96), 255).masks
    assert masks.shape[0] == 2
    assert not masks[:, 0].any(), "ignored patches belong to no region"
    assert masks[1, 1:, :2].all(), "class 7 comes after class 2"
    assert masks[0, 1:, 3:].all()
    assert torch.equal(masks.sum(0)[1:], torch.ones(5, 6))
    with pytest.raises(ValueError, match="image 0 of the batch has no label map"):
        truth_regions(features((96, 96)), [None], (96, 96), 255)


def test_unknown_names_and_scales_are_refused():
    with pytest.raises(ValueError, match=f"unknown source of regions 'sam'.*{', '.join(REGION_SOURCES)}"):
        RegionSource("sam", None)
    with pytest.raises(ValueError, match="above 0"):
        RegionSource("cliptrase", None, scales=())


@pytest.mark.parametrize("source", REGION_SOURCES)
def test_san_trains_and_predicts_from_every_source(world, source):
    model = world.model("san_cliptrase", model__san__query_init__source=source)
    with EventStorage():
        sum(model.train()(world.batch()).values()).backward()
    assert all("sem_seg" in found for found in model.eval()(world.batch(train=False)))


def test_how_cliptrase_reads_clip_is_nothing_to_san(world):
    """A rule with a second path would ask CLIP for more tokens, or for more blocks than it has."""
    changes = {"attention": "qq+dual3", "classify": "cls", "cls_layer": -40}
    model = world.model("san_cliptrase", **{f"model__cliptrase__{key}": value for key, value in changes.items()})
    assert model.region_source.taps == (-2,)
    with pytest.raises(ValueError, match="REGIONS is 'sam'.*QUERY_INIT.SOURCE"):
        world.model("san_cliptrase", model__cliptrase__regions="sam")


def test_kept_regions_are_those_that_are_found(monkeypatch):
    clip = build_clip("scenes_vit", "scenes")
    images = torch.stack([torch.from_numpy(make_scene((74, i)).image[::2, ::2].copy()) for i in range(3)])
    pixels = clip.normalize(images.permute(0, 3, 1, 2) / 255)
    method = RegionFinder(clip.visual, eps=0.8, min_samples=2)
    sizes = [(96, 96), (96, 48), (64, 96)]
    given = picture_features(clip.visual(pixels, method.taps), sizes, (96, 96))
    expected = method.regions(given)
    source, found = RegionSource("cliptrase", method, keep_gb=0.001), []
    monkeypatch.setattr(
        method, "regions", lambda f, s, regions=method.regions: found.append(len(f.valid)) or regions(f, s)
    )
    for _ in range(2):
        regions = source(given, [], (96, 96))
        assert torch.equal(regions.masks, expected.masks) and torch.equal(regions.valid, expected.valid)
    assert found == [1, 1, 1]
    source(picture_features(given, [(96, 96)] * 3, (96, 96)), [], (96, 96))  # the first is as it was
    assert len(found) == 5
    source.forget()
    source(given, [], (96, 96))
    assert len(found) == 8
