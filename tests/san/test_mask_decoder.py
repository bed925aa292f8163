import torch

from san_cliptrase.san.mask_decoder import MaskDecoder
from san_cliptrase.san.side_adapter import SideTokens


def test_masks_are_inner_products_and_the_bias_has_its_own_per_set_and_head():
    torch.manual_seed(0)
    decoder = MaskDecoder(width=8, embed_dim=4, heads=3, bias_sets=2)
    tokens = SideTokens(torch.randn(2, 5, 8), torch.randn(2, 6, 8), (2, 3))
    masks, bias, _ = decoder(tokens)
    assert masks.shape == (2, 5, 2, 3)
    assert bias.shape == (2, 2, 3, 5, 2, 3)
    query, patch = tokens.queries[1, 4], tokens.patches[1, 5]
    torch.testing.assert_close(masks[1, 4, 1, 2], decoder.query_mlp(query) @ decoder.pixel_mlp(patch))
    key = decoder.attn_mlp(patch).reshape(2, 3, 4)[1, 2]
    expected = decoder.bias_scaling((decoder.query_mlp(query) @ key)[None])[0]
    torch.testing.assert_close(bias[1, 1, 2, 4, 1, 2], expected)
