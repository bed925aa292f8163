"""Regions on the side adapter's grid, one row per query."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from san_cliptrase.structures import Regions


def assign_regions(regions: Regions, num_queries: int, repeat: bool = False) -> Regions:
    """Give each query its region: largest area first, the smallest dropped if there are more than queries.

    Args:
        regions: (B, N, h, w) in any order; a region without area counts as absent.
        num_queries: Q.
        repeat: Where an image has fewer regions than queries, go round again, so that query q gets region q mod N;
            else the queries beyond N have none.

    Returns:
        Regions with N = Q, without gradient; row q belongs to query q. Equal areas keep their order.
    """
    masks = regions.masks.detach() * regions.valid[..., None, None]
    area = masks.flatten(2).sum(-1)
    order = area.argsort(dim=1, descending=True, stable=True)
    if repeat:
        turns = torch.arange(num_queries, device=area.device) % (area > 0).sum(1, keepdim=True).clamp(min=1)
        order = order.gather(1, turns) if masks.shape[1] else order
    masks = masks.gather(1, order[:, :num_queries, None, None].expand(-1, -1, *masks.shape[-2:]))
    masks = F.pad(masks, (0, 0, 0, 0, 0, num_queries - masks.shape[1]))
    return Regions(masks=masks, valid=masks.flatten(2).sum(-1) > 0)


def resize_regions(regions: Regions, grid: tuple[int, int]) -> Regions:
    """Bring regions to another grid, bilinearly: masks (B, Q, h, w) -> (B, Q, *grid)."""
    return Regions(F.interpolate(regions.masks, size=grid, mode="bilinear", align_corners=False), regions.valid)
