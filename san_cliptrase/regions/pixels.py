"""Regions of pixels: from and to masks on the patch grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from san_cliptrase.regions.maps import own_maps, partition_pixels, smooth_maps
from san_cliptrase.structures import ClipFeatures, Regions, Size


def count_classes(classes: Tensor, regions: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class in each region, (regions, K) int64.

    Args:
        classes: (H, W) int64 in [0, num_classes).
        regions: (H, W) int64 >= 0.
        num_classes: K.
    """
    cells = torch.bincount((regions * num_classes + classes).flatten(), minlength=0)
    count = int(regions.max()) + 1
    return F.pad(cells, (0, count * num_classes - len(cells))).unflatten(0, (count, num_classes))


def perfect_names(regions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Give every region the class that most of its pixels have.

    Args:
        regions: (H, W) int64 >= 0.
        labels: (H, W) int64; values from ``classes`` on are no class. A region without a class gets the first.
        classes: K.

    Returns:
        (H, W) int64 in [0, K).
    """
    counts = count_classes(labels.clamp(max=classes), regions, classes + 1)
    return counts[:, :classes].argmax(1)[regions]


def patch_masks(regions: Tensor, grid: Size, patch_size: Size) -> Tensor:
    """The masks of a pixel partition on the patch grid: a patch is of the region that has most of its pixels.

    A region with a majority in no patch gets the patch that contains most of its pixels. Patches are not shared: one on
    the border would tell a region the class of its neighbour.

    Args:
        regions: (H, W) int64 >= 0, the region of each pixel.
        grid: (h, w) of the padded batch, with at least as many patches as the image covers.
        patch_size: (height, width) of a patch in pixels.

    Returns:
        (N, L) bool, for regions 0 to the largest; False at patches without a pixel of the image.
    """
    areas = count_classes(_patches(tuple(regions.shape), grid, patch_size, regions.device), regions, grid[0] * grid[1])
    first, most = (F.one_hot(areas.max(dim).indices, areas.shape[dim]).bool() for dim in (0, 1))
    masks = first.T & (areas > 0)
    return torch.where(masks.any(1, keepdim=True), masks, most & (areas > 0))


def _patches(size: Size, grid: Size, patch_size: Size, device: torch.device) -> Tensor:
    """(H, W) int64, the patch that each pixel of an image lies in."""
    rows = torch.arange(size[0], device=device) // patch_size[0]
    columns = torch.arange(size[1], device=device) // patch_size[1]
    return rows[:, None] * grid[1] + columns


def patch_shares(regions: Tensor, grid: Size, patch_size: Size) -> Tensor:
    """The share of each patch's pixels that each region has, (N, L); see :func:`patch_masks` for the arguments."""
    areas = count_classes(_patches(tuple(regions.shape), grid, patch_size, regions.device), regions, grid[0] * grid[1])
    return areas / areas.sum(0).clamp(min=1)


def regions_from_pixels(partitions: Sequence[Tensor | None], features: ClipFeatures, shares: bool = False) -> Regions:
    """Regions from a partition of the pixels that came from elsewhere.

    Args:
        partitions: Per image the region (H, W) int64 of each pixel, numbered in any way, or None: it has none.
        features: Whose ``sizes`` these are.
        shares: Masks are those of ``patch_shares``, not of ``patch_masks``.

    Raises:
        ValueError: A partition has not the size of its image.
    """
    labels = tuple(_numbered(*one) for one in zip(partitions, features.sizes, strict=True))
    none = features.valid.new_zeros(0, features.valid.shape[1])
    read = patch_shares if shares else patch_masks
    masks = [none if own is None else read(own, features.grid, features.patch_size) for own in labels]
    padded = pad_sequence([own.float() for own in masks], batch_first=True)
    return Regions(padded.unflatten(2, features.grid), padded.any(2), labels)


def _numbered(regions: Tensor | None, size: Size) -> Tensor | None:
    """The partition with its regions numbered from 0 without gaps: each has a pixel."""
    if regions is None:
        return None
    if tuple(regions.shape) != tuple(size):
        raise ValueError(f"regions of {tuple(regions.shape)} pixels were given for an image of {tuple(size)}")
    return regions.unique(return_inverse=True)[1]


@torch.no_grad()
def pixel_partition(regions: Regions, features: ClipFeatures) -> list[Tensor | None]:
    """The region of every pixel, at the sizes that CLIP sees.

    Maps are smoothed and compared. Of masks on the patch grid, each pixel has its patch's first; pixels in none of them
    are together one region more.

    Args:
        regions: Of a source.
        features: Those that the source was given.

    Returns:
        Per image (H, W) int64 >= 0, or None where it has no region.
    """
    if regions.labels is not None:
        return list(regions.labels)
    if regions.maps is not None:
        return [
            _from_maps(maps, size, features.patch_size)
            for maps, size in zip(own_maps(regions.maps, features.valid, features.grid), features.sizes, strict=True)
        ]
    return [_from_masks(*one, features) for one in zip(regions.masks, regions.valid, features.sizes, strict=True)]


def _from_maps(maps: Tensor, size: Size, patch_size: Size) -> Tensor | None:
    canvas = (maps.shape[1] * patch_size[0], maps.shape[2] * patch_size[1])
    return partition_pixels(smooth_maps(maps), canvas, size) if len(maps) else None


def _from_masks(masks: Tensor, valid: Tensor, size: Size, features: ClipFeatures) -> Tensor | None:
    if not valid.any():
        return None
    on = masks[valid].flatten(1) > 0
    first = on.int().argmax(0).where(on.any(0), len(on))
    return first[_patches(size, features.grid, features.patch_size, first.device)]
