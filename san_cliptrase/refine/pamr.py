"""Pixel-adaptive mask refinement (PAMR): scores become the mean of those of nearby pixels of similar colour.

After Araslanov and Roth, "Single-stage semantic segmentation from image labels", CVPR 2020, section 4.2, with NACLIP's
settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.refine.coarse import pooled_strips, resized_strips

PATCH = 16
"""Side in pixels of the patches of NACLIP's CLIP, whose settings these are: neighbours at half a patch and at one."""
STEPS = 10
WIDTH = 0.1
"""Of the affinity, in standard deviations of the colours around a pixel."""
CLASSES_AT_ONCE = 32
"""Their rows are read whole by two vector instructions, and what a step writes stays in a cache."""
SCORES_AT_ONCE = 2**26
VALUES_AT_ONCE = 2**18
"""Differences to neighbours that are in a cache at a time."""
PLACES = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))


def pamr(scores: Iterable[Tensor], image: Tensor, patch: int = PATCH, steps: int = STEPS) -> Iterator[Tensor]:
    """Refine scores that come in strips from top to bottom; see ``Refinement`` for the arguments.

    ``steps`` times ``s(p) = sum_n a_n(p) s(n)`` over the 16 neighbours n of :func:`affinities`; beyond the border, its
    pixels are repeated. Scores reach a patch a step, so a strip is given when so many rows below it are known.
    """
    height, reach = image.shape[1], patch * steps
    kept, top, done = None, 0, 0  # kept: rows from ``top`` on
    for strip in scores:
        kept = strip if kept is None else torch.cat([kept, strip], dim=1)
        bottom = top + kept.shape[1]
        ready = height if bottom == height else bottom - reach
        if ready < height and ready - done < reach:
            continue  # rows above and below would be refined again and again
        yield _refined(kept, image[:, top:bottom], patch, steps)[:, done - top : ready - top]
        done = ready
        above = max(done - reach, 0)
        kept, top = kept[:, above - top :], above


def pamr_half(scores: Iterable[Tensor], image: Tensor, patch: int = PATCH) -> Iterator[Tensor]:
    """:func:`pamr` at half the size, for about a quarter of its time: see ``Refinement`` for the arguments.

    Scores and image become means over 2 x 2 pixels, neighbours are half as many pixels away, which is as far in the
    image, and refined scores are resized bilinearly. All of them are in memory at once at that size. An image of one
    row or column is refined as it is.
    """
    size = tuple(image.shape[1:])
    cell = tuple(min(2, side) for side in size)
    small = F.avg_pool2d(image[None].to(torch.promote_types(image.dtype, torch.float32)), cell, cell)[0]
    refined = torch.cat(list(pamr(pooled_strips(scores, cell), small, max(1, patch // 2))), dim=1)
    yield from resized_strips(refined, size)


def affinities(image: Tensor, patch: int = PATCH) -> Tensor:
    """How much each of a pixel's neighbours counts, (3, H, W) to (16, H, W), adding up to 1.

    ``a_n(p) = softmax over n of mean_c -|x_c(p) - x_c(n)| / (0.1 sigma_c(p) + 1e-8)``. The neighbours are those at half
    a patch and at one, straight and diagonal; with patches of 16 pixels, at 8 and 16. sigma is the standard deviation
    (unbiased) over both 3 x 3 sets of points, the pixel itself among both.
    """
    height, width = image.shape[1:]
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    padded = F.pad(image[None], (patch,) * 4, mode="replicate")[0]
    dilations = _dilations(patch)
    scale = (WIDTH * _deviation(padded, dilations) + 1e-8).reciprocal_().div_(len(image)).to(image)
    distances = image.new_empty(2, len(PLACES), height, width)
    rows = max(1, VALUES_AT_ONCE // (len(PLACES) * image[:, 0].numel()))
    for strip in (slice(top, min(top + rows, height)) for top in range(0, height, rows)):
        own, weight = image[:, None, None, strip], scale[:, None, None, strip]
        for found, dilation in zip(distances, dilations, strict=True):
            difference = _around(padded, dilation, patch, strip) - own
            found[:, strip] = difference.abs_().mul_(weight).sum(0).flatten(0, 1)
    middle = len(PLACES) // 2  # the pixel itself
    return torch.cat([distances[:, :middle], distances[:, middle + 1 :]], dim=1).flatten(0, 1).neg_().softmax(0)


def _dilations(patch: int) -> tuple[int, int]:
    """Distances of the neighbours: half a patch and one."""
    return max(1, patch // 2), patch


def _around(padded: Tensor, dilation: int, margin: int, rows: slice) -> Tensor:
    """The 3 x 3 points around each pixel of some rows, (3, 3, 3, rows, W), of maps (3, H, W) padded by a margin."""
    channel, row, column = padded.stride()
    size = (len(padded), 3, 3, rows.stop - rows.start, padded.shape[2] - 2 * margin)
    first = (margin - dilation + rows.start) * row + (margin - dilation) * column
    return padded.as_strided(size, (channel, dilation * row, dilation * column, row, column), first)


def _deviation(padded: Tensor, dilations: tuple[int, int]) -> Tensor:
    """The sigma of :func:`affinities`, (3, H, W), from sums along rows and then along columns.

    In double precision: in single, squares of the values would lose digits where colours hardly differ.
    """
    first, margin, count = padded.double(), max(dilations), len(PLACES) * len(dilations)
    height, width = (side - 2 * margin for side in padded.shape[1:])
    total, squares = (torch.zeros(len(padded), height, width, dtype=first.dtype, device=first.device) for _ in range(2))
    for maps, sums in ((first, total), (first.square(), squares)):
        for d in dilations:
            low, middle, high = (slice(margin + n, margin + n + height) for n in (-d, 0, d))
            lines = maps[:, low] + maps[:, middle]
            lines += maps[:, high]
            for n in (-d, 0, d):
                sums += lines[:, :, margin + n : margin + n + width]
    return squares.sub_(total.square_().div_(count)).div_(count - 1).clamp_(min=0).sqrt_()


def _refined(scores: Tensor, image: Tensor, patch: int, steps: int) -> Tensor:
    """All steps of (K, H, W) scores whose rows are all that there is, a few classes at a time."""
    height, width = scores.shape[1:]
    weights = affinities(image, patch).flatten(1).T.contiguous()
    neighbours = _neighbours(height, width, patch).to(scores.device)
    refined = torch.empty(scores.shape, dtype=weights.dtype, device=scores.device)
    at_once = max(1, min(CLASSES_AT_ONCE, SCORES_AT_ONCE // (height * width)))
    for source, target in zip(scores.split(at_once), refined.split(at_once), strict=True):
        # A pixel is a row of the classes' scores, and takes a weighted sum of its neighbours' rows.
        rows = source.to(weights.dtype).flatten(1).T.contiguous()
        for _ in range(steps):
            rows = F.embedding_bag(neighbours, rows, per_sample_weights=weights, mode="sum")
        target.copy_(rows.T.view_as(target))
    return refined


def _neighbours(height: int, width: int, patch: int) -> Tensor:
    """The number of each pixel's neighbours, counted row by row: (H W, 16) int32."""
    offsets = [(d * row, d * column) for d in _dilations(patch) for row, column in PLACES if (row, column) != (0, 0)]
    places = torch.tensor(offsets, dtype=torch.int32)
    rows = (torch.arange(height, dtype=torch.int32)[:, None] + places[:, 0]).clamp_(0, height - 1)
    columns = (torch.arange(width, dtype=torch.int32)[:, None] + places[:, 1]).clamp_(0, width - 1)
    return ((rows * width)[:, None] + columns).flatten(0, 1)
