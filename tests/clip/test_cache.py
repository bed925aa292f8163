import pytest
import torch

from san_cliptrase.clip.build import build_clip
from san_cliptrase.clip.cache import FeatureCache

TAPS = (0, 3, 6)


@pytest.fixture(scope="module")
def clip():
    return build_clip("scenes_vit", "scenes")


@pytest.fixture
def runs(clip, monkeypatch):
    """The sizes of the batches that the tower computes."""
    counted, forward = [], clip.visual.forward

    def counting(images, *args):
        counted.append(len(images))
        return forward(images, *args)

    monkeypatch.setattr(clip.visual, "forward", counting)
    return counted


def test_features_are_those_of_the_tower_and_computed_once(clip, runs):
    images = torch.rand(3, 3, 96, 96)
    expected = clip.visual(images, TAPS)
    cache = FeatureCache(clip.visual, TAPS, gigabytes=0.1)
    runs.clear()
    first, second = cache(images), cache(images.flip(0))
    assert runs == [1, 1, 1]
    assert first.tokens.keys() == set(TAPS) and first.grid == expected.grid
    for tap in TAPS:
        torch.testing.assert_close(first.tokens[tap], expected.tokens[tap], rtol=1e-4, atol=1e-5)
        assert torch.equal(second.tokens[tap], first.tokens[tap].flip(0))


def test_a_pixel_or_a_size_more_is_another_picture(clip, runs):
    cache, images = FeatureCache(clip.visual, TAPS, 0.1), torch.zeros(1, 3, 96, 96)
    cache(images)
    changed = images.clone()
    changed[0, 0, 5, 5] = 1
    cache(changed)
    cache(torch.zeros(1, 3, 48, 192))
    assert len(runs) == 3


def test_what_finds_no_room_is_computed_each_time(clip, runs):
    images = torch.rand(2, 3, 96, 96)
    one = sum(t.nbytes for t in clip.visual(images[:1], TAPS).tokens.values())
    cache = FeatureCache(clip.visual, TAPS, gigabytes=1.5 * one / 1e9)
    runs.clear()
    cache(images)
    cache(images)
    assert len(runs) == 3
    cache.clear()
    cache(images[1:])
    cache(images[1:])
    assert len(runs) == 4


def test_a_clip_that_is_trained_is_refused():
    trained = build_clip("scenes_vit", "scenes", trainable=("positional_embedding",))
    with pytest.raises(ValueError, match="CACHE_GB is 2, but .* trains positional_embedding"):
        FeatureCache(trained.visual, TAPS, 2)
