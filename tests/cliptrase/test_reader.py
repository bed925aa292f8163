import pytest
import torch

from san_cliptrase.clip.attention import ATTENTION_RULES
from san_cliptrase.cliptrase import RegionFinder, TrainingFreeReader
from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.cliptrase.voting import Background
from san_cliptrase.errors import OptionError, WeightsError
from san_cliptrase.regions.pixels import pixel_partition
from tests.clip.tiny import images, pad_together, tiny_clip
from tests.cliptrase.pictures import pictures
from tests.regions.given import GivenRegions

WORDS = ["grass", "water", "brick"]


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(interpolate_offset=0.1)


@pytest.fixture(scope="module")
def text_weights(clip):
    return clip.text(WORDS, templates="none")


@pytest.fixture(scope="module")
def finder(clip):
    return RegionFinder(clip.visual, eps=0.4, min_samples=2)


@pytest.fixture(scope="module")
def plain(clip):
    """Every pixel by itself."""
    return TrainingFreeReader(clip.visual, classify="patches")


# This tower has four blocks, fewer than the second path of CLIP Surgery.
RULES = (*sorted({*ATTENTION_RULES} - {"clip_surgery"}), "vv-mlp+dual3+surgery", "cliptrase+neighbours+surgery")


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("classify", [*CLASSIFY, "cls+patches", "pooled+mean_logits"])
def test_a_batch_gives_what_each_image_alone_gives(clip, text_weights, finder, name, classify):
    reader = TrainingFreeReader(clip.visual, finder, attention=name, classify=classify, cls_layer=-3)
    canvas, sizes = pad_together(pictures())
    taps = (*reader.taps, *finder.taps)
    batch = clip.visual(canvas, taps, sizes)
    together = reader.segment(batch, text_weights)
    regions = finder([], batch)
    for index, (picture, size) in enumerate(zip(pictures(), sizes, strict=True)):
        alone = clip.visual(picture[None], taps)
        assert together[index].shape == size
        assert torch.equal(together[index], reader.segment(alone, text_weights)[0])
        own = finder([], alone)
        h, w = alone.grid
        count = own.valid.shape[1]
        assert regions.valid[index].sum() == count
        assert torch.equal(regions.masks[index, :count, :h, :w], own.masks[0])
        assert regions.masks[index].sum() == h * w if count else True


def test_several_ways_to_classify_are_averaged(clip, text_weights, finder):
    def scores(classify):
        reader = TrainingFreeReader(clip.visual, finder, classify=classify, cls_layer=-3)
        features = clip.visual(pictures()[2][None], (*reader.taps, *finder.taps))
        (found,), (labels,) = reader.scores(features, text_weights), reader.segment(features, text_weights)
        assert torch.equal(found.argmax(0), labels)
        return found

    ways = ("cls", "patches", "pooled", "mean_logits")
    single = {name: scores(name) for name in ways}
    for combined in ("cls+patches", "patches+cls", "pooled+mean_logits", "+".join(ways)):
        expected = sum(single[name] for name in combined.split("+")) / (combined.count("+") + 1)
        torch.testing.assert_close(scores(combined), expected)


@pytest.mark.parametrize(
    ("classify", "message"),
    [
        ("cls+votes", "unknown way to classify regions 'votes'; choose one of: patches.*as cls.patches"),
        ("cls+", "unknown way to classify regions ''"),
        ("cls+cls", "twice in the same way"),
        ("vote+cls", "a vote stands alone"),
    ],
)
def test_ways_that_cannot_be_averaged_are_told(clip, finder, classify, message):
    with pytest.raises(OptionError, match=message):
        TrainingFreeReader(clip.visual, finder, classify=classify)


def test_there_are_regions_to_vote(clip, text_weights, finder, plain):
    reader = TrainingFreeReader(clip.visual, finder)
    features = clip.visual(pictures()[2][None], reader.taps)
    assert finder([], features).valid.sum() > 1
    assert not torch.equal(reader.segment(features, text_weights)[0], plain.segment(features, text_weights)[0])


@pytest.mark.parametrize("classify", CLASSIFY)
def test_without_a_cluster_patches_decide(clip, text_weights, plain, classify):
    nothing = RegionFinder(clip.visual, eps=1e-6, min_samples=9)
    reader = TrainingFreeReader(clip.visual, nothing, classify=classify, cls_layer=-3)
    features = clip.visual(images(1, 40, 40), (*reader.taps, *nothing.taps))
    assert nothing([], features).masks.shape == (1, 0, 5, 5)
    assert torch.equal(reader.segment(features, text_weights)[0], plain.segment(features, text_weights)[0])


def test_regions_of_pixels_vote_and_where_there_are_none_patches_decide(clip, text_weights, finder, plain):
    canvas, sizes = pad_together(pictures())
    features = clip.visual(canvas, (-2, -1), sizes)
    own = TrainingFreeReader(clip.visual, finder).segment(features, text_weights)
    same = GivenRegions(pixel_partition(finder([], features), features))
    given = TrainingFreeReader(clip.visual, same).segment(features, text_weights)
    assert all(torch.equal(a, b) for a, b in zip(own, given, strict=True))
    rows = [torch.arange(h)[:, None].expand(h, w) for h, w in sizes]
    by_row = TrainingFreeReader(clip.visual, GivenRegions(rows)).segment(features, text_weights)
    by_pixel = plain.segment(features, text_weights)
    for labels, pixels in zip(by_row, by_pixel, strict=True):
        assert torch.equal(labels, pixels.mode(dim=1, keepdim=True).values.expand_as(pixels))
    scores = TrainingFreeReader(clip.visual, GivenRegions([None, *rows[1:]])).scores(features, text_weights)
    assert torch.equal(next(scores).argmax(0), by_pixel[0])


def test_patches_need_no_regions_and_find_none(clip, text_weights, plain):
    class Never(GivenRegions):
        taps, needs_images, needs_labels, needs_batch = (-4,), True, True, True

        def __call__(self, *_):
            raise AssertionError

    reader = TrainingFreeReader(clip.visual, Never([]), classify="patches")
    assert reader.taps == plain.taps == (-1,)
    assert not (reader.needs_images or reader.needs_labels or reader.needs_batch)
    features = clip.visual(images(1), reader.taps)
    assert torch.equal(reader.segment(features, text_weights)[0], plain.segment(features, text_weights)[0])
    voting = TrainingFreeReader(clip.visual, Never([]))
    assert voting.taps == (-4, -1)
    assert voting.needs_images and voting.needs_labels and voting.needs_batch
    with pytest.raises(OptionError, match="'vote' needs a source of regions; 'patches' needs none"):
        TrainingFreeReader(clip.visual)


def test_background_words_become_the_class_after_the_last(clip, plain):
    features = clip.visual(images(1, 64, 64), plain.taps)
    weights = clip.text(WORDS, templates="none", background=["wall", "shadow", "floor"])
    labels = plain.segment(features, weights, background=Background(3))[0]
    separate = plain.segment(features, weights)[0]
    assert separate.max() > 3
    assert torch.equal(labels, separate.clamp(max=3))


def test_surgery_changes_class_scores_and_only_those(clip, text_weights):
    plain, changed = (
        TrainingFreeReader(clip.visual, attention=name, classify="patches") for name in ("clip", "clip+surgery")
    )
    features = clip.visual(pictures()[2][None], plain.taps)
    assert torch.equal(plain.dense(features), changed.dense(features))
    (scores,) = changed.scores(features, text_weights)
    torch.testing.assert_close(scores.sum(0), torch.zeros(64, 64), atol=1e-5, rtol=0)
    (before,) = plain.scores(features, text_weights)
    assert before.sum(0).abs().max() > 1e-2


def test_no_gradient_is_kept(clip, finder):
    features = clip.visual(images(1).requires_grad_(), (-2, -1))
    assert features.tokens[2].requires_grad
    assert not TrainingFreeReader(clip.visual, finder).dense(features).requires_grad
    assert not finder([], features).masks.requires_grad


def test_bad_arguments(clip, finder):
    with pytest.raises(ValueError, match="unknown attention rule 'x'"):
        TrainingFreeReader(clip.visual, finder, attention="x")
    with pytest.raises(ValueError, match="last 6 blocks"):
        TrainingFreeReader(clip.visual, finder, attention="clip_surgery")


BY_REGION = [name for name in CLASSIFY if name != "patches"]


@pytest.mark.parametrize("classify", BY_REGION)
def test_numbers_of_regions_do_not_matter_and_there_may_be_more_than_patches(
    clip, text_weights, finder, plain, classify
):
    canvas, sizes = pad_together(pictures())
    options = {"classify": classify, "cls_layer": -3}
    method = TrainingFreeReader(clip.visual, finder, **options)
    features = clip.visual(canvas, method.taps, sizes)
    own = pixel_partition(finder([], features), features)
    pixels = torch.arange(48 * 40).view(48, 40) // 9  # 214 regions on 6x5 patches
    reader, renumbered = (
        TrainingFreeReader(clip.visual, GivenRegions([first, None, own[2]]), **options)
        for first in (pixels, 10**12 - 7 * pixels)
    )
    found = renumbered.segment(features, text_weights)
    assert torch.equal(found[0], reader.segment(features, text_weights)[0])
    assert torch.equal(found[1], plain.segment(features, text_weights)[1])
    assert torch.equal(found[2], method.segment(features, text_weights)[2])
    assert all(len(region.unique()) == 1 for region in found[0].flatten()[:1917].split(9))
    for labels, scores in zip(found, renumbered.scores(features, text_weights), strict=True):
        assert torch.equal(scores.argmax(0), labels)


@pytest.mark.parametrize("classify", CLASSIFY)
def test_attention_inside_the_ground_truth_where_patches_have_no_label(clip, text_weights, finder, classify):
    rule = {"attention": "cliptrase+truth+cosine", "classify": classify, "cls_layer": -3}
    reader = TrainingFreeReader(clip.visual, finder, **rule)
    canvas, sizes = pad_together(pictures())
    features = clip.visual(canvas, reader.taps, sizes)
    truth = torch.arange(64).expand(3, -1) % 4 - 1  # one patch in four has no label
    truth = truth.where(features.valid, torch.tensor(-1))
    assert reader.dense(features, truth).isfinite().all()
    # A label map of one pixel a patch.
    together = reader.segment(features, text_weights, labels=list(truth.unflatten(1, features.grid)))
    for index, picture in enumerate(pictures()):
        alone = clip.visual(picture[None], reader.taps)
        own = truth[index][features.valid[index]].unflatten(0, alone.grid)
        assert torch.equal(together[index], reader.segment(alone, text_weights, labels=[own])[0])
    with pytest.raises(OptionError, match="image 0 of the batch has no label map"):
        reader.segment(features, text_weights)


def test_a_last_block_of_zeros_is_told_and_an_image_of_one_colour_is_not(text_weights):
    """Read without the residual path, such a block leaves the same at every patch, though CLIP itself still works."""
    clip = tiny_clip()
    reader = TrainingFreeReader(clip.visual, attention="clearclip", classify="patches")
    gray = torch.full((1, 3, 32, 32), 0.3)
    with torch.no_grad():
        reader.segment(clip.visual(gray, reader.taps), text_weights)
        clip.visual.blocks[-1].attn.out_proj.weight.zero_()
        with pytest.raises(WeightsError, match="the same at every patch of an image, though the patches are not"):
            reader.segment(clip.visual(images(1), reader.taps), text_weights)
        clip.visual.vision.conv1.weight.zero_()
        clip.visual.vision.positional_embedding.zero_()  # nothing tells the patches of such an image apart
        reader.segment(clip.visual(gray, reader.taps), text_weights)
