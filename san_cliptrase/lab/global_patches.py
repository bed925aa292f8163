"""How much of a block's attention goes to a few patches, whoever asks: CLIPtrase's global patches.

Shao et al., supplement of CLIPtrase, 2024, section A.1: "there are several global patches that have high attention
weights for any local patch in the image", and [CLS] reads the image through them.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAIR_SHARES = 4.0
"""A global patch receives at least so many times what it would if attention were spread evenly over the patches, ..."""
REACH = 0.5
"""... and at least this share of the patches gives it more than an even share: neighbours alone make none global."""
TOP = 0.05
"""The share of the patches whose part of all attention is told, whatever the threshold."""

MEASURES = (
    "global patches",
    "images with any",
    "strongest patch",
    "top 5 % receive",
    "entropy",
    "to [CLS]",
    "[CLS] to top 5 %",
)


def received_shares(attention: Tensor, valid: Tensor) -> Tensor:
    """Attention that each patch receives from all patches: ``m_j = L mean_i A[i, j]``, i and j over the L patches.

    Args:
        attention: (B, T, T), [CLS] first; columns of padded patches must be zero.
        valid: (B, L) bool, False at padded patches.

    Returns:
        (B, L) in fair shares: 1 everywhere if attention is even over the patches and none goes to [CLS]. Zero at
        padded patches.
    """
    givers = valid[:, :, None].to(attention)
    return (attention[:, 1:, 1:] * givers).sum(1)  # the mean over L patches, times L


def find_global_patches(
    attention: Tensor, valid: Tensor, fair_shares: float = FAIR_SHARES, reach: float = REACH
) -> Tensor:
    """Which patches are global: ``m_j >= fair_shares`` and ``mean_i [L A[i, j] > 1] >= reach``.

    Args:
        attention: See :func:`received_shares`.
        valid: Likewise.
        fair_shares: See :data:`FAIR_SHARES`.
        reach: See :data:`REACH`, in [0, 1].

    Returns:
        (B, L) bool.
    """
    count = valid.sum(1)[:, None]
    above = (attention[:, 1:, 1:] * count[:, :, None] > 1) & valid[:, :, None]
    reached = above.sum(1) / count
    return (received_shares(attention, valid) >= fair_shares) & (reached >= reach) & valid


def measure_attention(attention: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """How concentrated the attention of one block is, image by image.

    Args:
        attention: See :func:`received_shares`.
        valid: Likewise.

    Returns:
        :data:`MEASURES`, each (B,):
        the share of patches that are global, in percent; 100 if there is any, else 0;
        what the strongest patch receives, in fair shares;
        percent of what patches give to patches that goes to the 5 % (rounded, at least one patch) that receive most;
        ``-sum_j p_j ln(p_j) / ln(L)`` of the received attention p, normalised to 1, which is 1 if it is even;
        percent of the patches' attention that goes to [CLS];
        percent of what [CLS] gives to patches that goes to those same 5 %.
    """
    received, count = received_shares(attention, valid), valid.sum(1)
    spread = _normalised(received)
    top = _top(received, (TOP * count).round().clamp(min=1))
    to_cls = (attention[:, 1:, 0] * valid).sum(1) / count
    entropy = torch.special.entr(spread).sum(1) / count.clamp(min=2).to(spread).log()
    found = find_global_patches(attention, valid)
    values = (
        100 * found.sum(1) / count,
        100 * found.any(1).to(spread),
        received.amax(1),
        100 * (spread * top).sum(1),
        entropy,
        100 * to_cls,
        100 * (_normalised(attention[:, 0, 1:]) * top).sum(1),
    )
    return dict(zip(MEASURES, values, strict=True))


def _normalised(values: Tensor) -> Tensor:
    return values / values.sum(1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)


def _top(values: Tensor, count: Tensor) -> Tensor:
    """(B, L) bool: the ``count`` largest values of each row."""
    rank = values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < count[:, None]
