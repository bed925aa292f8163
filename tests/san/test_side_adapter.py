import dataclasses

import pytest
import torch

from tests.san import tiny


def test_one_output_per_supervised_block_on_the_image_grid(clip):
    san = tiny.tiny_san()
    pixels = tiny.images(height=32, width=48)
    outputs = san.adapter(pixels, tiny.encode(clip, pixels, san))
    assert [(o.queries.shape, o.patches.shape, o.grid) for o in outputs] == [
        ((2, tiny.QUERIES, tiny.WIDTH), (2, 96, tiny.WIDTH), (8, 12))
    ] * 2


def test_every_fused_tap_and_no_other_reaches_the_output(clip):
    san = tiny.tiny_san()
    pixels = tiny.images()
    features = tiny.encode(clip, pixels, san)
    leaves = {tap: tokens.detach().requires_grad_() for tap, tokens in features.tokens.items()}
    final = san.adapter(pixels, dataclasses.replace(features, tokens=leaves))[-1]
    final.queries.sum().backward()
    assert [tap for tap, tokens in leaves.items() if tokens.grad is not None] == [0, 1, 2]
    for tap in (0, 1, 2):
        assert leaves[tap].grad[:, 1:].abs().sum() > 0
        assert leaves[tap].grad[:, :1].abs().sum() == 0, "[CLS] is not fused"


def test_every_parameter_is_trained(clip):
    san = tiny.tiny_san()
    pixels = tiny.images()
    sum(
        masks.square().mean() + bias.square().mean() for masks, bias, _ in san(pixels, tiny.encode(clip, pixels, san))
    ).backward()
    assert [name for name, p in san.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_position_is_added_before_every_block_but_not_to_the_output():
    adapter = tiny.tiny_adapter(fusion={}, supervised=(1, 3))
    for block in adapter.blocks:
        for part in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(part.weight)
    first, last = adapter(tiny.images().float(), features=None)
    # With idle blocks the queries only collect their position: once before each block.
    torch.testing.assert_close(first.queries[0], (adapter.query_embed + adapter.query_pos_embed)[0])
    torch.testing.assert_close(last.queries[0], (adapter.query_embed + 3 * adapter.query_pos_embed)[0])


def test_image_that_does_not_divide_into_patches_is_refused(clip):
    san = tiny.tiny_san()
    with pytest.raises(ValueError, match=r"32x30 pixels.*pad them to a multiple of 4"):
        san.adapter(tiny.images(width=30), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": {9: 0}}, r"SIDE\.FUSION names blocks \[9\].*0 to 3"),
        ({"supervised": (1, 2)}, r"SIDE\.SUPERVISED.*3 is one of them"),
        ({"width": 25}, "no multiple of MODEL.SAN.SIDE.HEADS 2"),
        ({"image_size": 30}, "no multiple of MODEL.SAN.SIDE.PATCH_SIZE 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.tiny_adapter(**changes)
