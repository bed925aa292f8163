"""Overlapping windows over an image: as SCLIP and its family evaluate, and for images too large to be seen whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.structures import Size

logger = logging.getLogger(__name__)

WINDOWS_AT_ONCE = 32


@dataclass(frozen=True)
class Windows:
    """Squares that cover an image in steps; the last of a row or column is moved back inside the image.

    Attributes:
        side: of a window in pixels; a side of the image that is shorter is covered as it is.
        stride: step in pixels, at most ``side``.
    """

    side: int
    stride: int

    def starts(self, length: int) -> list[int]:
        """Where windows begin along a side of the image of this length."""
        last = max(length - self.side, 0)
        return [min(i * self.stride, last) for i in range(-(-last // self.stride) + 1)]

    def strips(self, image: Tensor, score: Callable[[Sequence[Tensor]], Iterable[Tensor]]) -> Iterator[Tensor]:
        """Scores of an image, the mean over the windows that cover a pixel, in the memory of one row of windows.

        Args:
            image: (3, H, W).
            score: scores (K, h, w) of each of several crops of one size.

        Yields:
            Strips (K, rows, W) from top to bottom.
        """
        height, width = image.shape[-2:]
        h, w = min(self.side, height), min(self.side, width)
        tops, lefts = self.starts(height), self.starts(width)
        if len(tops) == len(lefts) == 1:
            _say_that_one_is_all(self.side, (height, width))
        columns = torch.zeros(width, device=image.device)
        for left in lefts:
            columns[left : left + w] += 1
        total, rows = None, torch.zeros(h, device=image.device)  # of the rows from ``top`` on
        for top, following in zip(tops, [*tops[1:], height], strict=True):
            for start in range(0, len(lefts), WINDOWS_AT_ONCE):
                part = lefts[start : start + WINDOWS_AT_ONCE]
                crops = [image[:, top : top + h, left : left + w] for left in part]
                for left, scores in zip(part, score(crops), strict=True):
                    if total is None:
                        total, rows = scores.new_zeros(len(scores), h, width), rows.to(scores.device)
                    total[:, :, left : left + w] += _resized(scores, (h, w))
            rows += 1
            done = following - top
            yield total[:, :done] / (rows[:done, None] * columns.to(total.device))
            # The rows that the next windows cover too move up.
            total = F.pad(total[:, done:], (0, 0, 0, done))
            rows = F.pad(rows[done:], (0, done))


_SAID: set[int] = set()


def _say_that_one_is_all(side: int, size: Size) -> None:
    """Warns at the first such image."""
    if side not in _SAID:
        _SAID.add(side)
        logger.warning(
            "an image of %dx%d pixels has room for one window of %d pixels: it and others so small are seen whole",
            *size,
            side,
        )


def _resized(scores: Tensor, size: Size) -> Tensor:
    if tuple(scores.shape[-2:]) == size:
        return scores
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
