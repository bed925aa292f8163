"""Clustering of correlation rows: patches that correlate with the same patches form a region."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from san_cliptrase.errors import OptionError

NOISE = -1
# What the CLIPtrase paper was run with at grids of 14x14 and 21x21 patches (images of 224 and 336 pixels), on ViT-B/16.
PUBLISHED_SIDES, PUBLISHED_EPS, PUBLISHED_MIN_SAMPLES = (14, 21), (0.7, 1.1), (3, 7)
PUBLISHED_TOWER = (12, 12, (16, 16))
"""Blocks, heads and patch size of ViT-B/16."""
CORE_SHARE = 0.9
"""The share of an image's patches that ``core_radius`` makes cores; chosen with benchmarks/robustness.py."""
ROUNDING = 1e-3
"""Distance, relative to the length of rows, below which single precision does not tell two of them apart."""


def default_clustering(grid: tuple[int, int]) -> tuple[float, int]:
    """DBSCAN's parameters for a patch grid.

    A row has one entry per patch, so Euclidean distances grow with the square root of the number of patches L, and a
    region's number of patches grows with L. ``eps = a sqrt(L)`` and ``min_samples = b L`` (rounded, at least 2), where
    ``a`` and ``b`` are those of the two published settings, linear in between and constant outside.

    Args:
        grid: (h, w) of one image, without padding.

    Returns:
        eps and min_samples: (0.7, 3) at 14x14 and (1.1, 7) at 21x21.
    """
    side = float(np.sqrt(grid[0] * grid[1]))
    sides = np.array(PUBLISHED_SIDES)
    eps = side * np.interp(side, sides, np.array(PUBLISHED_EPS) / sides)
    min_samples = side**2 * np.interp(side, sides, np.array(PUBLISHED_MIN_SAMPLES) / sides**2)
    return float(eps), max(2, round(float(min_samples)))


def check_parameters(eps: float | Tensor | None, min_samples: int | Tensor | None) -> None:
    """Refuses parameters that DBSCAN cannot work with; None and tensors pass.

    Raises:
        OptionError: ``eps`` or ``min_samples`` is out of range.
    """
    # Tensors may be on a device, from which there is no way back.
    numbers = [math.inf if value is None or isinstance(value, Tensor) else value for value in (eps, min_samples)]
    if numbers[0] <= 0 or numbers[1] < 1:
        raise OptionError(f"DBSCAN needs eps > 0 and min_samples >= 1, got eps={eps}, min_samples={min_samples}")


@torch.no_grad()
def core_radius(rows: Tensor, valid: Tensor, min_samples: int | Tensor, share: float = CORE_SHARE) -> Tensor:
    """DBSCAN's radius from the data: the one at which a share of an image's patches are cores.

    ``eps = quantile_i d_k(i)``, where ``d_k(i)`` is the distance of row i to its k-th neighbour and k is
    ``min_samples``: the sorted k-dist graph of Ester et al., 1996, section 4.2, cut at a quantile, not by eye. How
    large rows are and how far apart depends on a tower's depth, heads and patches, so a number that was chosen for one
    makes everything one region on another, or everything noise (docs/robustness.md); a share of cores does neither.

    Args:
        rows: (B, L, L), see ``suppress_global_patches``; padded columns must be zero.
        valid: (B, L) bool, False at padded patches, which do not count.
        min_samples: See ``cluster_rows``.
        share: In [0, 1].

    Returns:
        (B,), above 0.
    """
    squared = _squared_distances(rows).masked_fill(~valid[:, None, :], torch.inf)
    count = valid.sum(1)
    rank = torch.as_tensor(min_samples, device=rows.device).clamp(max=count)
    most = min(int(torch.as_tensor(min_samples).max()), rows.shape[1])
    nearest = squared.topk(most, dim=2, largest=False, sorted=True).values
    kth = nearest.gather(2, (rank - 1)[:, None, None].expand(-1, rows.shape[1], 1))[..., 0].clamp(min=0).sqrt()
    # A little more: where many distances are equal, rounding must not lose all of them.
    radius = kth.masked_fill(~valid, torch.nan).nanquantile(share, dim=1) * (1 + 1e-6)
    # Rows that are nearer are equal but for rounding: a image of one colour is one region.
    length = (rows.float().square().sum((1, 2)) / count).sqrt()
    return torch.maximum(radius, ROUNDING * length).clamp(min=torch.finfo(torch.float32).tiny)


@torch.no_grad()
def cluster_rows(rows: Tensor, valid: Tensor, eps: float | Tensor, min_samples: int | Tensor) -> Tensor:
    """Cluster the rows of each image with DBSCAN (Ester et al., 1996), Euclidean distance, a batch at once.

    Two rows are neighbours if they are at most ``eps`` apart; a row with at least ``min_samples`` neighbours, itself
    included, is a core. Clusters are the connected components of cores, numbered by their first core; any other row
    joins the first cluster that has a core next to it. These are the labels of ``sklearn.cluster.DBSCAN``, computed
    where the rows are.

    Args:
        rows: (B, L, L), see ``suppress_global_patches``; padded columns must be zero.
        valid: (B, L) bool, False at padded patches, which take no part.
        eps: Largest distance between neighbours, > 0; one, or a tensor (B,), whose values are not checked.
        min_samples: Neighbours that make a row a core, >= 1; likewise.

    Returns:
        (B, L) int64: cluster 0, 1, ... of each patch; -1 for noise and padding.

    Raises:
        OptionError: ``eps`` or ``min_samples`` is out of range.
    """
    check_parameters(eps, min_samples)
    radius = torch.as_tensor(eps, dtype=torch.float32, device=rows.device).expand(len(rows))
    size = torch.as_tensor(min_samples, device=rows.device).expand(len(rows))
    close = _squared_distances(rows) <= radius[:, None, None] ** 2
    close &= valid[:, :, None] & valid[:, None, :]
    core = close.sum(2) >= size[:, None]
    first = _first_core(close & core[:, :, None] & core[:, None, :], core)
    # Cluster of a core: how many first cores lie before its own.
    index = torch.arange(rows.shape[1], device=rows.device)
    number = (core & (first == index)).cumsum(1) - 1
    cluster = number.gather(1, first.clamp(max=rows.shape[1] - 1))
    reachable = close & core[:, None, :]
    border = (cluster[:, None, :].float() + torch.where(reachable, 0.0, float(rows.shape[1]))).amin(2).long()
    return torch.where(core, cluster, torch.where(reachable.any(2), border, NOISE))


def _squared_distances(rows: Tensor) -> Tensor:
    """(B, L, L) squared Euclidean distances; a row is at distance 0 of itself whatever the rounding.

    Rows are first moved by their mean, which changes no distance and much of its rounding: a distance is the difference
    of lengths, and rows are hundreds of times longer than DBSCAN's radius.
    """
    with torch.autocast(rows.device.type, enabled=False):  # half precision would move rows across the radius
        rows = rows.float()
        rows = rows - rows.mean(1, keepdim=True)
        lengths = rows.square().sum(2)
        squared = lengths[:, :, None] + lengths[:, None, :] - 2 * rows @ rows.transpose(1, 2)
    squared.diagonal(dim1=1, dim2=2).zero_()
    return squared


def _first_core(linked: Tensor, core: Tensor) -> Tensor:
    """For each core the lowest index in its connected component, (B, L); L where a row is no core.

    Every core takes the least of what its neighbours have, then what the core of that index has, until nothing
    changes: in practice a handful of rounds.
    """
    size = core.shape[1]
    first = torch.where(core, torch.arange(size, device=core.device), size)
    # Sums of single precision are several times faster on a CPU than a masked minimum of integers, and as exact.
    unlinked = torch.where(linked, 0.0, float(size))
    while True:
        least = (first[:, None, :].float() + unlinked).amin(2).long().clamp(max=size)
        least = torch.cat([least, torch.full_like(least[:, :1], size)], dim=1).gather(1, least)
        if torch.equal(least, first):
            return first
        first = least
