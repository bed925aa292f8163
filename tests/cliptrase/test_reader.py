import pytest
import torch

from san_cliptrase.clip.attention import ATTENTION_RULES
from san_cliptrase.cliptrase import Cliptrase
from san_cliptrase.cliptrase.classify import CLASSIFY
from tests.clip.tiny import images, pad_together, tiny_clip
from tests.cliptrase.pictures import pictures

WORDS = ["grass", "water", "brick"]


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(interpolate_offset=0.1)


@pytest.fixture(scope="module")
def text_weights(clip):
    return clip.text(WORDS, templates="none")


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


def test_regions_of_another_source_take_the_place_of_its_own(clip, text_weights):
    method = Cliptrase(clip.visual, eps=0.4, min_samples=2)
    canvas, sizes = pad_together(pictures())
    features = clip.visual(canvas, method.taps, sizes)
    own = method.segment(features, text_weights, sizes)
    given = method.segment(features, text_weights, sizes, regions=method.partitions(features, sizes))
    assert all(torch.equal(a, b) for a, b in zip(own, given, strict=True))
    rows = [torch.arange(h)[:, None].expand(h, w) for h, w in sizes]
    plain = Cliptrase(clip.visual, classify="patches").segment(features, text_weights, sizes)
    for labels, pixels in zip(method.segment(features, text_weights, sizes, regions=rows), plain, strict=True):
        assert torch.equal(labels, pixels.mode(dim=1, keepdim=True).values.expand_as(pixels))
    scores = method.scores(features, text_weights, sizes, regions=[None, *rows[1:]])
    assert torch.equal(next(scores).argmax(0), plain[0])


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


def test_bad_arguments(clip):
    with pytest.raises(ValueError, match="unknown attention rule 'x'"):
        Cliptrase(clip.visual, attention="x")
    with pytest.raises(ValueError, match="last 6 blocks"):
        Cliptrase(clip.visual, attention="clip_surgery")


BY_REGION = [name for name in CLASSIFY if name != "patches"]


@pytest.mark.parametrize("classify", BY_REGION)
def test_numbers_of_given_regions_do_not_matter_and_there_may_be_more_than_patches(clip, text_weights, classify):
    method = Cliptrase(clip.visual, eps=0.4, min_samples=2, classify=classify, cls_layer=-3)
    canvas, sizes = pad_together(pictures())
    features = clip.visual(canvas, method.taps, sizes)
    own = method.partitions(features, sizes)
    pixels = torch.arange(48 * 40).view(48, 40) // 9  # 214 regions on 6x5 patches
    given = [10**12 - 7 * pixels, None, own[2]]
    found = method.segment(features, text_weights, sizes, regions=given)
    plain = Cliptrase(clip.visual, classify="patches").segment(features, text_weights, sizes)
    assert torch.equal(found[0], method.segment(features, text_weights, sizes, regions=[pixels, None, own[2]])[0])
    assert torch.equal(found[1], plain[1])
    assert torch.equal(found[2], method.segment(features, text_weights, sizes)[2])
    assert all(len(region.unique()) == 1 for region in found[0].flatten()[:1917].split(9))
    for labels, scores in zip(found, method.scores(features, text_weights, sizes, regions=given), strict=True):
        assert torch.equal(scores.argmax(0), labels)


def test_given_regions_have_the_size_of_their_image(clip, text_weights):
    features = clip.visual(images(1, 32, 32), Cliptrase.taps)
    with pytest.raises(ValueError, match=r"regions of \(16, 32\) pixels.*image of \(32, 32\)"):
        Cliptrase(clip.visual).segment(features, text_weights, [(32, 32)], regions=[torch.zeros(16, 32).long()])


@pytest.mark.parametrize("classify", CLASSIFY)
def test_attention_inside_the_ground_truth_where_patches_have_no_label(clip, text_weights, classify):
    rule = {"attention": "cliptrase+truth+cosine", "classify": classify, "cls_layer": -3}
    method = Cliptrase(clip.visual, eps=0.4, min_samples=2, **rule)
    canvas, sizes = pad_together(pictures())
    features = clip.visual(canvas, method.taps, sizes)
    truth = torch.arange(64).expand(3, -1) % 4 - 1  # one patch in four has no label
    truth = truth.where(features.valid, torch.tensor(-1))
    assert method.dense(features, truth).isfinite().all()
    together = method.segment(features, text_weights, sizes, true_classes=truth)
    for index, picture in enumerate(pictures()):
        alone = clip.visual(picture[None], method.taps)
        own = truth[index][features.valid[index]][None]
        assert torch.equal(
            together[index], method.segment(alone, text_weights, sizes[index : index + 1], true_classes=own)[0]
        )
