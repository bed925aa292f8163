"""From queries and patches of the side adapter to mask logits and attention biases."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from san_cliptrase.san.side_adapter import SideTokens


class MaskPrediction(NamedTuple):
    """Masks that one block of the side adapter predicts, before recognition.

    Attributes:
        mask_logits: (B, Q, h', w') before the sigmoid, on the side adapter's grid.
        attn_bias: (B, S, M, Q, h', w'), added to the attention logits of query q's [SOS] token over the patches, in
            S = 1 set shared by CLIP's last blocks, or one set per block; M = 1 is shared by all heads.
        votes: (B, Q, L), how much each of CLIP's patches says in the class of query q, beside its [SOS] token, see
            ``RegionPrior``; None: nothing.
    """

    mask_logits: Tensor
    attn_bias: Tensor
    votes: Tensor | None = None


def mlp(in_width: int, width: int, out_width: int, layers: int = 3) -> nn.Sequential:
    """Linear layers with ReLU between them, acting on the last dimension."""
    widths = [in_width] + [width] * (layers - 1) + [out_width]
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        parts += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class MaskDecoder(nn.Module):
    """Inner products of projected queries with projected patches (Xu et al., "SAN", 2023, section 3.2).

    ``mask_logits = f(q) . g(x)`` and ``attn_bias = a (f(q) . k(x)) + b`` with three MLPs f, g, k; k gives one
    vector per head and set, a and b are scalars.

    Args:
        width: C', channels of the side adapter.
        embed_dim: Width of the space in which the products are taken.
        heads: M, heads of CLIP's blocks, or 1.
        bias_sets: S, 1 or the number of CLIP blocks that recognise.
    """

    def __init__(self, width: int = 240, embed_dim: int = 256, heads: int = 12, bias_sets: int = 1) -> None:
        super().__init__()
        self.embed_dim, self.heads = embed_dim, heads
        self.query_mlp = mlp(width, embed_dim, embed_dim)
        self.pixel_mlp = mlp(width, embed_dim, embed_dim)
        self.attn_mlp = mlp(width, embed_dim, embed_dim * heads * bias_sets)
        self.bias_scaling = nn.Linear(1, 1)
        self._attn_shape = (bias_sets, heads, embed_dim)

    def forward(self, tokens: SideTokens) -> MaskPrediction:
        """Decode what left one block of the side adapter."""
        queries = self.query_mlp(tokens.queries)
        pixels = self.pixel_mlp(tokens.patches)
        mask_logits = torch.einsum("bqc,blc->bql", queries, pixels)
        attn_bias = self.bias_scaling(self._attn_products(queries, tokens.patches).unsqueeze(-1)).squeeze(-1)
        return MaskPrediction(mask_logits.unflatten(-1, tokens.grid), attn_bias.unflatten(-1, tokens.grid))

    def _attn_products(self, queries: Tensor, patches: Tensor) -> Tensor:
        """``f(q) . k(x)`` for each head and set, (B, S, M, Q, L).

        The last layer of k, ``W h + b``, is applied to the queries, ``(W^T f(q)) . h + f(q) . b``: there are usually
        fewer of them than patches, and the vectors k(x) of all heads are never kept.
        """
        hidden, last = self.attn_mlp[:-1](patches), self.attn_mlp[-1]
        weight, bias = (part.unflatten(0, self._attn_shape) for part in (last.weight, last.bias))
        towards = torch.einsum("bqc,smch->bsmqh", queries, weight)
        offset = torch.einsum("bqc,smc->bsmq", queries, bias)
        return torch.einsum("bsmqh,blh->bsmql", towards, hidden) + offset.unsqueeze(-1)
