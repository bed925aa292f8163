"""PEARL's attention: keys rotated towards queries by an orthogonal factor, with a share of key-key attention.

After arXiv 2603.21528 (2026), as its published code computes it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 5
"""Newton-Schulz steps. They stop far from the orthogonal factor; the published rule is these five."""
KEY_SHARE = 0.08
"""How much key-key attention counts beside query-key attention."""


def polar_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``softmax((q (k_c R)^T + 0.08 k_c k_c^T) / sqrt(d) + bias) v``, every head by itself.

    The centres of queries and keys, ``m_q = sum_i w_i q_i`` and ``m_k = sum_i w_i k_i``, weigh patches by ``|q_i|``;
    [CLS] does not count. ``q_c = q - m_q``, ``k_c = k - m_k``, and R comes from ``k_c^T q_c``, see
    :func:`damped_rotation`.

    Args:
        q, k, v: (B, M, T, d), [CLS] first.
        bias: See ``AttentionRule``; tokens that it hides from [CLS] are padding and count nowhere.

    Returns:
        (B, M, T, d) in the type of ``v``.
    """
    with torch.autocast(v.device.type, enabled=False):  # an inverse square root needs more than half precision
        exact = torch.promote_types(v.dtype, torch.float32)
        queries, keys = q.to(exact), k.to(exact)
        shown = torch.ones_like(queries[..., :1]) if bias is None else bias[..., 0, :, None].isfinite().to(exact)
        weights = queries.norm(dim=-1, keepdim=True) * shown
        weights = torch.cat([torch.zeros_like(weights[:, :, :1]), weights[:, :, 1:]], dim=2)
        weights = weights / (weights.sum(2, keepdim=True) + 1e-6)
        queries_c, keys_c = (x - (weights * x).sum(2, keepdim=True) for x in (queries, keys))
        rotated = keys_c @ damped_rotation((keys_c * shown).transpose(-2, -1) @ queries_c)
        share = KEY_SHARE**0.5
        left = torch.cat([queries, share * keys_c], dim=-1).to(v.dtype)
        right = torch.cat([rotated, share * keys_c], dim=-1).to(v.dtype)
    mask = None if bias is None else bias.to(v.dtype)
    return F.scaled_dot_product_attention(left, right, v, attn_mask=mask, scale=q.shape[-1] ** -0.5)


def damped_rotation(matrix: Tensor) -> Tensor:
    """``M (M^T M)^(-1/2)`` after five Newton-Schulz steps: (..., d, d) to (..., d, d).

    ``Y = G / |G| + 1e-6 I`` with ``G = M^T M`` and its Frobenius norm, ``Z = I``; five times
    ``T = (3 I - Z Y) / 2, Y = Y T, Z = T Z``; then ``M Z / sqrt(|G|)``.
    """
    gram = matrix.transpose(-2, -1) @ matrix
    norm = torch.linalg.matrix_norm(gram, keepdim=True).clamp(min=torch.finfo(gram.dtype).tiny)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    y, z = gram / norm + 1e-6 * identity, identity
    for _ in range(STEPS):
        step = (3 * identity - z @ y) / 2
        y, z = y @ step, step @ z
    return matrix @ z / norm.sqrt()
