"""Edge-aware smoothing of scores: a graph Laplacian whose edges are weak where the image's grey values jump.

The propagation of PEARL (arXiv 2603.21528, 2026), as its published code computes it on a coarse grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.refine.coarse import pooled_strips, resized_strips

GRID = 80
"""Points along a side of the grid, about."""
SHARPNESS = 5.0
"""How fast an edge's weight falls with the step of grey values across it."""
LEAST = 0.0025
"""Least weight of a point's own scores. From some twenty classes on, all have it: cosines hardly differ."""
STEPS = 25
"""Of conjugate gradients; they stop before they converge."""
OWN = 10.0
"""What the code adds to a class's similarity with itself."""
# Luma, of pixels that are normalised by CLIP's standard deviations.
GREY = tuple(part / std for part, std in zip((0.299, 0.587, 0.114), (0.26862954, 0.26130258, 0.27577711), strict=True))


def laplacian(
    scores: Iterable[Tensor],
    image: Tensor,
    patch: int = 0,
    text_weights: Tensor | None = None,
    grid: int = GRID,
) -> Iterator[Tensor]:
    """Smooth scores that come in strips from top to bottom; see ``Refinement`` for the other arguments.

    On a grid of about 80 x 80 means, ``(D + L) F = D s`` is solved for F by conjugate gradients from ``F = s``, and F
    is resized to the image. L is the Laplacian of :func:`edges`; ``D = max(p^2, 0.0025) (1 + a)`` with the largest
    ``p = softmax(s)`` of a point and ``a = sum_c u_c p_c^2``, u of :func:`own_similarity`.

    Args:
        scores: See ``Refinement``, and ``image``.
        patch: Changes nothing: the grid is that of the image, whatever CLIP's patches.
        text_weights: (K, E), rows of length 1, for u; None: u as if no two classes were alike.
        grid: Points along a side, about.
    """
    height, width = image.shape[1:]
    cell = tuple(max(1, round(side / grid)) for side in (height, width))
    pooled = torch.cat(list(pooled_strips(scores, cell)), dim=1)
    own = own_similarity(len(pooled), text_weights).to(pooled)
    shares = pooled.softmax(0)
    agreement = (own[:, None, None] * shares.square()).sum(0)
    weight = shares.amax(0).square().clamp(min=LEAST) * (1 + agreement)
    grey = F.avg_pool2d(image[None].to(pooled), cell, cell)[0]
    grey = (grey * grey.new_tensor(GREY)[:, None, None]).sum(0)
    smooth = _solve(pooled, weight, edges(grey, shares, own, 0), edges(grey, shares, own, 1))
    yield from resized_strips(smooth, (height, width))


def own_similarity(classes: int, text_weights: Tensor | None) -> Tensor:
    """The diagonal of the classes' similarities, ``softmax of rows(t t^T / 0.5) + 10 I``, rows divided by their sum.

    Args:
        classes: K.
        text_weights: (K, E), or None: words at right angles.

    Returns:
        (K,), about 0.9 for many classes.
    """
    cosines = torch.eye(classes) if text_weights is None else text_weights @ text_weights.T
    return ((cosines / 0.5).softmax(-1).diagonal() + OWN) / (1 + OWN + 1e-6)


def edges(grey: Tensor, shares: Tensor, own: Tensor, dim: int) -> Tensor:
    """Weights between neighbours along rows (``dim`` 1) or columns (0) of the grid.

    ``min(1, exp(-5 g / mean g) (1 + sum_c u_c p_c p'_c))``, g the absolute difference of grey values.
    """
    step = grey.diff(dim=dim).abs()
    length = grey.shape[dim] - 1
    pair = (own[:, None, None] * shares.narrow(dim + 1, 0, length) * shares.narrow(dim + 1, 1, length)).sum(0)
    return ((-SHARPNESS * step / (step.mean() + 1e-6)).exp() * (1 + pair)).clamp(max=1)


def _solve(scores: Tensor, weight: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """25 steps of conjugate gradients for ``(D + L) F = D s`` from ``F = s``; step lengths are those of all classes."""
    apply = _system(weight, down, right)
    # A point is a row of the classes' scores.
    found = scores.flatten(1).T.contiguous()
    residual = weight.flatten()[:, None] * found - apply(found)
    direction = residual.clone()
    length = _product(residual, residual)
    for _ in range(STEPS):
        applied = apply(direction)
        step = length / (_product(direction, applied) + 1e-12)
        found.addcmul_(step, direction)
        residual.addcmul_(-step, applied)
        previous, length = length, _product(residual, residual)
        direction.mul_(length / (previous + 1e-12)).add_(residual)
    return found.T.reshape(scores.shape)


def _system(weight: Tensor, down: Tensor, right: Tensor) -> Callable[[Tensor], Tensor]:
    """What multiplies rows (h w, K) by D + L: each is summed with its four neighbours'."""
    height, width = weight.shape
    sides = [F.pad(down, (0, 0, 1, 0)), F.pad(down, (0, 0, 0, 1)), F.pad(right, (1, 0)), F.pad(right, (0, 1))]
    shares = torch.stack([weight + sum(sides), *(-side for side in sides)], dim=-1).flatten(0, 1)
    steps = torch.tensor([0, -width, width, -1, 1], dtype=torch.int32, device=weight.device)
    points = torch.arange(height * width, dtype=torch.int32, device=weight.device)
    # Beyond the border there is any point: its share is 0.
    places = (points[:, None] + steps).clamp(0, height * width - 1)
    return lambda rows: F.embedding_bag(places, rows, per_sample_weights=shares, mode="sum")


def _product(first: Tensor, second: Tensor) -> Tensor:
    return torch.dot(first.flatten(), second.flatten())
