"""Bilinear resizing in strips of rows: many masks or classes at a photograph's size do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.structures import Size

VALUES_AT_ONCE = 2**22
"""Values of a strip, where the caller does not say how many rows it has."""


def strip_rows(values_per_row: int) -> int:
    """Rows of a strip of at most ``VALUES_AT_ONCE``."""
    return max(1, VALUES_AT_ONCE // values_per_row)


def resize_in_strips(maps: Tensor, output: Size, rows: int) -> Iterator[Tensor]:
    """Maps (C, h, w) resized as ``F.interpolate`` does without aligned corners, in strips (C, <= rows, W) from the top.

    The strips of one map are equal to the whole up to rounding, because rows and columns are interpolated one after
    the other.

    Args:
        maps: floating point, or bool, which is taken as 0 and 1.
        output: (H, W) wanted.
        rows: of a strip.
    """
    height, width = maps.shape[-2:]
    # What is read for each row of the output.
    place = ((torch.arange(output[0], device=maps.device) + 0.5) * (height / output[0]) - 0.5).clamp(0, height - 1)
    upper = place.floor().long()
    lower, share = (upper + 1).clamp(max=height - 1), (place - upper)[:, None]
    for start in range(0, output[0], rows):
        strip = slice(start, start + rows)
        above, below = maps.index_select(1, upper[strip]), maps.index_select(1, lower[strip])
        if maps.dtype == torch.bool:
            above, below = above.float(), below.float()
        lines = torch.lerp(above, below, share[strip].to(above.dtype))
        if output[1] != width:
            wide = (lines.shape[1], output[1])
            lines = F.interpolate(lines[None], size=wide, mode="bilinear", align_corners=False)[0]
        yield lines
