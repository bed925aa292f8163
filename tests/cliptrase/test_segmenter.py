import pytest
import torch

from san_cliptrase.clip.attention import ATTENTION_RULES
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.cliptrase import Cliptrase
from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.cliptrase.clustering import cluster_rows, core_radius, default_clustering
from san_cliptrase.cliptrase.correlation import suppress_global_patches
from tests.clip.tiny import images, pad_together, tiny_clip, tiny_open_clip

WORDS = ["grass", "water", "brick"]


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(interpolate_offset=0.1)


@pytest.fixture(scope="module")
def text_weights(clip):
    return clip.text(WORDS, templates="none")


def pictures():
    """Three images of other sizes, each half one colour and half another, so that there are regions."""
    result = []
    for index, (h, w) in enumerate([(48, 40), (30, 61), (64, 64)]):
        picture = 0.2 * images(1, h, w)[0]
        picture[index % 3, :, : w // 2] += 2
        picture[(index + 1) % 3, :, w // 2 :] -= 2
        result.append(picture)
    return result


# This tower has four blocks, fewer than the second path of CLIP Surgery.
RULES = (*sorted({*ATTENTION_RULES} - {"clip_surgery"}), "vv-mlp+dual3+surgery", "cliptrase+neighbours+surgery")


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("classify", CLASSIFY)
def test_a_batch_gives_what_each_image_alone_gives(clip, text_weights, name, classify):
    method = Cliptrase(clip.visual, attention=name, classify=classify, cls_layer=-3, eps=0.4, min_samples=2)
    canvas, sizes = pad_together(pictures())
    batch = clip.visual(canvas, method.taps, sizes)
    together = method.segment(batch, text_weights, sizes)
    regions = method.regions(batch)
    for index, (picture, size) in enumerate(zip(pictures(), sizes, strict=True)):
        alone = clip.visual(picture[None], method.taps)
        assert together[index].shape == size
        assert torch.equal(together[index], method.segment(alone, text_weights, [size])[0])
        own = method.regions(alone)
        h, w = alone.grid
        count = own.valid.shape[1]
        assert regions.valid[index].sum() == count
        assert torch.equal(regions.masks[index, :count, :h, :w], own.masks[0])
        assert regions.masks[index].sum() == h * w if count else True


def test_there_are_regions_to_vote(clip, text_weights):
    method = Cliptrase(clip.visual, eps=0.4, min_samples=2)
    features = clip.visual(pictures()[2][None], method.taps)
    assert method.regions(features).valid.sum() > 1
    canvas = [(64, 64)]
    voted = method.segment(features, text_weights, canvas)[0]
    plain = Cliptrase(clip.visual, classify="patches").segment(features, text_weights, canvas)[0]
    assert not torch.equal(voted, plain)


@pytest.mark.parametrize("classify", CLASSIFY)
def test_without_a_cluster_patches_decide(clip, text_weights, classify):
    nothing = Cliptrase(clip.visual, eps=1e-6, min_samples=9, classify=classify, cls_layer=-3)
    features = clip.visual(images(1, 40, 40), nothing.taps)
    plain = Cliptrase(clip.visual, classify="patches")
    assert nothing.regions(features).masks.shape == (1, 0, 5, 5)
    size = [(40, 40)]
    assert torch.equal(nothing.segment(features, text_weights, size)[0], plain.segment(features, text_weights, size)[0])


def test_background_words_become_the_class_after_the_last(clip):
    features = clip.visual(images(1, 64, 64), Cliptrase.taps)
    weights = clip.text(WORDS, templates="none", background=["wall", "shadow", "floor"])
    labels = Cliptrase(clip.visual, classify="patches").segment(features, weights, [(64, 64)], num_classes=3)[0]
    separate = Cliptrase(clip.visual, classify="patches").segment(features, weights, [(64, 64)])[0]
    assert separate.max() > 3
    assert torch.equal(labels, separate.clamp(max=3))


def test_surgery_changes_class_scores_and_only_those(clip, text_weights):
    features = clip.visual(pictures()[2][None], Cliptrase.taps)
    plain, changed = (Cliptrase(clip.visual, attention=name, classify="patches") for name in ("clip", "clip+surgery"))
    assert torch.equal(plain.dense(features), changed.dense(features))
    (scores,) = changed.scores(features, text_weights, [(64, 64)])
    torch.testing.assert_close(scores.sum(0), torch.zeros(64, 64), atol=1e-5, rtol=0)
    (before,) = plain.scores(features, text_weights, [(64, 64)])
    assert before.sum(0).abs().max() > 1e-2


def test_no_gradient_is_kept(clip):
    features = clip.visual(images(1).requires_grad_(), Cliptrase.taps)
    method = Cliptrase(clip.visual)
    assert features.tokens[2].requires_grad
    assert not method.dense(features).requires_grad
    assert not method.regions(features).masks.requires_grad


def test_mixed_precision_does_not_move_regions(clip):
    method = Cliptrase(clip.visual, eps=0.4, min_samples=2)
    features = clip.visual(pictures()[2][None], method.taps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (maps,) = method.maps(features)
    assert maps.dtype == torch.float32
    assert torch.equal(maps, method.maps(features)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = clip.visual(pictures()[2][None], method.taps)
        assert method.regions(half).masks.sum() == 64


def test_regions_of_several_radii_are_those_of_each_together(clip):
    method = Cliptrase(clip.visual, eps=0.4, min_samples=2)
    features = clip.visual(torch.stack([pictures()[2], pictures()[2].flip(2)]), method.taps)
    both = method.regions(features, (0.7, 1.4))
    for scale in (0.7, 1.4):
        alone = Cliptrase(clip.visual, eps=0.4 * scale, min_samples=2).regions(features)
        for image in range(2):
            found = {tuple(mask.flatten().tolist()) for mask in both.masks[image][both.valid[image]]}
            assert {tuple(mask.flatten().tolist()) for mask in alone.masks[image][alone.valid[image]]} <= found
    counts = [method.regions(features, (scale,)).valid.sum() for scale in (0.7, 1.4)]
    assert both.valid.sum() == sum(counts)


def test_bad_arguments(clip):
    with pytest.raises(ValueError, match="unknown attention rule 'x'"):
        Cliptrase(clip.visual, attention="x")
    with pytest.raises(ValueError, match="last 6 blocks"):
        Cliptrase(clip.visual, attention="clip_surgery")
    with pytest.raises(ValueError, match="1 block"):
        Cliptrase(ClipVisualEncoder(tiny_open_clip(layers=1).visual))


def test_the_radius_is_the_published_one_on_vit_b_16_and_found_in_the_picture_elsewhere():
    base = {"image_size": 64, "patch_size": 16, "layers": 12, "width": 48, "head_width": 4}
    rows = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    for changes, published in (({}, True), ({"layers": 24}, False), ({"patch_size": 8, "image_size": 32}, False)):
        method = Cliptrase(ClipVisualEncoder(tiny_open_clip(**{**base, **changes}).visual))
        side = 4 * method.visual.patch_size[0]
        features = method.visual(images(1, side, side), method.taps)
        eps, min_samples = default_clustering((4, 4))
        if not published:
            eps = core_radius(rows, features.valid, min_samples)
        assert torch.equal(method.cluster(rows, features), cluster_rows(rows, features.valid, eps, min_samples))
    assert eps != default_clustering((4, 4))[0]


def test_pictures_are_neither_one_region_nor_noise_on_a_tower_without_published_radii(clip):
    pictures_together, sizes = pad_together(pictures())
    features = clip.visual(pictures_together, Cliptrase.taps, sizes)
    method = Cliptrase(clip.visual)
    rows = suppress_global_patches(method.correlate(features), features.valid)
    for changed in (rows, 0.02 * rows):
        labels = method.cluster(changed, features)
        assert (labels.amax(1) > 0).all()
        noise = ((labels < 0) & features.valid).sum(1)
        assert (noise <= (0.1 * features.valid.sum(1)).ceil()).all()
