import math

import pytest
import torch

from san_cliptrase.clip.attention_maps import block_attention
from san_cliptrase.lab.global_patches import (
    find_global_patches,
    measure_attention,
    received_shares,
)
from tests.clip.tiny import images, pad_together, tiny_clip


def even(patches):
    """Everybody looks at all patches alike, and nobody at [CLS]."""
    attention = torch.full((1, 1 + patches, 1 + patches), 1 / patches)
    attention[:, :, 0] = 0
    return attention, torch.ones(1, patches, dtype=torch.bool)


def one_global(patches, share=0.5):
    """Everybody gives ``share`` to the last patch, the rest evenly to the others."""
    attention, valid = even(patches)
    attention[:, :, 1:] = (1 - share) / (patches - 1)
    attention[:, :, -1] = share
    return attention, valid


def numbers(measures):
    return {name: pytest.approx(value.item(), abs=1e-4) for name, value in measures.items()}


def test_even_attention_has_no_global_patch():
    attention, valid = even(20)
    torch.testing.assert_close(received_shares(attention, valid), torch.ones(1, 20))
    assert numbers(measure_attention(attention, valid)) == {
        "global patches": 0,
        "images with any": 0,
        "strongest patch": 1,
        "top 5 % receive": 5,
        "entropy": 1,
        "to [CLS]": 0,
        "[CLS] to top 5 %": 5,
    }


def test_a_patch_that_all_look_at_is_global():
    attention, valid = one_global(20)
    assert find_global_patches(attention, valid).nonzero().tolist() == [[0, 19]]
    entropy = -(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 19)) / math.log(20)
    expected = {"global patches": 5, "images with any": 100, "strongest patch": 10, "top 5 % receive": 50}
    expected |= {"entropy": entropy, "to [CLS]": 0, "[CLS] to top 5 %": 50}
    assert expected == numbers(measure_attention(attention, valid))


def test_a_patch_that_few_look_at_is_not_global_however_much_it_receives():
    attention, valid = even(20)
    attention[0, 1:9, 1:] = 0
    attention[0, 1:9, 20] = 1  # 8 of 20 patches look at nothing else
    assert received_shares(attention, valid)[0, 19] == pytest.approx(8 + 12 / 20)
    assert not find_global_patches(attention, valid).any()
    assert find_global_patches(attention, valid, reach=0.4).sum() == 1


def test_what_goes_to_cls_is_told_apart():
    attention, valid = one_global(20)
    attention *= 0.25
    attention[:, :, 0] = 0.75
    measures = numbers(measure_attention(attention, valid))
    assert measures["to [CLS]"] == 75
    assert (measures["strongest patch"], measures["top 5 % receive"]) == (2.5, 50)
    assert measures["global patches"] == 0


def test_padded_patches_count_for_nothing():
    attention, valid = one_global(20)
    padded = torch.zeros(1, 25, 25)
    padded[:, :21, :21] = attention
    padded[:, 21:, 1:21] = 1 / 20  # padding looks at something, but nobody is told
    mask = torch.arange(24)[None] < 20
    assert numbers(measure_attention(padded, mask)) == numbers(measure_attention(attention, valid))


def test_a_block_of_a_batch_attends_as_that_of_one_image():
    clip = tiny_clip()
    pictures = [images(1)[0], images(1, 24, 16)[0]]
    canvas, sizes = pad_together(pictures)
    features = clip.visual(canvas, [2], sizes)
    batch = measure_attention(block_attention(clip.visual, features, 2), features.valid)
    for row, picture in enumerate(pictures):
        alone = clip.visual(picture[None], [2])
        single = measure_attention(block_attention(clip.visual, alone, 2), alone.valid)
        for name, value in single.items():
            assert batch[name][row] == pytest.approx(value.item(), rel=1e-3), name
