"""Mask average pooling: one feature per region."""

from __future__ import annotations

import torch
from torch import Tensor

from san_cliptrase.structures import Regions


def mask_average_pool(features: Tensor, regions: Regions) -> Tensor:
    """Average a feature map over each region.

    ``f_n = sum_p m_np x_p / sum_p m_np`` (Shao et al., CLIPtrase, 2024, supplement B.3).

    Args:
        features: (B, C, h, w) on the grid of the regions. Gradient flows through it.
        regions: N regions per image.

    Returns:
        (B, N, C), zero for absent regions.

    Raises:
        ValueError: The feature map lies on another grid than the regions.
    """
    grid = regions.masks.shape[-2:]
    if features.shape[-2:] != grid:
        raise ValueError(f"features on a {tuple(features.shape[-2:])} grid, regions on {tuple(grid)}")
    # Divided first: sums over many patches could overflow in half precision.
    return pooling_weights(regions, features.dtype) @ features.flatten(2).transpose(1, 2)


def pooling_weights(regions: Regions, dtype: torch.dtype) -> Tensor:
    """The weight of each patch in the mean over each region, ``m_np / sum_p m_np``: (B, N, L), zero for absent ones."""
    masks = regions.masks.to(dtype).flatten(2)
    areas = masks.sum(dim=2, keepdim=True)
    return masks / areas.masked_fill(areas == 0, 1)
