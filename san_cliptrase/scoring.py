"""How the scores of an image come about beyond one look at it: several sizes, its mirror image, windows, refinement."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.refine import Refinement
from san_cliptrase.refine.pamr import PATCH
from san_cliptrase.structures import Size
from san_cliptrase.windows import Windows

Score = Callable[[Sequence[Tensor]], Iterable[Tensor]]
"""Scores (K, h, w) of each of several images (3, H, W) uint8."""


@dataclass(frozen=True)
class Scoring:
    """Test-time augmentation, windows and refinement, in this order: views inside windows, refinement of the mean.

    Attributes:
        scales: sizes at which an image, or a window of it, is seen, relative to its own; scores are averaged.
        flip: whether its mirror image is seen too, at every size.
        windows: that slide over an image; None: it is seen whole.
        refine: of the scores by the image's edges; None: they stay.
        patch: side of CLIP's patches in pixels of the image; refinement reaches as far.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    windows: Windows | None = None
    refine: Refinement | None = None
    patch: int = PATCH

    @property
    def views(self) -> int:
        """How often an image is seen."""
        return len(self.scales) * (1 + self.flip)

    @property
    def is_plain(self) -> bool:
        """Whether a look at the whole image as it is, is all."""
        return self.scales == (1.0,) and not self.flip and self.windows is None and self.refine is None

    def strips(self, image: Tensor, score: Score) -> Iterator[Tensor]:
        """Scores of an image in strips (K, rows, W) from top to bottom, at its own size.

        Args:
            image: (3, H, W) uint8.
            score: of the model.
        """
        if self.windows is None:
            strips = iter([_resized(next(iter(self._averaged([image], score))), tuple(image.shape[-2:]))])
        else:
            strips = self.windows.strips(image, lambda crops: self._averaged(crops, score))
        if self.refine is None:
            return strips
        first = next(strips)  # tells the device
        return self.refine(itertools.chain([first], strips), image.to(first.device).float() / 255, self.patch)

    def scores(self, image: Tensor, score: Score) -> Tensor:
        """:meth:`strips` in one piece, (K, H, W)."""
        return torch.cat(list(self.strips(image, score)), dim=1)

    def _averaged(self, images: Sequence[Tensor], score: Score) -> Iterator[Tensor]:
        """The mean over all views of each image, (K, H, W)."""
        if self.scales == (1.0,) and not self.flip:
            yield from score(images)
            return
        for image in images:
            size, total = tuple(image.shape[-2:]), None
            for scale in self.scales:
                seen = _resized_image(image, tuple(max(1, round(scale * side)) for side in size))
                for place, scores in enumerate(score([seen, seen.flip(-1)] if self.flip else [seen])):
                    own = _resized(scores.flip(-1) if place else scores, size) / self.views
                    total = own if total is None else total.add_(own)
            yield total


PLAIN = Scoring()
"""One look at the whole image."""


def _resized(scores: Tensor, size: Size) -> Tensor:
    if tuple(scores.shape[-2:]) == size:
        return scores
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]


def _resized_image(image: Tensor, size: Size) -> Tensor:
    """A uint8 image at another size, bilinearly and without aliasing."""
    if tuple(image.shape[-2:]) == size:
        return image
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    return resized.round().to(torch.uint8)
