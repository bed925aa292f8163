"""Pixel-adaptive mask refinement (PAMR): scores become the mean of those of nearby pixels of similar colour.

After Araslanov and Roth, "Single-stage semantic segmentation from image labels", CVPR 2020, section 4.2, with NACLIP's
settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (8, 16)
STEPS = 10
WIDTH = 0.1
"""Of the affinity, in standard deviations of the colours around a pixel."""
CLASSES_AT_ONCE = 32
"""Their rows are read whole by two vector instructions, and what a step writes stays in a cache."""
SCORES_AT_ONCE = 2**26
NEIGHBOURS = tuple(
    (d * row, d * column) for d in DILATIONS for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)
)


def pamr(scores: Iterable[Tensor], image: Tensor, steps: int = STEPS) -> Iterator[Tensor]:
    """Refine scores that come in strips from top to bottom; see ``Refinement`` for the arguments.

    ``steps`` times ``s(p) = sum_n a_n(p) s(n)`` over the 16 neighbours n of :func:`affinities`; beyond the border, its
    pixels are repeated. Scores reach 16 rows a step, so a strip is given when so many rows below it are known.
    """
    height, reach = image.shape[1], max(DILATIONS) * steps
    kept, top, done = None, 0, 0  # kept: rows from ``top`` on
    for strip in scores:
        kept = strip if kept is None else torch.cat([kept, strip], dim=1)
        bottom = top + kept.shape[1]
        ready = height if bottom == height else bottom - reach
        if ready < height and ready - done < reach:
            continue  # rows above and below would be refined again and again
        yield _refined(kept, image[:, top:bottom], steps)[:, done - top : ready - top]
        done = ready
        above = max(done - reach, 0)
        kept, top = kept[:, above - top :], above


def affinities(image: Tensor) -> Tensor:
    """How much each of a pixel's neighbours counts, (3, H, W) to (16, H, W), adding up to 1.

    ``a_n(p) = softmax over n of mean_c -|x_c(p) - x_c(n)| / (0.1 sigma_c(p) + 1e-8)``. The neighbours are those at 8
    and 16 pixels, straight and diagonal. sigma is the standard deviation (unbiased) over both 3 x 3 sets of points, the
    pixel itself among both.
    """
    height, width = image.shape[1:]
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    padded = F.pad(image[None], (max(DILATIONS),) * 4, mode="replicate")[0]
    scale = (WIDTH * _deviation(padded, height, width) + 1e-8).reciprocal_().div_(len(image)).to(image)
    distances = image.new_empty(len(NEIGHBOURS), height, width)
    difference = torch.empty_like(image)
    for distance, place in zip(distances, NEIGHBOURS, strict=True):
        torch.sub(_shifted(padded, place, height, width), image, out=difference)
        torch.sum(difference.abs_().mul_(scale), 0, out=distance)
    return distances.neg_().softmax(0)


def _deviation(padded: Tensor, height: int, width: int) -> Tensor:
    """sigma of :func:`affinities`, (3, H, W), from sums along rows and then along columns.

    In double precision: in single, squares of the values would lose digits where colours hardly differ.
    """
    first = padded.double()
    margin, count = max(DILATIONS), 9 * len(DILATIONS)
    total, squares = (torch.zeros(len(padded), height, width, dtype=first.dtype, device=first.device) for _ in range(2))
    for maps, sums in ((first, total), (first.square(), squares)):
        for d in DILATIONS:
            low, middle, high = (slice(margin + n, margin + n + height) for n in (-d, 0, d))
            lines = maps[:, low] + maps[:, middle]
            lines += maps[:, high]
            for n in (-d, 0, d):
                sums += lines[:, :, margin + n : margin + n + width]
    return squares.sub_(total.square_().div_(count)).div_(count - 1).clamp_(min=0).sqrt_()


def _refined(scores: Tensor, image: Tensor, steps: int) -> Tensor:
    """All steps of (K, H, W) scores whose rows are all that there is, a few classes at a time."""
    height, width = scores.shape[1:]
    weights = affinities(image).flatten(1).T.contiguous()
    neighbours = _neighbours(height, width).to(scores.device)
    refined = torch.empty(scores.shape, dtype=weights.dtype, device=scores.device)
    at_once = max(1, min(CLASSES_AT_ONCE, SCORES_AT_ONCE // (height * width)))
    for source, target in zip(scores.split(at_once), refined.split(at_once), strict=True):
        # A pixel is a row of the classes' scores, and takes a weighted sum of its neighbours' rows.
        rows = source.to(weights.dtype).flatten(1).T.contiguous()
        for _ in range(steps):
            rows = F.embedding_bag(neighbours, rows, per_sample_weights=weights, mode="sum")
        target.copy_(rows.T.view_as(target))
    return refined


def _neighbours(height: int, width: int) -> Tensor:
    """The number of each pixel's neighbours, counted row by row: (H W, 16) int32."""
    places = torch.tensor(NEIGHBOURS, dtype=torch.int32)
    rows = (torch.arange(height, dtype=torch.int32)[:, None] + places[:, 0]).clamp_(0, height - 1)
    columns = (torch.arange(width, dtype=torch.int32)[:, None] + places[:, 1]).clamp_(0, width - 1)
    return ((rows * width)[:, None] + columns).flatten(0, 1)


def _shifted(padded: Tensor, place: tuple[int, int], height: int, width: int) -> Tensor:
    """The neighbours at (rows, columns) from each pixel, of maps that are padded as far as the farthest."""
    row, column = (max(DILATIONS) + n for n in place)
    return padded[:, row : row + height, column : column + width]
