"""Positional embeddings for patch grids that the model was not trained at."""

from __future__ import annotations

import torch
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
    if offset and torch.compiler.is_compiling():  # ONNX would keep the scale of the grid that was exported with
        return _sampled_positions(maps, grid, offset)
    kwargs: dict = {"size": grid}
    if offset:
        kwargs = {"scale_factor": tuple((g + offset) / n for g, n in zip(grid, native, strict=True))}
    return F.interpolate(maps[None].float(), mode="bicubic", align_corners=False, **kwargs)[0].to(maps.dtype)


def _sampled_positions(maps: Tensor, grid: Size, offset: float) -> Tensor:
    """:func:`interpolate_positions` of maps (C, native_h, native_w) at points that are computed from the grid."""
    pairs = [(torch.full((), wanted), native) for wanted, native in zip(grid, maps.shape[1:], strict=True)]
    same = torch.stack([wanted == native for wanted, native in pairs]).all()
    points = []
    for wanted, (size, native) in zip(grid, pairs, strict=True):
        step = native / (size + torch.where(same, 0.0, offset))  # nothing is resampled to the grid of the training
        points.append((torch.arange(wanted, device=maps.device) + 0.5) * step * (2 / native) - 1)
    rows, columns = (part.to(torch.float32) for part in torch.meshgrid(*points, indexing="ij"))
    points = torch.stack([columns, rows], dim=-1)[None]
    found = F.grid_sample(maps[None].float(), points, mode="bicubic", padding_mode="border", align_corners=False)
    return found[0].to(maps.dtype)
