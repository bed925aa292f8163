"""Semantic correlation recovery: which patches of an image belong together, before CLIP's global patches blur it.

Shao et al., "Explore the potential of CLIP for training-free open vocabulary semantic segmentation" (CLIPtrase), 2024.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def self_correlation(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """How alike the tokens of one block are to each other, by their queries, keys and values.

    ``w = 1 / (3 M) sum_heads [cos(q, q) + cos(k, k) + cos(v, v)]`` (supplement of CLIPtrase, eqs. 1 to 3). The mean of
    the cosines is one matrix product of the concatenated unit vectors.

    Args:
        q: (B, M, T, d), and ``k``, ``v`` likewise; see ``clip.blocks.project_qkv``.

    Returns:
        (B, T, T) in [-1, 1], symmetric, with ones on the diagonal.
    """
    units = F.normalize(torch.cat([q, k, v], dim=1), dim=-1)
    flat = units.transpose(1, 2).flatten(2)
    return flat @ flat.transpose(1, 2) / units.shape[1]


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
