"""From cluster labels to maps of regions, and from these to masks on the patch grid or a partition of the pixels.

Images of one batch may have different grids, so what belongs to one image is one tensor of a list.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.structures import Regions, Size


def image_grids(valid: Tensor, grid: Size) -> list[Size]:
    """(h, w) of each image's own patches inside the padded grid; ``valid`` is (B, L)."""
    maps = valid.unflatten(1, grid)
    return list(zip(maps.any(dim=2).sum(dim=1).tolist(), maps.any(dim=1).sum(dim=1).tolist(), strict=True))


def region_maps(rows: Tensor, labels: Tensor) -> Tensor:
    """Describe each cluster by the mean correlation row of its patches.

    Args:
        rows: (B, L, L), see ``suppress_global_patches``.
        labels: (B, L) int64, see ``cluster_rows``.

    Returns:
        (B, N, L), N clusters of the image that has most; -inf where an image has fewer.
    """
    clusters = torch.arange(int(labels.max()) + 1, device=rows.device)
    members = labels[:, None, :] == clusters[:, None]
    count = members.sum(dim=2, keepdim=True)
    means = members.to(rows.dtype) @ rows / count.clamp(min=1)
    return means.masked_fill(count == 0, -torch.inf)


def own_maps(maps: Tensor, valid: Tensor, grid: Size) -> list[Tensor]:
    """The clusters of each image (N, h, w) on its own grid, taken out of ``region_maps``; N = 0 if it has none."""
    own = []
    for image_maps, keep, size in zip(maps, valid, image_grids(valid, grid), strict=True):
        own.append(image_maps[image_maps.isfinite().all(dim=1)][:, keep].unflatten(1, size))
    return own


def smooth_maps(maps: Tensor, upscale: int = 4, median_size: int = 7) -> Tensor:
    """Refine one image's region maps: bilinear upsampling, then a median filter on each map.

    The border is mirrored with its edge repeated (scipy's "reflect", numpy's "symmetric").

    Args:
        maps: (N, h, w).
        upscale: How many times larger the result is.
        median_size: Side of the median's window, odd.

    Returns:
        (N, upscale * h, upscale * w)
    """
    if not len(maps):
        return maps.new_zeros(0, maps.shape[1] * upscale, maps.shape[2] * upscale)
    fine = F.interpolate(maps[None], scale_factor=upscale, mode="bilinear", align_corners=False)[0].float()
    # On a CPU, torch's median and scipy's filter take two to three times as long as numpy's partial sort.
    in_numpy = fine.device.type == "cpu"
    # One map after the other: a window a pixel of all of them does not fit into a cache.
    return torch.stack([_median_filter(single, median_size, in_numpy) for single in fine]).to(maps)


def _median_filter(pixels: Tensor, size: int, in_numpy: bool) -> Tensor:
    """The median of the window around each pixel (H, W), where the pixels are; equal to scipy's ``median_filter``."""
    rows, columns = (_mirrored(length, size // 2, pixels.device) for length in pixels.shape)
    windows = pixels[rows][:, columns].unfold(0, size, 1).unfold(1, size, 1).flatten(2)
    if not in_numpy:
        return windows.median(dim=2).values
    middle = size**2 // 2
    return torch.from_numpy(np.partition(windows.numpy(), middle)[..., middle])


def _mirrored(length: int, margin: int, device: torch.device) -> Tensor:
    """Indices of a line with ``margin`` more at each end, mirrored with the edge repeated: 1 0 0 1 2 ... ."""
    places = torch.arange(-margin, length + margin, device=device) % (2 * length)
    return torch.minimum(places, 2 * length - 1 - places)


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
    return pixels[:, : size[0], : size[1]].max(dim=0).indices  # argmax is four times slower on a CPU


def regions_from_maps(maps: Tensor, valid: Tensor, grid: Size) -> Regions:
    """Hard regions on the patch grid: every patch, noise included, goes to the region whose map is largest there.

    A region that wins no patch is dropped.

    Args:
        maps: (B, N, L), see ``region_maps``.
        valid: (B, L) bool, False at padded patches.
        grid: (h, w) of the padded batch.

    Returns:
        ``Regions`` padded to the batch's largest number of regions.
    """
    if not maps.shape[1]:
        return Regions(masks=maps.new_zeros(len(maps), 0, *grid), valid=valid.new_zeros(len(maps), 0), maps=maps)
    # Where an image has no cluster all maps are -inf, and none may win.
    covered = valid & maps.isfinite().any(dim=1)
    winners = maps.argmax(dim=1)
    masks = (winners[:, None, :] == torch.arange(maps.shape[1], device=maps.device)[:, None]) & covered[:, None]
    return _present_first(masks.unflatten(2, grid).float(), maps)


def join_regions(parts: Sequence[Regions]) -> Regions:
    """The regions from maps of all parts together, those of each image at the front, in the order of the parts."""
    if len(parts) == 1:
        return parts[0]
    return _present_first(torch.cat([part.masks for part in parts], dim=1), torch.cat([p.maps for p in parts], dim=1))


def _present_first(masks: Tensor, maps: Tensor) -> Regions:
    """Regions from masks (B, N, h, w), empty ones moved behind the others and dropped where no image needs them."""
    present = masks.flatten(2).any(dim=2)
    order = present.argsort(dim=1, descending=True, stable=True)[:, : int(present.sum(dim=1).max())]
    masks = masks.gather(1, order[..., None, None].expand(-1, -1, *masks.shape[2:]))
    return Regions(masks=masks, valid=present.gather(1, order), maps=maps)
