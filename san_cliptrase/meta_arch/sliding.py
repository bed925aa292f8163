"""Overlapping windows over an image, as SCLIP and its family evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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

    @classmethod
    def from_config(cls, cfg: Any) -> Windows | None:
        """The windows of TEST.SLIDE, or None where TEST.PROTOCOL is another."""
        return cls(cfg.TEST.SLIDE.WINDOW, cfg.TEST.SLIDE.STRIDE) if cfg.TEST.PROTOCOL == "slide" else None

    def starts(self, length: int) -> list[int]:
        """Where windows begin along a side of the image of this length."""
        last = max(length - self.side, 0)
        return [min(i * self.stride, last) for i in range(-(-last // self.stride) + 1)]

    def average(self, image: Tensor, score: Callable[[Sequence[Tensor]], Iterable[Tensor]]) -> Tensor:
        """Scores of an image: the mean over the windows that cover a pixel.

        Args:
            image: (3, H, W).
            score: scores (K, h, w) of each of several crops of one size.

        Returns:
            (K, H, W)
        """
        height, width = image.shape[-2:]
        h, w = min(self.side, height), min(self.side, width)
        corners = [(top, left) for top in self.starts(height) for left in self.starts(width)]
        total: Tensor | None = None
        for start in range(0, len(corners), WINDOWS_AT_ONCE):
            batch = corners[start : start + WINDOWS_AT_ONCE]
            crops = [image[:, top : top + h, left : left + w] for top, left in batch]
            for (top, left), scores in zip(batch, score(crops), strict=True):
                if total is None:
                    total = scores.new_zeros(len(scores), height, width)
                total[:, top : top + h, left : left + w] += _resized(scores, (h, w))
        covered = torch.zeros(height, width, device=total.device)
        for top, left in corners:
            covered[top : top + h, left : left + w] += 1
        return total / covered


def _resized(scores: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(scores.shape[-2:]) == size:
        return scores
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
