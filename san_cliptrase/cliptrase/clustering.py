"""Clustering of correlation rows: patches that correlate with the same patches form a region."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import DBSCAN
from torch import Tensor

NOISE = -1
# What the CLIPtrase paper was run with at grids of 14x14 and 21x21 patches (images of 224 and 336 pixels).
PUBLISHED_SIDES, PUBLISHED_EPS, PUBLISHED_MIN_SAMPLES = (14, 21), (0.7, 1.1), (3, 7)


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


@torch.no_grad()
def cluster_rows(rows: Tensor, valid: Tensor, eps: float, min_samples: int) -> Tensor:
    """Cluster the rows of each image with DBSCAN (Ester et al., 1996), Euclidean distance.

    Every image is clustered on the rows and columns of its own patches only, so padding changes nothing.

    Args:
        rows: (B, L, L), see ``suppress_global_patches``.
        valid: (B, L) bool, False at padded patches.
        eps: Largest distance between neighbours, > 0.
        min_samples: Neighbours, itself included, that make a row a core of a cluster, >= 1.

    Returns:
        (B, L) int64: cluster 0, 1, ... of each patch; -1 for noise and padding.

    Raises:
        ValueError: ``eps`` or ``min_samples`` is out of range.
    """
    if eps <= 0 or min_samples < 1:
        raise ValueError(f"DBSCAN needs eps > 0 and min_samples >= 1, got eps={eps}, min_samples={min_samples}")
    labels = torch.full(valid.shape, NOISE, dtype=torch.int64, device=rows.device)
    dbscan = DBSCAN(eps=eps, min_samples=min_samples)
    for image_rows, keep, out in zip(rows, valid, labels, strict=True):
        own = image_rows[keep][:, keep].float().cpu().numpy()
        out[keep] = torch.from_numpy(dbscan.fit_predict(own)).to(labels)
    return labels
