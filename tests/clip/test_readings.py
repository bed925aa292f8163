"""Methods that read several blocks: their steps, towers of every depth, padding, and their names."""

import pytest
import torch
import torch.nn.functional as F

from san_cliptrase.clip.attention import attention_rule
from san_cliptrase.clip.cliper import Cliper
from san_cliptrase.clip.dense import dense_taps, read_densely
from san_cliptrase.clip.depth import same_share
from san_cliptrase.clip.layers import grid_by_grid
from san_cliptrase.clip.readings import READINGS, dense_reading
from san_cliptrase.clip.scclip import STEPS, ScClip, blocks_of, find_outliers, outlier_factor, repair
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.errors import OptionError
from tests.clip.tiny import images, pad_together, tiny_open_clip

NAMES = ("scclip", "cliper", "pearl", "resclip", "cliptrase+rcs", *(f"scclip-{step}" for step in STEPS))


@pytest.fixture(scope="module")
def visual():
    encoder = ClipVisualEncoder(tiny_open_clip(layers=6).double().visual)
    for block in encoder.blocks:  # attention is far from uniform
        block.attn.in_proj_weight.mul_(4)
    return encoder


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_batch_gives_what_each_image_alone_gives(visual, name):
    rule = dense_reading(name)
    alone = [images(1, 56, 40)[0], images(1, 40, 64)[0], images(1, 40, 61)[0], images(1, 48, 48)[0]]
    canvas, sizes = pad_together(alone)
    taps = dense_taps(visual, rule)
    batch = visual(canvas.double(), taps, sizes)
    together = read_densely(visual, batch, rule)
    for index, image in enumerate(alone):
        expected = read_densely(visual, visual(image[None].double(), taps), rule)[0]
        torch.testing.assert_close(together[index, 0], expected[0])
        torch.testing.assert_close(together[index, 1:][batch.valid[index]], expected[1:])


def test_every_step_of_scclip_does_something(visual):
    features = visual(images(1, 56, 64).double(), range(7))
    whole = read_densely(visual, features, ScClip())
    for step in STEPS:
        rule = dense_reading(f"scclip-{step}")
        assert (read_densely(visual, features, rule) - whole).abs().max() > 1e-4, step
        needed = visual(images(1, 56, 64).double(), dense_taps(visual, rule))
        torch.testing.assert_close(read_densely(visual, needed, rule), read_densely(visual, features, rule))


def test_taps_are_those_that_are_read(visual):
    taps = {name: [tap % 6 for tap in dense_taps(visual, dense_reading(name))] for name in ("scclip", "resclip")}
    assert taps == {"scclip": [2, 3, 4, 5], "resclip": [2, 3, 4, 5]}
    assert dense_taps(visual, dense_reading("scclip-gather-similar-levels")) == (2, 5)
    assert dense_taps(visual, dense_reading("cliper")) == (0, 1, 2, 3, 4, 5)
    assert dense_taps(visual, dense_reading("pearl")) == (-1,)


def test_scclips_cls_is_that_of_clip(visual):
    features = visual(images(1, 56, 64).double(), range(7))
    torch.testing.assert_close(read_densely(visual, features, ScClip())[:, 0], features.tokens[6][:, 0])


def test_block_numbers_on_other_towers():
    assert [same_share(block, 12) for block in (4, 6, 9, 10)] == [4, 6, 9, 10]
    assert [same_share(block, 24) for block in (4, 9, 10)] == [7, 17, 19]
    assert blocks_of(24).levels == (9, 19) and blocks_of(24).cls == 0.1  # the authors' own
    assert blocks_of(6)[:3] == (5, 2, (2, 5))
    for depth in range(3, 49):
        blocks = blocks_of(depth)
        assert 1 <= blocks.regather < blocks.similar < depth
        assert 1 <= blocks.levels[0] <= blocks.levels[1] < depth


@pytest.mark.parametrize(("name", "layers", "needed"), [("scclip", 2, 3), ("cliper", 1, 2), ("resclip", 1, 2)])
def test_a_tower_with_too_few_blocks_is_told_how_many_are_needed(name, layers, needed):
    small = ClipVisualEncoder(tiny_open_clip(layers=layers).visual)
    with pytest.raises(OptionError, match=rf"needs a tower of {needed} or more, but this one has {layers}"):
        dense_taps(small, dense_reading(name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sccip", "a name .*cliper.*scclip.*did you mean scclip"),
        ("scclip-level", "'-level' is not a part of 'scclip': -repair, .*did you mean -levels"),
        ("scclip+kk", r"'\+kk' is not a part of 'scclip'"),
        ("scclip-cls-cls", "'-cls' repeats"),
        ("cliper-cls", "'-cls' is not a part of 'cliper': it has no parts"),
        ("resclip+rcs", r"'\+rcs' repeats"),
    ],
)
def test_errors_point_at_the_part(text, message):
    with pytest.raises(OptionError, match=message):
        dense_reading(text)


def test_names_of_rules_stay_rules():
    assert dense_reading("sclip-mlp") == attention_rule("qq+kk-mlp")
    assert dense_reading("scclip") == READINGS["scclip"] == ScClip()


def test_outliers_are_far_from_their_neighbours_and_get_the_mean_of_sound_ones():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(1, 49, 8, generator=generator, dtype=torch.double)
    patches[0, [0, 24, 25]] += 30
    outliers = find_outliers(patches)
    assert outliers[0].nonzero()[:, 0].tolist() == [0, 24, 25]
    repaired = repair(patches, outliers, (7, 7))
    around = [16, 17, 18, 23, 30, 31, 32]  # of patch 24 at (3, 3), without 25
    torch.testing.assert_close(repaired[0, 24], patches[0, around].mean(0))
    torch.testing.assert_close(repaired[0, 0], patches[0, [1, 7, 8]].mean(0))
    torch.testing.assert_close(repaired[0, 1:24], patches[0, 1:24])
    torch.testing.assert_close(repair(patches, torch.ones_like(outliers), (7, 7)), patches)


def test_the_outlier_factor_of_equal_patches_is_one():
    torch.testing.assert_close(outlier_factor(torch.ones(1, 40, 3)), torch.ones(1, 40))
    assert outlier_factor(torch.ones(1, 1, 3)).tolist() == [[1.0]]


def test_cliper_scores_words_at_every_level(visual):
    features = visual(images(1, 56, 64).double(), range(6))
    text = F.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(3), dtype=torch.double), dim=-1)
    levels, fused = Cliper().levels(visual, features)
    shares = []
    for tokens in levels:
        cosines = F.normalize(visual.head(tokens), dim=-1)[0, 1:] @ text.T
        shares.append(torch.stack([(100 * row).exp() / (100 * row).exp().sum() for row in cosines]))
    for word in range(3):
        column = shares[-1][:, word]
        column[column < 0.2 * column.max()] = 0
    expected = sum(shares) / 6 + torch.stack(
        [sum(fused[0, 1 + j, 1 + i] * shares[-1][j] for j in range(56)) for i in range(56)]
    )
    torch.testing.assert_close(Cliper().scores(visual, features, text)[0, 1:], expected)


def test_heads_one_after_the_other_change_nothing(visual, monkeypatch):
    features = visual(images(1, 56, 64).double(), range(6))
    together = Cliper().levels(visual, features)
    monkeypatch.setattr("san_cliptrase.clip.cliper.VALUES_AT_ONCE", 1)
    torch.testing.assert_close(Cliper().levels(visual, features), together)


def test_a_batch_without_padding_is_read_at_once(visual):
    features = visual(images(2, 56, 64).double(), (5,))
    calls = []

    def read(own):
        calls.append(len(own.sizes))
        return own.tokens[5]

    assert torch.equal(grid_by_grid(features, read), features.tokens[5])
    assert calls == [2]


@pytest.mark.parametrize("name", ["scclip", "cliper", "pearl", "resclip"])
def test_mixed_precision_keeps_the_type_of_the_tokens(name):
    tower = ClipVisualEncoder(tiny_open_clip(layers=6).visual)
    features = tower(images(2, 56, 64), range(7))
    exact = read_densely(tower, features, dense_reading(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = read_densely(tower, features, dense_reading(name))
    assert found.dtype == exact.dtype
    torch.testing.assert_close(found, exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", ["scclip", "cliper", "pearl", "resclip"])
@pytest.mark.parametrize("size", [(8, 8), (8, 48), (16, 16)])
def test_the_smallest_images(visual, name, size):
    rule = dense_reading(name)
    found = read_densely(visual, visual(torch.zeros(1, 3, *size, dtype=torch.double), dense_taps(visual, rule)), rule)
    assert found.isfinite().all()
