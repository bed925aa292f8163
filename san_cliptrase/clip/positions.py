"""Positional embeddings for patch grids that the model was not trained at."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.structures import Size


def interpolate_positions(embedding: Tensor, native: Size, grid: Size, offset: float = 0.0) -> Tensor:
    """Resample a learned positional embedding to another patch grid, bicubically.

    Args:
        embedding: (native_h * native_w, C), without the [CLS] row.
        native: Grid it was trained at.
        grid: Grid wanted.
        offset: 0 aligns the corners of both grids exactly. Otherwise the sampling step is that of a grid ``offset``
            larger (DINO's and DINOv2's ``interpolate_offset``, 0.1 there and in CLIPtrase).

    Returns:
        (C, h, w)
    """
    maps = embedding.T.unflatten(1, native)
    if grid == native:
        return maps
    kwargs: dict = {"size": grid}
    if offset:
        kwargs = {"scale_factor": tuple((g + offset) / n for g, n in zip(grid, native, strict=True))}
    return F.interpolate(maps[None].float(), mode="bicubic", align_corners=False, **kwargs)[0].to(maps.dtype)
