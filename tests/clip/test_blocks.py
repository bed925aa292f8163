import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock

from san_cliptrase.clip.blocks import project_qkv, run_block


@pytest.fixture
def tokens():
    return torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))


def make_block(**options):
    torch.manual_seed(1)
    block = ResidualAttentionBlock(32, 2, **options).eval()
    torch.nn.init.normal_(block.attn.in_proj_bias)
    return block


@pytest.mark.parametrize("options", [{}, {"act_layer": QuickGELU}, {"ls_init_value": 0.3}])
def test_default_rule_is_the_block_itself(tokens, options):
    block = make_block(**options)
    torch.testing.assert_close(run_block(block, tokens), block(tokens))


def test_bias_is_the_blocks_attention_mask(tokens):
    block = make_block()
    mask = torch.full((5, 5), -torch.inf).triu(1)
    torch.testing.assert_close(run_block(block, tokens, bias=mask), block(tokens, attn_mask=mask))


def test_separate_projections_equal_the_joint_one(tokens):
    block = make_block()
    joint = project_qkv(block, tokens)
    attn = block.attn
    for name, weight in zip("qkv", attn.in_proj_weight.chunk(3), strict=True):
        setattr(attn, f"{name}_proj_weight", torch.nn.Parameter(weight.detach()))
    attn.in_proj_weight = None
    for a, b in zip(joint, project_qkv(block, tokens), strict=True):
        assert a.shape == (2, 2, 5, 16)
        torch.testing.assert_close(a, b)


def test_the_rule_decides_what_is_mixed(tokens):
    block = make_block()
    with torch.no_grad():
        block.attn.out_proj.weight.zero_()
    # Nothing gets through the output projection, so no rule can make a difference.
    torch.testing.assert_close(run_block(block, tokens, lambda q, k, v, bias: v), run_block(block, tokens))
    block = make_block()
    assert not torch.allclose(run_block(block, tokens, lambda q, k, v, bias: v), run_block(block, tokens))


def test_gradient_reaches_the_tokens_through_a_frozen_block(tokens):
    block = make_block().requires_grad_(False)
    tokens.requires_grad_()
    run_block(block, tokens).sum().backward()
    assert tokens.grad.abs().min() > 0


def test_works_on_a_whole_open_clip_tower(tokens):
    transformer = open_clip.transformer.Transformer(32, 3, 2).eval()
    x = tokens
    for block in transformer.resblocks:
        x = run_block(block, x)
    torch.testing.assert_close(x, transformer(tokens))
