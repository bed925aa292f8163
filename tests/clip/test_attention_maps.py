import torch

from san_cliptrase.clip.attention_maps import attention_weights


def test_attention_weights_are_those_that_mix_the_values():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 5, 4)
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    weights = torch.nn.functional.scaled_dot_product_attention(q, k, torch.eye(5).expand(2, 2, 5, 5))
    torch.testing.assert_close(weights @ v, mixed)
    torch.testing.assert_close(attention_weights(q, k), weights.mean(1))
