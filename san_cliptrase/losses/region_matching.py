"""One-to-many matching of queries with true masks by the regions that the queries start from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.losses.targets import MaskTarget
from san_cliptrase.structures import Regions


@torch.no_grad()
def match_regions(regions: Regions, targets: Sequence[MaskTarget], purity: float = 0.5) -> list[tuple[Tensor, Tensor]]:
    """Pair every query with the true mask that covers most of its region.

    A query that lies on a class is a positive of that class also where one-to-one matching has given the class to
    another query: regions split classes, and repeated ones share them.

    Args:
        regions: one per query, masks (B, Q, h, w) on the canvas of the targets; see ``assign_regions``.
        targets: One per image.
        purity: Least share of the region that the true mask must cover.

    Returns:
        Per image (queries, target masks), both int64 and of the same length; queries without a region or on a region
        of mixed content are left out.
    """
    pairs = []
    for masks, valid, target in zip(regions.masks, regions.valid, targets, strict=True):
        if not len(target.labels):
            empty = torch.zeros(0, dtype=torch.int64, device=masks.device)
            pairs.append((empty, empty))
            continue
        true = F.adaptive_avg_pool2d(target.masks[None].to(masks), masks.shape[-2:])[0]
        covered = masks.flatten(1) @ true.flatten(1).T / masks.flatten(1).sum(1, keepdim=True).clamp(min=1e-6)
        share, found = covered.max(dim=1)
        queries = ((share > purity) & valid).nonzero()[:, 0]
        pairs.append((queries, found[queries]))
    return pairs
