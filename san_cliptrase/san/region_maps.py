"""Regions on the side adapter's grid, one row per query."""

from __future__ import annotations

import torch.nn.functional as F

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


def resize_regions(regions: Regions, grid: tuple[int, int]) -> Regions:
    """Bring regions to another grid, bilinearly: masks (B, Q, h, w) -> (B, Q, *grid)."""
    return Regions(F.interpolate(regions.masks, size=grid, mode="bilinear", align_corners=False), regions.valid)
