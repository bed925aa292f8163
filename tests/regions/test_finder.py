import pytest
import torch

from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.cliptrase import RegionFinder
from san_cliptrase.regions.clustering import cluster_rows, core_radius, default_clustering
from san_cliptrase.regions.correlation import suppress_global_patches
from tests.clip.tiny import images, pad_together, tiny_clip, tiny_open_clip
from tests.cliptrase.pictures import pictures


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(interpolate_offset=0.1)


def test_mixed_precision_does_not_move_regions(clip):
    method = RegionFinder(clip.visual, eps=0.4, min_samples=2)
    features = clip.visual(pictures()[2][None], method.taps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (maps,) = method.maps(features)
    assert maps.dtype == torch.float32
    assert torch.equal(maps, method.maps(features)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = clip.visual(pictures()[2][None], method.taps)
        assert method([], half).masks.sum() == 64


def test_regions_of_several_radii_are_those_of_each_together(clip):
    features = clip.visual(torch.stack([pictures()[2], pictures()[2].flip(2)]), RegionFinder.taps)
    both = RegionFinder(clip.visual, eps=0.4, min_samples=2, scales=(0.7, 1.4))([], features)
    counts = []
    for scale in (0.7, 1.4):
        alone = RegionFinder(clip.visual, eps=0.4 * scale, min_samples=2)([], features)
        counts.append(alone.valid.sum())
        for image in range(2):
            found = {tuple(mask.flatten().tolist()) for mask in both.masks[image][both.valid[image]]}
            assert {tuple(mask.flatten().tolist()) for mask in alone.masks[image][alone.valid[image]]} <= found
    assert both.valid.sum() == sum(counts)


def test_the_radius_is_the_published_one_on_vit_b_16_and_found_in_the_picture_elsewhere():
    base = {"image_size": 64, "patch_size": 16, "layers": 12, "width": 48, "head_width": 4}
    rows = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    for changes, published in (({}, True), ({"layers": 24}, False), ({"patch_size": 8, "image_size": 32}, False)):
        method = RegionFinder(ClipVisualEncoder(tiny_open_clip(**{**base, **changes}).visual))
        side = 4 * method.visual.patch_size[0]
        features = method.visual(images(1, side, side), method.taps)
        eps, min_samples = default_clustering((4, 4))
        if not published:
            eps = core_radius(rows, features.valid, min_samples)
        assert torch.equal(method.cluster(rows, features), cluster_rows(rows, features.valid, eps, min_samples))
    assert eps != default_clustering((4, 4))[0]


def test_pictures_are_neither_one_region_nor_noise_on_a_tower_without_published_radii(clip):
    pictures_together, sizes = pad_together(pictures())
    features = clip.visual(pictures_together, RegionFinder.taps, sizes)
    method = RegionFinder(clip.visual)
    rows = suppress_global_patches(method.correlate(features), features.valid)
    for changed in (rows, 0.02 * rows):
        labels = method.cluster(changed, features)
        assert (labels.amax(1) > 0).all()
        noise = ((labels < 0) & features.valid).sum(1)
        assert (noise <= (0.1 * features.valid.sum(1)).ceil()).all()


def test_bad_arguments(clip):
    with pytest.raises(ValueError, match="1 block"):
        RegionFinder(ClipVisualEncoder(tiny_open_clip(layers=1).visual))
    with pytest.raises(ValueError, match="unknown correlation 'x'"):
        RegionFinder(clip.visual, correlation="x")
    for scales in ((), (1.0, 0.0)):
        with pytest.raises(ValueError, match="above 0"):
            RegionFinder(clip.visual, scales=scales)
