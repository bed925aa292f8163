import pytest
import torch

from san_cliptrase.clip.attention import ATTENTION_RULES, attention_rule


@pytest.fixture
def qkv():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.double) for _ in range(3))


def weights(a, b, bias=0.0):
    return (a @ b.transpose(-1, -2) / a.shape[-1] ** 0.5 + bias).softmax(dim=-1)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [("clip", [(0, 1)]), ("sclip", [(0, 0), (1, 1)]), ("cliptrase", [(0, 0), (1, 1), (2, 2)])],
)
def test_rules_are_sums_of_softmax_attention(qkv, name, pairs):
    bias = torch.linspace(-1, 1, 25, dtype=torch.double).view(1, 1, 5, 5)
    expected = sum(weights(qkv[a], qkv[b], bias) for a, b in pairs) @ qkv[2]
    torch.testing.assert_close(attention_rule(name)(*qkv, bias), expected)


def test_cliptrase_rows_add_up_to_three(qkv):
    q, k, v = qkv
    ones = torch.ones_like(v)
    # The values are ones but still distinct as queries and keys of the third term, which is uniform for them.
    torch.testing.assert_close(attention_rule("cliptrase")(q, k, ones, None), 3 * ones)


def test_maskclip_keeps_each_tokens_own_value(qkv):
    assert attention_rule("maskclip")(*qkv, None) is qkv[2]


@pytest.mark.parametrize("name", sorted(ATTENTION_RULES))
def test_hidden_keys_have_no_influence(qkv, name):
    bias = torch.zeros(2, 1, 1, 5)
    bias[..., 4] = -torch.inf
    changed = tuple(t.clone() for t in qkv)
    for t in changed:
        t[:, :, 4] = 100.0
    before, after = (attention_rule(name)(*values, bias)[:, :, :4] for values in (qkv, changed))
    torch.testing.assert_close(before, after)


def test_unknown_rule_names_the_known_ones():
    with pytest.raises(ValueError, match="'clap'.*clip, cliptrase, maskclip, sclip"):
        attention_rule("clap")
