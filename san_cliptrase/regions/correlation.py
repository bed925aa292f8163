"""Semantic correlation recovery: which patches of an image belong together, before CLIP's global patches blur it.

Shao et al., "Explore the potential of CLIP for training-free open vocabulary semantic segmentation" (CLIPtrase), 2024.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.errors import OptionError


def self_correlation(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """How alike the tokens of one block are to each other, by their queries, keys and values.

    ``w = 1 / (3 M) sum_heads [cos(q, q) + cos(k, k) + cos(v, v)]`` (supplement of CLIPtrase, eqs. 1 to 3). The mean of
    the cosines is one matrix product of the concatenated unit vectors.

    Args:
        q: (B, M, T, d), and ``k``, ``v`` likewise; see ``clip.blocks.project_qkv``.

    Returns:
        (B, T, T) in [-1, 1], symmetric, with ones on the diagonal.
    """
    return _mean_product(F.normalize(torch.cat([q, k, v], dim=1), dim=-1))


def concatenated_correlation(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The efficient variant: one cosine each of whole queries, keys and values, their heads side by side.

    ``w = 1/3 [cos(q, q) + cos(k, k) + cos(v, v)]`` with ``q = concat(q_0 ... q_M-1)`` (supplement, eqs. 4 to 6). A
    head weighs by how long its vectors are. As :func:`self_correlation` is one matrix product too, it costs the same.

    Args:
        q, k, v: see :func:`self_correlation`, whose range the result has.
    """
    whole = torch.stack([t.transpose(1, 2).flatten(2) for t in (q, k, v)], dim=1)
    return _mean_product(F.normalize(whole, dim=-1))


def inner_product_correlation(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The control of the supplement's table 1: inner products in place of cosines, which have no bounds.

    ``w = 1 / (3 M sqrt(d)) sum_heads [q q^T + k k^T + v v^T]``

    Args:
        q, k, v: see :func:`self_correlation`.

    Returns:
        (B, T, T), symmetric, of any size.
    """
    return _mean_product(torch.cat([q, k, v], dim=1)) / q.shape[-1] ** 0.5


def _mean_product(vectors: Tensor) -> Tensor:
    """(B, T, T), the mean over S of the inner products of vectors (B, S, T, d), as one matrix product."""
    flat = vectors.transpose(1, 2).flatten(2)
    return flat @ flat.transpose(1, 2) / vectors.shape[1]


CORRELATIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cosine": self_correlation,
    "cosine_concatenated": concatenated_correlation,
    "inner_product": inner_product_correlation,
}


def correlation_rule(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Look a correlation up by its name.

    Raises:
        OptionError: The name is not a key of ``CORRELATIONS``; the message lists those.
    """
    if name not in CORRELATIONS:
        raise OptionError(f"unknown correlation {name!r}; choose one of: {', '.join(CORRELATIONS)}")
    return CORRELATIONS[name]


def suppress_global_patches(correlation: Tensor, valid: Tensor) -> Tensor:
    """Subtract from every patch's row what the [CLS] token correlates with, which is where global patches show.

    ``rows[i, j] = relu(w[i, j] - w[cls, j])``

    Args:
        correlation: (B, T, T), see ``self_correlation``.
        valid: (B, L) bool, False at padded patches.

    Returns:
        (B, L, L), >= 0, zero in the rows and columns of padded patches.
    """
    rows = F.relu(correlation[:, 1:, 1:] - correlation[:, :1, 1:])
    return rows * (valid[:, :, None] & valid[:, None, :])
