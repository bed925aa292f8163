"""Each way to find a region's class against its equation, on hand-made numbers."""

import pytest
import torch
import torch.nn.functional as F

from san_cliptrase.clip.blocks import run_block
from san_cliptrase.cliptrase import TrainingFreeReader
from san_cliptrase.cliptrase.classify import CLASSIFY, embed_regions, mean_logits
from san_cliptrase.cliptrase.voting import Background, patch_logits
from san_cliptrase.structures import ClipFeatures
from tests.clip.tiny import images, tiny_clip
from tests.regions.given import GivenRegions

HALVES = torch.zeros(32, 32, dtype=torch.int64)
HALVES[:, 13:] = 1  # the second column of patches has five columns of pixels of region 0, three of 1
BY_REGION = [name for name in CLASSIFY if name != "patches"]


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


@pytest.fixture(scope="module")
def text(clip):
    return clip.text(["grass", "water", "brick"], templates="none")


def halves(clip, classify, partition=HALVES, cls_layer=-3, **options):
    """A reader whose regions are given, and features of one image."""
    source = GivenRegions([partition])
    reader = TrainingFreeReader(clip.visual, source, classify=classify, cls_layer=cls_layer, **options)
    return reader, clip.visual(images(1), reader.taps)


def test_mean_of_the_logits_of_pixels():
    logits = torch.tensor([[[1.0, 2.0, 9.0]], [[4.0, 0.0, 3.0]]])
    assert mean_logits(logits, torch.tensor([[0, 0, 2]])).tolist() == [[1.5, 0, 9], [2, 0, 3]]


def test_a_mean_may_decide_against_the_majority(monkeypatch, clip):
    # Three quarters of the pixels slightly for class 0, one strongly for class 1.
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.0], [0.4, 0.4, 0.4, 0.9]]).repeat_interleave(8, dim=1)
    monkeypatch.setattr("san_cliptrase.cliptrase.reader.pixel_logits", lambda *_: scores[:, None].expand(-1, 32, -1))
    found = {}
    for name in ("patches", "vote", "mean_logits"):
        reader, features = halves(clip, name, torch.zeros_like(HALVES))
        found[name] = reader.segment(features, torch.eye(16)[:2])[0][0, ::8].tolist()
    assert found == {"patches": [0, 0, 0, 1], "vote": [0, 0, 0, 0], "mean_logits": [1, 1, 1, 1]}


def test_pooled_is_the_mean_of_the_dense_features(clip):
    features = ClipFeatures({}, (1, 3), torch.ones(1, 3, dtype=torch.bool), ((2, 6),), (2, 2))
    dense = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    masks = torch.tensor([[[True, True, False], [False, False, True]]])
    found = embed_regions(clip.visual, features, dense, masks, 0)
    expected = torch.tensor([[[0.5**0.5, 0.5**0.5], [-1.0, 0.0]]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("blocks", [1, 3])
def test_cls_of_a_region_is_a_copy_in_one_masked_sequence(clip, text, blocks):
    """The copy is the last token of the sequence: it sees itself and the region, and no other token sees it."""
    reader, features = halves(clip, "cls", cls_layer=-blocks)
    (scores,) = reader.scores(features, text)
    for region, columns in ((0, [1, 1, 0, 0]), (1, [0, 0, 1, 1])):
        bias = torch.zeros(18, 18)
        bias[:17, 17] = bias[17, 0] = -torch.inf
        bias[17, 1:17] = torch.tensor(columns * 4).float().log()
        tokens = features.tokens[4 - blocks]
        tokens = torch.cat([tokens, tokens[:, :1]], dim=1)
        for block in clip.visual.blocks[4 - blocks :]:
            tokens = run_block(block, tokens, bias=bias)
        expected = F.normalize(clip.visual.head(tokens)[0, 17], dim=-1) @ text.T
        inside = scores[:, region == HALVES]
        torch.testing.assert_close(inside, expected[:, None].expand_as(inside))


@pytest.mark.parametrize("prior", [False, True])
def test_a_region_of_everything_seen_by_cls_is_clips_class_of_the_image(clip, text, prior):
    whole_image = torch.zeros_like(HALVES)
    reader, features = halves(clip, "cls", whole_image, cls_layer=-1, cls_prior=prior)
    (scores,) = reader.scores(features, text)
    whole = F.normalize(clip.visual.head(clip.visual(images(1), [4]).tokens[4])[:, :1], dim=-1)
    both = torch.cat([reader.dense(features)[:, :1], whole], dim=1)
    torch.testing.assert_close(scores[:, 0, 0], patch_logits(both, text, prior)[0, 0])


@pytest.mark.parametrize("classify", BY_REGION)
def test_all_pixels_of_a_region_are_of_one_class_and_scores_agree(clip, text, classify):
    reader, features = halves(clip, classify)
    labels = reader.segment(features, text)[0]
    (scores,) = reader.scores(features, text)
    assert scores.shape == (3, 32, 32)
    assert torch.equal(scores.argmax(0), labels)
    assert all(len(labels[region == HALVES].unique()) == 1 for region in (0, 1))


@pytest.mark.parametrize("classify", BY_REGION)
def test_background_of_regions(clip, text, classify):
    reader, features = halves(clip, classify)
    named = reader.segment(features, text)[0]
    words = reader.segment(features, text, background=Background(1))[0]
    if classify != "vote":  # there, background words are one class before the vote
        assert torch.equal(words, named.clamp(max=1))
    for threshold, expected in ((0.01, named), (0.999, torch.full_like(named, 3))):
        background = Background(3, threshold, scale=10.0)
        assert torch.equal(reader.segment(features, text, background=background)[0], expected)


def test_bad_arguments(clip):
    with pytest.raises(ValueError, match="'max'; choose one of: patches, vote, mean_logits, pooled, cls"):
        TrainingFreeReader(clip.visual, GivenRegions([]), classify="max")
    for layer in (-5, 4):
        with pytest.raises(ValueError, match=f"block {layer} .*CLS_LAYER.* has 4 blocks; choose -4 to -1"):
            TrainingFreeReader(clip.visual, GivenRegions([]), classify="cls", cls_layer=layer)
    for name in {*CLASSIFY} - {"cls"}:
        # CLS_LAYER is deeper than this tower, but without a meaning here.
        TrainingFreeReader(clip.visual, GivenRegions([]), classify=name)
