"""Attention rules by name: what a frozen CLIP block does with its own queries, keys and values.

A rule maps ``(q, k, v, bias)`` to the mixed values. ``q, k, v`` are (B, M, T, d); ``bias`` is added to the attention
logits, broadcastable to (B, M, T, T) with -inf at keys that must not be seen, or None. The rule returns (B, M, T, d).
In the equations below ``A(a, b) = softmax(a b^T / sqrt(d) + bias)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

AttentionRule = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``A(q, k) v``: CLIP as it was trained (Vaswani et al., "Attention is all you need", 2017, eq. 1)."""
    mask = None if bias is None else bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def value_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``v``: every token keeps its own value (Zhou et al., "Extract free dense labels from CLIP", 2022, sec. 3.2)."""
    return v


def qq_kk_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``(A(q, q) + A(k, k)) v``: correlative self-attention (Wang et al., "SCLIP", 2024, eq. 4)."""
    return softmax_attention(q, q, v, bias) + softmax_attention(k, k, v, bias)


def qq_kk_vv_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``(A(q, q) + A(k, k) + A(v, v)) v``: CLIPtrase's last block (Shao et al., 2024). A sum: its rows add up to 3."""
    return qq_kk_attention(q, k, v, bias) + softmax_attention(v, v, v, bias)


ATTENTION_RULES: dict[str, AttentionRule] = {
    "clip": softmax_attention,
    "maskclip": value_attention,
    "sclip": qq_kk_attention,
    "cliptrase": qq_kk_vv_attention,
}


def attention_rule(name: str) -> AttentionRule:
    """Look an attention rule up by its name.

    Raises:
        ValueError: The name is not a key of ``ATTENTION_RULES``; the message lists those.
    """
    try:
        return ATTENTION_RULES[name]
    except KeyError:
        known = ", ".join(sorted(ATTENTION_RULES))
        raise ValueError(f"unknown attention rule {name!r}; choose one of: {known}") from None
