"""Regions on the side adapter's grid, one row per query."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.structures import Regions


def assign_regions(regions: Regions, num_queries: int) -> Regions:
    """Give each query its region: largest area first, the smallest dropped if there are more than queries.

    Args:
        regions: (B, N, h, w) in any order; a region without area counts as absent.
        num_queries: Q.

    Returns:
        Regions with N = Q, without gradient; row q belongs to query q. Equal areas keep their order.
    """
    masks = regions.masks.detach() * regions.valid[..., None, None]
    order = masks.flatten(2).sum(-1).argsort(dim=1, descending=True, stable=True)[:, :num_queries]
    masks = masks.gather(1, order[..., None, None].expand(-1, -1, *masks.shape[-2:]))
    masks = F.pad(masks, (0, 0, 0, 0, 0, num_queries - masks.shape[1]))
    return Regions(masks=masks, valid=masks.flatten(2).sum(-1) > 0)


def resize_masks(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring region masks to another grid, bilinearly: (B, Q, h, w) -> (B, Q, *grid)."""
    return F.interpolate(masks, size=grid, mode="bilinear", align_corners=False)


def mean_over_regions(maps: Tensor, regions: Regions) -> Tensor:
    """Mean of a map over every region, ``sum_p m_p x_p / sum_p m_p``; zero where there is no region.

    Args:
        maps: (B, D, h', w').
        regions: (B, Q, h, w), resized to (h', w').

    Returns:
        (B, Q, D)
    """
    weights = resize_masks(regions.masks.to(maps.dtype), maps.shape[-2:]).flatten(2)
    area = weights.sum(-1, keepdim=True)
    return (weights / area.masked_fill(area == 0, 1)) @ maps.flatten(2).transpose(1, 2)
