"""What CLIPtrase sees in one image, patch by patch: attention, correlation, clusters and the segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from san_cliptrase.clip.attention_maps import block_attention
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.regions.correlation import suppress_global_patches
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.maps import region_maps, regions_from_maps
from san_cliptrase.structures import ClipFeatures, Size

BEFORE, AFTER = "[CLS] not subtracted", "[CLS] subtracted"
PLAIN = "plain CLIP"
CORRELATION, SUPPRESSED = "self-correlation", "suppressed correlation"
UNKNOWN = -1
"""The class of a patch without labelled pixels."""
COLOUR_MAP = "cividis"
"""Of all maps: reads alike for normal and colour-blind eyes (Nuñez et al., 2018)."""


@dataclass(frozen=True)
class PatchView:
    """One image and everything that is known of its L = h w patches.

    Attributes:
        title: which image it is.
        photo: (H, W, 3) uint8.
        grid: (h, w).
        cell: (height, width) of a patch in pixels of ``photo``; the last ones may lie partly outside.
        maps: name -> (L, L), row i is what patch i attends to, in fair shares 1 / L, or correlates with.
        clusters: :data:`BEFORE` and :data:`AFTER` -> (L,) cluster of each patch, -1 for noise.
        regions: (L,) region of each patch, what the clusters become; -1 where there is none.
        labels: (H, W) the segmentation.
        truth: (H, W) ground truth, -1 where there is none; None for an image without.
        names: class names.
    """

    title: str
    photo: np.ndarray
    grid: tuple[int, int]
    cell: tuple[float, float]
    maps: Mapping[str, np.ndarray]
    clusters: Mapping[str, np.ndarray]
    regions: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None
    names: tuple[str, ...]


def unit(name: str) -> str:
    """What the values of a map are."""
    return "fair shares" if name.startswith(PLAIN) else "correlation"


def taps(visual: ClipVisualEncoder) -> tuple[int, int]:
    """The block inputs that :func:`view_patches` needs: those of the last two blocks."""
    return visual.depth - 2, visual.depth - 1


@torch.no_grad()
def view_patches(
    visual: ClipVisualEncoder,
    finder: RegionFinder,
    features: ClipFeatures,
    seen: Size,
    photo: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    title: str = "",
    truth: np.ndarray | None = None,
) -> PatchView:
    """Look at one image.

    Args:
        visual: the frozen tower.
        finder: CLIPtrase's regions on this tower, whatever regions the segmentation comes from.
        features: of the image alone, with :func:`taps`.
        seen: (height, width) at which the tower saw the image.
        photo: see :class:`PatchView`; so are ``labels``, ``names``, ``title`` and ``truth``.
    """
    correlation = finder.correlate(features)
    rows = {BEFORE: correlation[:, 1:, 1:], AFTER: suppress_global_patches(correlation, features.valid)}
    clusters = {name: finder.cluster(row, features) for name, row in rows.items()}
    maps = {
        f"{PLAIN}, block {index + 1} of {visual.depth}": _in_fair_shares(block_attention(visual, features, index))
        for index in taps(visual)
    }
    maps |= {CORRELATION: rows[BEFORE][0], SUPPRESSED: rows[AFTER][0]}
    return PatchView(
        title=title,
        photo=photo,
        grid=features.grid,
        cell=tuple(n * p / c for n, p, c in zip(labels.shape, visual.patch_size, seen, strict=True)),
        maps={name: values.float().cpu().numpy() for name, values in maps.items()},
        clusters={name: found[0].cpu().numpy() for name, found in clusters.items()},
        regions=patch_regions(rows[AFTER], clusters[AFTER], features.valid, features.grid),
        labels=labels,
        truth=truth,
        names=names,
    )


def patch_regions(rows: Tensor, labels: Tensor, valid: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """(L,) the region that each patch of one image goes to, noise included; -1 where there is none."""
    masks = regions_from_maps(region_maps(rows, labels), valid, grid).masks[0].flatten(1)
    return (masks.argmax(0) if len(masks) else torch.full((valid.shape[1],), -1)).cpu().numpy()


def patch_classes(truth: np.ndarray, grid: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """The most frequent class of the labelled pixels in each patch.

    Args:
        truth: (H, W) class indices, -1 at pixels without a label.
        grid: (h, w).
        cell: (height, width) of a patch in pixels.

    Returns:
        (L,), -1 where a patch has no labelled pixel.
    """
    rows = np.minimum(((np.arange(truth.shape[0]) + 0.5) / cell[0]).astype(int), grid[0] - 1)
    columns = np.minimum(((np.arange(truth.shape[1]) + 0.5) / cell[1]).astype(int), grid[1] - 1)
    patches = rows[:, None] * grid[1] + columns
    known = truth >= 0
    counts = np.zeros((grid[0] * grid[1], int(truth.max(initial=0)) + 1), dtype=int)
    np.add.at(counts, (patches[known], truth[known]), 1)
    return np.where(counts.any(1), counts.argmax(1), UNKNOWN)


def _in_fair_shares(attention: Tensor) -> Tensor:
    """(L, L) of (1, T, T): what patches give to patches, 1 where attention is even."""
    return attention[0, 1:, 1:] * (attention.shape[-1] - 1)
