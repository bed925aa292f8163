import torch

from san_cliptrase.clip.build import build_clip
from san_cliptrase.regions.build import build_region_source
from san_cliptrase.regions.controls import image_features
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.memory import RememberedRegions
from san_cliptrase.regions.pixels import pixel_partition
from san_cliptrase.scenes import make_scene
from tests.clip.tiny import tiny_clip
from tests.regions.given import empty_features, save_vit


def equal(ours, others, features):
    """Whether masks and partitions of the pixels are equal."""
    pairs = zip(pixel_partition(ours, features), pixel_partition(others, features), strict=True)
    return (
        torch.equal(ours.masks, others.masks)
        and torch.equal(ours.valid, others.valid)
        and all(torch.equal(a, b) for a, b in pairs)
    )


def counted(monkeypatch, source):
    """Batch sizes that the source is asked for from now on."""
    found, call = [], type(source).__call__
    monkeypatch.setattr(type(source), "__call__", lambda *args: found.append(len(args[2].valid)) or call(*args))
    return found


def test_kept_regions_are_those_that_are_found(monkeypatch):
    clip = build_clip("scenes_vit", "scenes")
    images = torch.stack([torch.from_numpy(make_scene((74, i)).image[::2, ::2].copy()) for i in range(3)])
    pixels = clip.normalize(images.permute(0, 3, 1, 2) / 255)
    finder = RegionFinder(clip.visual, eps=0.8, min_samples=2)
    sizes = [(96, 96), (96, 48), (64, 96)]
    given = image_features(clip.visual(pixels, finder.taps), sizes, (96, 96))
    expected = finder([], given)
    source = RememberedRegions(finder, clip.visual.depth, 0.001)
    found = counted(monkeypatch, finder)
    for _ in range(2):
        assert equal(source([], given), expected, given)
    assert found == [1, 1, 1]
    source([], image_features(given, [(96, 96)] * 3, (96, 96)))  # the first is as it was
    assert len(found) == 5
    source.forget()
    source([], given)
    assert len(found) == 8


def test_regions_from_images_are_remembered_by_these(monkeypatch, tmp_path):
    visual, name = tiny_clip().visual, save_vit(tmp_path)
    plain, source = (build_region_source(name, visual, min_samples=3, keep_gb=gb) for gb in (0.0, 0.001))
    images = list(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    features = empty_features((32, 32), (32, 32), patch=8)
    expected = plain(images, features)
    found = counted(monkeypatch, plain)
    for _ in range(2):
        assert equal(source(images, features), expected, features)
    assert found == [1, 1]
    assert equal(source(images[::-1], features), plain(images[::-1], features), features)
    assert found == [1, 1, 2]
