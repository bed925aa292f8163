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
    [
        ("clip", [(0, 1)]),
        ("sclip", [(0, 0), (1, 1)]),
        ("cliptrase", [(0, 0), (1, 1), (2, 2)]),
        ("clearclip", [(0, 0)]),
        ("naclip", [(1, 1)]),
        ("clip_surgery", [(2, 2)]),
        ("vq", [(2, 0)]),
        ("qk+vv+kq-mlp", [(0, 1), (2, 2), (1, 0)]),
    ],
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
    torch.testing.assert_close(attention_rule("v+kk")(*qkv), qkv[2] + weights(qkv[1], qkv[1]) @ qkv[2])


@pytest.mark.parametrize("name", sorted(ATTENTION_RULES))
def test_hidden_keys_have_no_influence(qkv, name):
    bias = torch.zeros(2, 1, 1, 5)
    bias[..., 4] = -torch.inf
    changed = tuple(t.clone() for t in qkv)
    for t in changed:
        t[:, :, 4] = 100.0
    before, after = (attention_rule(name)(*values, bias)[:, :, :4] for values in (qkv, changed))
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("clip", "qk"),
        ("maskclip", "v"),
        ("sclip", "qq+kk"),
        ("cliptrase", "qq+kk+vv"),
        ("clearclip", "qq-residual-mlp"),
        ("naclip", "kk+neighbours-residual-mlp"),
        ("clip_surgery", "vv-mlp+dual6+surgery"),
    ],
)
def test_a_name_stands_for_a_combination_and_can_begin_one(name, spelled):
    assert attention_rule(name) == attention_rule(spelled)
    assert attention_rule(f"{name}+qv") == attention_rule(f"{spelled}+qv")
    assert set(ATTENTION_RULES) >= {name}


def test_the_order_of_parts_does_not_matter():
    assert attention_rule("qq-mlp+neighbours+kk") == attention_rule("qq+kk+neighbours-mlp")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "clap",
            "unknown attention rule 'clap': it begins with 'clap'.*clearclip, clip, .*sclip.*qq.*did you mean clip",
        ),
        ("", "begins with ''"),
        ("-mlp+qq", "begins with ''"),
        ("qx+kk", "begins with 'qx'"),
        ("QQ", "begins with 'QQ'"),
        (
            "qq+kx",
            r"'qq\+kx': '\+kx' is none of -residual, -mlp, \+neighbours, \+cosine, \+truth, \+rcs, \+surgery, \+dualN",
        ),
        ("qq-residul", "'-residul' is none of .*did you mean -residual"),
        ("qq+mlp", r"'\+mlp' is none of .*did you mean -mlp"),
        ("qq-kk", "'-kk' is none of"),
        ("qq+", r"'\+' is none of"),
        ("qq + kk", "begins with 'qq '"),
        ("vv+dual0", r"'\+dual0' is none of"),
        ("qq+kk+qq", r"'\+qq' repeats"),
        ("clearclip-mlp", "'-mlp' repeats"),
        ("clip_surgery+dual3", r"'\+dual3' repeats"),
        ("maskclip+neighbours", r"'\+neighbours' changes nothing"),
    ],
)
def test_errors_point_at_the_part(text, message):
    with pytest.raises(ValueError, match=message):
        attention_rule(text)


@pytest.mark.parametrize("dtype", [torch.double, torch.float, torch.half])
def test_a_vector_without_a_direction_stays_without_one(qkv, dtype):
    q, k, v = (t.to(dtype).clone() for t in qkv)
    q[:, :, 2] = 0
    found = attention_rule("qq+cosine")(q, k, v)
    torch.testing.assert_close(found[:, :, 2], v.mean(2), atol=1e-2 if dtype == torch.half else 1e-6, rtol=0)
    assert found.isfinite().all()
