"""From cluster labels to regions: smooth maps, a partition of the pixels, and masks on the patch grid.

Images of one batch may have different grids, so what belongs to one image is one tensor of a list.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.ndimage import median_filter
from torch import Tensor

from san_cliptrase.structures import Regions

Size = tuple[int, int]


def image_grids(valid: Tensor, grid: Size) -> list[Size]:
    """(h, w) of each image's own patches inside the padded grid; ``valid`` is (B, L)."""
    maps = valid.unflatten(1, grid)
    return list(zip(maps.any(dim=2).sum(dim=1).tolist(), maps.any(dim=1).sum(dim=1).tolist(), strict=True))


def region_maps(rows: Tensor, labels: Tensor, valid: Tensor, grid: Size) -> list[Tensor]:
    """Describe each cluster by the mean correlation row of its patches.

    Args:
        rows: (B, L, L), see ``suppress_global_patches``.
        labels: (B, L) int64, see ``cluster_rows``.
        valid: (B, L) bool, False at padded patches.
        grid: (h, w) of the padded batch.

    Returns:
        Per image (N, h, w) on its own grid; N = 0 if it has no cluster.
    """
    maps = []
    for image_rows, image_labels, keep, own in zip(rows, labels, valid, image_grids(valid, grid), strict=True):
        image_labels = image_labels[keep]
        clusters = torch.arange(int(image_labels.max()) + 1, device=rows.device)
        members = (image_labels == clusters[:, None]).to(rows.dtype)
        means = members @ image_rows[keep][:, keep] / members.sum(dim=1, keepdim=True)
        maps.append(means.unflatten(1, own))
    return maps


def smooth_maps(maps: Tensor, upscale: int = 4, median_size: int = 7) -> Tensor:
    """Refine one image's region maps: bilinear upsampling, then a median filter on each map.

    The border is mirrored with its edge repeated (scipy's "reflect", numpy's "symmetric").

    Args:
        maps: (N, h, w).

    Returns:
        (N, upscale * h, upscale * w)
    """
    if not len(maps):
        return maps.new_zeros(0, maps.shape[1] * upscale, maps.shape[2] * upscale)
    fine = F.interpolate(maps[None], scale_factor=upscale, mode="bilinear", align_corners=False)[0]
    filtered = median_filter(fine.float().cpu().numpy(), size=(1, median_size, median_size), mode="reflect")
    return torch.from_numpy(filtered).to(maps)


def partition_pixels(maps: Tensor, canvas: Size, size: Size) -> Tensor:
    """Give every pixel to the region whose map is largest there.

    Args:
        maps: (N, h, w), N >= 1.
        canvas: (height, width) in pixels that the whole maps cover.
        size: (H, W) of the image, the top-left part of the canvas.

    Returns:
        (H, W) int64 in [0, N).
    """
    pixels = F.interpolate(maps[None], size=canvas, mode="bilinear", align_corners=False)[0]
    return pixels[:, : size[0], : size[1]].argmax(dim=0)


def regions_from_maps(maps: Sequence[Tensor], valid: Tensor, grid: Size) -> Regions:
    """Hard regions on the patch grid: every patch, noise included, goes to the region whose map is largest there.

    A region that wins no patch is dropped.

    Args:
        maps: Per image (N, u * h, u * w), see ``smooth_maps``.
        valid: (B, L) bool, False at padded patches.
        grid: (h, w) of the padded batch.

    Returns:
        ``Regions`` padded to the batch's largest number of regions.
    """
    masks = [_patch_masks(image_maps, own) for image_maps, own in zip(maps, image_grids(valid, grid), strict=True)]
    batch = valid.new_zeros(len(masks), max(map(len, masks)), *grid, dtype=torch.float32)
    present = valid.new_zeros(batch.shape[:2])
    for image_masks, target, flags in zip(masks, batch, present, strict=True):
        count, h, w = image_masks.shape
        target[:count, :h, :w] = image_masks
        flags[:count] = True
    return Regions(masks=batch, valid=present)


def _patch_masks(maps: Tensor, grid: Size) -> Tensor:
    """One-hot masks (N, h, w) of the regions that win at least one patch."""
    if not len(maps):
        return maps.new_zeros(0, *grid)
    winner = F.adaptive_avg_pool2d(maps, grid).argmax(dim=0)
    masks = F.one_hot(winner, len(maps)).permute(2, 0, 1)
    return masks[masks.flatten(1).any(dim=1)].float()
