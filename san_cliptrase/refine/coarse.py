"""Scores on a coarser grid than the image's, and back, in strips of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.structures import Size

SCORES_AT_ONCE = 2**26


def pooled_strips(scores: Iterable[Tensor], cell: Size) -> Iterator[Tensor]:
    """Means (K, h, w) over cells of strips (K, rows, W); what is left over at the bottom and the right is dropped."""
    rest = None
    for strip in scores:
        rest = strip if rest is None else torch.cat([rest, strip], dim=1)
        full = rest.shape[1] - rest.shape[1] % cell[0]
        if full:
            pooled = F.avg_pool2d(rest[None, :, :full], cell, cell)[0]
            yield pooled.to(torch.promote_types(pooled.dtype, torch.float32))
        rest = rest[:, full:]


def resized_strips(maps: Tensor, size: Size) -> Iterator[Tensor]:
    """Maps (K, h, w) bilinearly at another size, in strips of rows."""
    if tuple(maps.shape[1:]) == size:
        yield maps
        return
    wide = F.interpolate(maps[None], size=(maps.shape[1], size[1]), mode="bilinear", align_corners=False)[0]
    place = (torch.arange(size[0], device=maps.device) + 0.5) * (maps.shape[1] / size[0]) - 0.5
    place = place.clamp(0, maps.shape[1] - 1)
    upper = place.long()
    lower, share = (upper + 1).clamp(max=maps.shape[1] - 1), (place - upper).to(maps.dtype)[:, None]
    rows = max(1, SCORES_AT_ONCE // (len(maps) * size[1]))
    for above, below, part in zip(upper.split(rows), lower.split(rows), share.split(rows), strict=True):
        yield torch.lerp(wide.index_select(1, above), wide.index_select(1, below), part)
