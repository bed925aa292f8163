import pytest
import torch

from san_cliptrase.errors import OptionError
from san_cliptrase.refine.pamr import pamr
from san_cliptrase.regions.build import build_region_source
from san_cliptrase.regions.maps import own_maps
from san_cliptrase.regions.pixels import regions_from_pixels
from san_cliptrase.regions.refined import RefinedRegions, refined_partition
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.structures import ClipFeatures, Regions
from tests.clip.tiny import pad_together, tiny_clip

PATCH = 8


class TwoHalves(RegionSource):
    """Regions with soft maps whose boundary, column 4 of 8, is half a column beside the edge of :func:`picture`."""

    def __call__(self, images, features, labels=()):
        maps = torch.linspace(1, 0, 8).repeat(8, 1)
        maps = torch.stack([maps, 1 - maps]).flatten(1)[None]
        masks = (maps.argmax(1)[:, None] == torch.arange(2)[:, None]).unflatten(2, (8, 8)).float()
        return Regions(masks, torch.ones(1, 2, dtype=torch.bool), maps=maps)


def picture():
    """(3, 128, 128): black, white from column 72 on; CLIP sees half of its pixels."""
    image = torch.zeros(3, 128, 128)
    image[:, :, 72:] = 1
    return image


@pytest.fixture
def features():
    return ClipFeatures({}, (8, 8), torch.ones(1, 64, dtype=torch.bool), ((64, 64),), (PATCH, PATCH))


def test_boundaries_move_to_the_edges_of_the_image(features):
    found = RefinedRegions(TwoHalves(), "pamr")([picture()], features)
    (labels,) = found.labels
    assert labels.shape == (64, 64) and found.maps is None
    assert torch.equal(labels, (torch.arange(64) >= 36).long().expand(64, 64))
    shares = torch.stack([labels == 0, labels == 1]).float().unflatten(1, (8, 8)).unflatten(3, (8, 8)).mean((2, 4))
    torch.testing.assert_close(found.masks[0], shares)


@pytest.mark.parametrize("refine", ["pamr", "laplacian"])
def test_a_batch_gets_what_its_images_get_alone(refine):
    clip = tiny_clip(interpolate_offset=0.1)
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, h, w, generator=generator) for h, w in ((64, 64), (48, 80))]
    for image in images:
        image[:, : image.shape[1] // 2] *= 0.2
    seen = [clip.normalize(image[:, ::2, ::2]) for image in images]
    source = build_region_source("cliptrase", clip.visual, eps=0.4, min_samples=2, refine=refine, keep_gb=0.01)

    def find(chosen):
        canvas, sizes = pad_together([seen[i] for i in chosen])
        features = clip.visual(canvas, source.taps, sizes)
        found = source([images[i] for i in chosen], features)
        assert torch.equal(found.masks, source([images[i] for i in chosen], features).masks)  # remembered
        return found, features

    together, features = find((0, 1))
    for index in (0, 1):
        alone, own = find((index,))
        assert torch.equal(together.labels[index], alone.labels[0])
        count = int(alone.valid.sum())
        kept = own_maps(together.masks[index][None, :count].flatten(2), features.valid[[index]], features.grid)[0]
        torch.testing.assert_close(kept, alone.masks[0].view(count, *own.grid))
        assert not together.masks[index].flatten(1)[:, ~features.valid[index]].any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "grid", "refine": "pamr"}, "'grid' are a control"),
        ({"name": "cliptrase", "refine": "pamr", "scales": (0.5, 1.0)}, "several scales"),
        ({"name": "cliptrase", "refine": "pamer"}, "choose one of: none, pamr, pamr_half, laplacian"),
    ],
)
def test_what_cannot_be_refined_is_refused(options, said):
    with pytest.raises(OptionError, match=said):
        build_region_source(visual=tiny_clip().visual, **options)


def test_refined_maps_follow_the_edges_of_the_image():
    image = torch.zeros(3, 64, 64)
    image[:, :, 28:] = 1  # not where patches meet
    maps = torch.zeros(2, 4, 4)
    maps[0, :, :2], maps[1, :, 2:] = 1, 1
    found = refined_partition(maps, (64, 64), image, 16, pamr)
    assert (found == (torch.arange(64) >= 28)).all()


def test_regions_of_pixels_are_refined_at_the_size_of_the_image(features):
    class HalvesOfPixels(TwoHalves):
        def __call__(self, images, features, labels=()):
            regions = (torch.arange(64) >= 32).long().expand(64, 64)
            return regions_from_pixels([regions], features)

    (labels,) = RefinedRegions(HalvesOfPixels(), "pamr")([picture()], features).labels
    assert torch.equal(labels, (torch.arange(64) >= 36).long().expand(64, 64))


def test_maps_reach_to_the_border_where_patches_have_no_whole_number_of_pixels():
    features = ClipFeatures({}, (8, 8), torch.ones(1, 64, dtype=torch.bool), ((64, 64),), (PATCH, PATCH))
    (labels,) = RefinedRegions(TwoHalves(), "pamr")([torch.rand(3, 75, 75)], features).labels
    assert labels.shape == (64, 64)
