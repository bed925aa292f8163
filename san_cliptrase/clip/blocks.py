"""One frozen CLIP transformer block, run under any attention rule.

The functions read a block's parameters by their names (``ln_1``, ``attn.in_proj_weight``, ``attn.out_proj``, ``ls_1``,
``ln_2``, ``mlp``, ``ls_2``), which have been the same in every open_clip release, and never call its forward.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from san_cliptrase.clip.attention import AttentionRule, softmax_attention


def project_qkv(block: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project tokens to the queries, keys and values with which the block would attend.

    ``[q; k; v] = W ln_1(x) + b``, cut into heads.

    Args:
        block: A residual attention block of open_clip.
        tokens: (B, T, C), the tokens entering the block.

    Returns:
        q, k, v, each (B, M, T, d).
    """
    return _project(block, tokens, 0)


def project_kv(block: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The keys and values of :func:`project_qkv` alone, for tokens that are only looked at: k, v, each (B, M, T, d)."""
    return _project(block, tokens, 1)


def _project(block: nn.Module, tokens: Tensor, first: int) -> tuple[Tensor, ...]:
    """Queries, keys and values from the ``first`` of the three on."""
    attn = block.attn
    x = block.ln_1(tokens)
    count, width = 3 - first, tokens.shape[-1]
    bias = None if attn.in_proj_bias is None else attn.in_proj_bias[first * width :]
    if attn.in_proj_weight is not None:
        projected = F.linear(x, attn.in_proj_weight[first * width :], bias).chunk(count, dim=-1)
    else:
        weights = (attn.q_proj_weight, attn.k_proj_weight, attn.v_proj_weight)[first:]
        biases = (None,) * count if bias is None else bias.chunk(count)
        projected = tuple(F.linear(x, w, b) for w, b in zip(weights, biases, strict=True))
    return tuple(p.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for p in projected)


def attention_output(
    block: nn.Module,
    tokens: Tensor,
    attend: AttentionRule = softmax_attention,
    bias: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """What a block's attention adds to the tokens: ``ls_1(W_o mix(q, k, v))``.

    Args:
        block: See :func:`run_block`, and ``tokens``, ``attend``, ``bias``.
        first: The first of q, k, v that the rule reads; those before it are not computed, and None.

    Returns:
        (B, T, C)
    """
    return project_output(block, attend(*[None] * first, *_project(block, tokens, first), bias))


def project_output(block: nn.Module, mixed: Tensor) -> Tensor:
    """Mixed values (B, M, T, d) of a block's heads, joined and projected: ``ls_1(W_o mix + b)``, (B, T, C)."""
    return block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))


def mlp_output(block: nn.Module, tokens: Tensor) -> Tensor:
    """What a block's feed-forward part adds to the tokens: ``ls_2(mlp(ln_2(x)))``, (B, T, C)."""
    return block.ls_2(block.mlp(block.ln_2(tokens)))


def run_block(
    block: nn.Module, tokens: Tensor, attend: AttentionRule = softmax_attention, bias: Tensor | None = None
) -> Tensor:
    """Run one block with its own weights under the given attention rule.

    ``x = x + ls_1(W_o mix(q, k, v)); x = x + ls_2(mlp(ln_2(x)))``

    Args:
        block: A residual attention block of open_clip.
        tokens: (B, T, C), the tokens entering the block.
        attend: Rule ``(q, k, v, bias) -> (B, M, T, d)``; the default is the block as it was trained.
        bias: Additive attention bias, broadcastable to (B, M, T, T), -inf at keys to hide, or None.

    Returns:
        (B, T, C), the tokens leaving the block.
    """
    tokens = tokens + attention_output(block, tokens, attend, bias)
    return tokens + mlp_output(block, tokens)
