"""Dense rules against their published equations, written out with loops over heads, tokens and blocks."""

import math

import pytest
import torch

from san_cliptrase.clip.attention import attention_rule
from san_cliptrase.clip.blocks import project_qkv
from san_cliptrase.clip.dense import dense_taps, neighbour_window, read_densely
from san_cliptrase.clip.visual import ClipVisualEncoder
from tests.clip.tiny import images, pad_together, tiny_open_clip


@pytest.fixture(scope="module")
def visual():
    encoder = ClipVisualEncoder(tiny_open_clip().double().visual)
    generator = torch.Generator().manual_seed(2)
    for block in encoder.blocks:  # all terms of the equations are there, and attention is far from uniform
        block.attn.in_proj_weight.mul_(4)
        for bias in (block.attn.in_proj_bias, block.attn.out_proj.bias, block.ln_1.bias, block.ln_2.bias):
            bias.copy_(torch.randn(bias.shape, generator=generator))
    return encoder


@pytest.fixture(scope="module")
def features(visual):
    return visual(images(2, 24, 40).double(), range(5))  # 3 x 5 patches


def naive_attention(block, x, pair, added=None):
    """``W_o softmax(a b^T / sqrt(d) + added) v + b`` of one image's tokens (T, C), one head and query at a time."""
    width = x.shape[-1]
    x = block.ln_1(x)
    found = {}
    for position, letter in enumerate("qkv"):
        rows = slice(position * width, (position + 1) * width)
        found[letter] = x @ block.attn.in_proj_weight[rows].T + block.attn.in_proj_bias[rows]
    size = width // block.attn.num_heads
    mixed = torch.zeros_like(x)
    for head in range(block.attn.num_heads):
        part = slice(head * size, (head + 1) * size)
        a, b, v = (found[letter][:, part] for letter in (*pair, "v"))
        for i in range(len(x)):
            logits = torch.stack([(a[i] * b[j]).sum() / math.sqrt(size) for j in range(len(x))])
            if added is not None:
                logits = logits + added[i]
            p = logits.exp() / logits.exp().sum()
            mixed[i, part] = sum(p[j] * v[j] for j in range(len(x)))
    return mixed @ block.attn.out_proj.weight.T + block.attn.out_proj.bias


def naive_mlp(block, x):
    return block.mlp(block.ln_2(x))


def naive_window(rows, columns, std=5.0):
    """Of NACLIP: a Gaussian around each patch's own place, nothing for [CLS]."""
    window = torch.zeros(1 + rows * columns, 1 + rows * columns, dtype=torch.double)
    for i in range(rows * columns):
        for j in range(rows * columns):
            down, right = i // columns - j // columns, i % columns - j % columns
            window[1 + i, 1 + j] = math.exp(-(down**2 + right**2) / (2 * std**2))
    return window


def test_clearclip_is_the_attention_output_alone(visual, features):
    expected = [naive_attention(visual.blocks[3], x, "qq") for x in features.tokens[3]]
    torch.testing.assert_close(read_densely(visual, features, attention_rule("clearclip")), torch.stack(expected))


def test_naclip_adds_a_gaussian_around_each_patch(visual, features):
    window = naive_window(3, 5)
    expected = torch.stack([naive_attention(visual.blocks[3], x, "kk", window) for x in features.tokens[3]])
    found = read_densely(visual, features, attention_rule("naclip"))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)  # the window is single precision
    without = read_densely(visual, features, attention_rule("kk-residual-mlp"))
    assert (found - without).abs().max() > 1e-3
    torch.testing.assert_close(found[:, 0], without[:, 0])  # [CLS] has no neighbours


@pytest.mark.parametrize("blocks", [1, 3, 4])
def test_clip_surgery_sums_v_v_attention_beside_the_original_path(visual, features, blocks):
    expected = []
    for image in range(2):
        x = features.tokens[4 - blocks][image]
        new = x
        for block in visual.blocks[4 - blocks :]:
            new = new + naive_attention(block, x, "vv")  # of the original path's tokens
            x = x + naive_attention(block, x, "qk")
            x = x + naive_mlp(block, x)
        expected.append(torch.cat([x[:1], new[1:]]))  # [CLS] is the original path's
    found = read_densely(visual, features, attention_rule(f"vv-mlp+dual{blocks}"))
    torch.testing.assert_close(found, torch.stack(expected))


def test_combinations_keep_what_is_not_taken_away(visual, features):
    block, x = visual.blocks[3], features.tokens[3][0]
    both = naive_attention(block, x, "qq", naive_window(3, 5)) + naive_attention(block, x, "vk", naive_window(3, 5))
    both = both - block.attn.out_proj.bias  # of one output projection
    expected = {
        "qq+vk+neighbours": x + both + naive_mlp(block, x + both),
        "qq+vk+neighbours-mlp": x + both,
        "qq+vk+neighbours-residual": both + naive_mlp(block, both),
    }
    for name, tokens in expected.items():
        found = read_densely(visual, features, attention_rule(name))[0]
        torch.testing.assert_close(found, tokens, atol=1e-6, rtol=1e-6)


def test_clip_itself_is_the_block_as_it_was_trained(visual, features):
    torch.testing.assert_close(read_densely(visual, features, attention_rule("clip")), features.tokens[4])


def test_the_window_is_one_at_a_patch_itself_and_equal_in_both_directions():
    torch.testing.assert_close(neighbour_window((3, 4)), naive_window(3, 4).float())


def naive_mix(q, k, v, allowed):
    """softmax(q_i . k_j / sqrt(d)) v_j over the tokens j that token i may see, one head."""
    mixed = torch.zeros_like(v)
    for i in range(len(q)):
        weights = {j: torch.exp(q[i] @ k[j] / len(q[i]) ** 0.5) for j in range(len(k)) if allowed(i, j)}
        mixed[i] = sum(w * v[j] for j, w in weights.items()) / sum(weights.values())
    return mixed


def test_cosines_compare_directions_at_the_mean_length():
    q, k, v = torch.randn(3, 1, 2, 4, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    found = attention_rule("qk+cosine")(q, k, v)
    for head in range(2):
        same = [t[0, head] / t[0, head].norm(dim=1, keepdim=True) * t[0, head].norm(dim=1).mean() for t in (q, k)]
        torch.testing.assert_close(found[0, head], naive_mix(*same, v[0, head], lambda i, j: True))


def test_the_ground_truth_hides_patches_of_other_classes(visual, features):
    classes = torch.full((1, features.valid.shape[1]), 2)
    classes[0, :5], classes[0, 5:8] = 1, -1
    block, tokens = visual.blocks[-1], features.tokens[visual.depth - 1]
    q, k, v = project_qkv(block, tokens)
    of = [None, *classes[0].tolist()]

    def allowed(i, j):
        return i == 0 or j == 0 or of[i] == -1 or of[i] == of[j]

    mixed = torch.stack([naive_mix(q[0, m], k[0, m], v[0, m], allowed) for m in range(q.shape[1])])
    expected = block.attn.out_proj(mixed.transpose(0, 1).flatten(1))
    found = read_densely(visual, features, attention_rule("qk+truth-residual-mlp"), classes)[0]
    torch.testing.assert_close(found, expected)


def test_the_ground_truth_must_be_given(visual, features):
    with pytest.raises(ValueError, match="no label maps"):
        read_densely(visual, features, attention_rule("qk+truth"))


@pytest.mark.parametrize(
    "name", ["qq+vk+cosine", "naclip", "cliptrase+neighbours", "vv-mlp+dual3", "kk+neighbours+dual2-residual"]
)
def test_a_padded_batch_gives_what_each_image_alone_gives(visual, name):
    rule = attention_rule(name)
    alone = [images(1, 40, 24)[0], images(1, 17, 50)[0], images(1, 32, 32)[0]]
    canvas, sizes = pad_together(alone)
    batch = visual(canvas.double(), dense_taps(visual, rule), sizes)
    together = read_densely(visual, batch, rule)
    for index, picture in enumerate(alone):
        single = visual(picture[None].double(), dense_taps(visual, rule))
        expected = read_densely(visual, single, rule)[0]
        own = together[index, 1:][batch.valid[index]]
        torch.testing.assert_close(together[index, 0], expected[0])
        torch.testing.assert_close(own, expected[1:])


def test_more_blocks_than_the_tower_has(visual):
    with pytest.raises(ValueError, match=r"last 6 blocks, but this tower has 4.*\+dual4"):
        dense_taps(visual, attention_rule("clip_surgery"))


@pytest.mark.parametrize("name", ["cliptrase", "naclip", "qk+cosine+neighbours", "vv-mlp+dual3", "sclip+truth"])
def test_mixed_precision_keeps_the_type_of_the_tokens(name):
    tower = ClipVisualEncoder(tiny_open_clip().visual)
    canvas, sizes = pad_together([images(1, 40, 24)[0], images(1, 17, 50)[0]])
    given = tower(canvas, range(5), sizes)
    classes = torch.arange(given.valid.shape[1]).expand(2, -1) % 3 - 1
    exact = read_densely(tower, given, attention_rule(name), classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = read_densely(tower, given, attention_rule(name), classes)
    assert found.dtype == exact.dtype
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0.05)
