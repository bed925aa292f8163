import pytest
import torch
import torch.nn.functional as F

from san_cliptrase.regions.correlation import correlation_rule, self_correlation, suppress_global_patches


def qkv(dtype=torch.double):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, 5, 4, generator=generator, dtype=dtype) for _ in range(3))


def test_is_the_mean_cosine_over_projections_and_heads():
    cosines = [F.cosine_similarity(t[:, :, :, None], t[:, :, None], dim=-1) for t in qkv()]
    torch.testing.assert_close(self_correlation(*qkv()), torch.cat(cosines, dim=1).mean(dim=1))


def test_is_symmetric_with_ones_on_the_diagonal_whatever_the_scale():
    q, k, v = qkv()
    correlation = self_correlation(q, k, v)
    torch.testing.assert_close(correlation, correlation.transpose(1, 2))
    torch.testing.assert_close(correlation.diagonal(dim1=1, dim2=2), torch.ones(2, 5, dtype=torch.double))
    torch.testing.assert_close(self_correlation(9 * q, k / 3, v), correlation)


def test_suppression_subtracts_the_cls_row():
    correlation = torch.tensor([[[1.0, 0.3, 0.1], [0.3, 1.0, 0.5], [0.1, 0.5, 1.0]]])
    rows = suppress_global_patches(correlation, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(rows, torch.tensor([[[0.7, 0.4], [0.2, 0.9]]]))


def test_suppression_has_no_negatives_and_no_padding():
    correlation = self_correlation(*qkv())
    correlation[:, 0, 1:] = 0.5
    valid = torch.tensor([[True, True, True, False], [True] * 4])
    rows = suppress_global_patches(correlation, valid)
    assert rows.min() == 0
    assert rows[0, 3].eq(0).all()
    assert rows[0, :, 3].eq(0).all()
    assert rows[1].diagonal().gt(0).all()


def test_heads_side_by_side_are_one_cosine_of_whole_vectors():
    q, k, v = qkv()
    expected = torch.zeros(2, 5, 5, dtype=torch.double)
    for image in range(2):
        for i in range(5):
            for j in range(5):
                a, b = ([t[image, :, n].flatten() for t in (q, k, v)] for n in (i, j))
                cosines = [x @ y / (x.norm() * y.norm()) for x, y in zip(a, b, strict=True)]
                expected[image, i, j] = sum(cosines) / 3
    torch.testing.assert_close(correlation_rule("cosine_concatenated")(q, k, v), expected)


def test_heads_of_equal_length_correlate_alike_in_both_variants():
    q, k, v = (F.normalize(t, dim=-1) for t in qkv())
    torch.testing.assert_close(correlation_rule("cosine_concatenated")(q, k, v), self_correlation(q, k, v))


def test_inner_products_are_the_mean_of_scaled_attention_logits():
    q, k, v = qkv()
    logits = [torch.einsum("bmid,bmjd->bmij", t, t) / 2 for t in (q, k, v)]  # sqrt(d) = 2
    torch.testing.assert_close(correlation_rule("inner_product")(q, k, v), torch.cat(logits, dim=1).mean(1))


def test_an_unknown_correlation_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'dot'.*cosine, cosine_concatenated, inner_product"):
        correlation_rule("dot")
