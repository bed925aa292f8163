"""What the two ways to segment have in common: one step from images and text weights to label maps."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.cliptrase.voting import Background, decide_pixels, resize_labels
from san_cliptrase.errors import DataError
from san_cliptrase.scoring import Scoring
from san_cliptrase.structures import Size
from san_cliptrase.windows import Windows

MOST_PIXELS = 2**28
"""Pixels of an image as it is seen; a file may have fewer (Pillow's limit), but a line of them grows with its width."""
Read = Callable[[Tensor], Tensor]


class Method(ABC):
    """A way to segment images by text weights: CLIPtrase on a frozen CLIP, or a trained SAN.

    Attributes:
        clip: The frozen CLIP.
        templates: Name of the prompt templates.
        scoring: Test-time augmentation and refinement; windows come with :meth:`windows`.
    """

    clip: FrozenClip
    templates: str
    scoring: Scoring

    @abstractmethod
    def seen_size(self, size: Size) -> Size:
        """(height, width) at which an image of this size is seen."""

    @abstractmethod
    def is_large(self, image: Tensor) -> bool:
        """Whether an image from :meth:`see` has more patches than are seen at once."""

    @abstractmethod
    def windows(self) -> Windows:
        """Windows over such an image."""

    @abstractmethod
    def resample(self, image: np.ndarray, size: Size) -> np.ndarray:
        """An image (H, W, 3) uint8 at the size at which it is seen."""

    @abstractmethod
    def segment(
        self, images: Sequence[Tensor], text: Tensor, background: Background | None, outputs: Sequence[Size]
    ) -> list[Tensor]:
        """Label maps of a batch, each what its image gives alone.

        Args:
            images: Per image (3, h, w) uint8 RGB at the size at which it is seen.
            text: (K + background words, E), rows of length 1.
            background: What scores over the words become; None: there are no background words.
            outputs: (height, width) wanted of each label map.

        Returns:
            Per image (height, width) int64.
        """

    @abstractmethod
    def scores(self, images: Sequence[Tensor], text: Tensor, background: Background | None) -> Iterator[Tensor]:
        """What can be averaged over windows, (K', h, w) of each image; :meth:`decide` and :meth:`normalise` read it."""

    @abstractmethod
    def decide(self, scores: Tensor, background: Background | None) -> Tensor:
        """The class (h, w) int64 of every pixel from :meth:`scores`."""

    @abstractmethod
    def normalise(self, scores: Tensor, background: Background | None) -> Tensor:
        """Probabilities (classes, h, w) from :meth:`scores`: each pixel's add up to 1, background is one class."""

    @abstractmethod
    def regions(self, image: Tensor) -> Tensor:
        """The masks (N, h, w) in [0, 1] that an image, as in :meth:`segment`, is segmented by; N may be 0."""

    def see(self, image: np.ndarray) -> Tensor:
        """(3, h, w) uint8: an image (H, W, 3) uint8 as the model sees it.

        Raises:
            DataError: It is as thin as a line, so that making its shorter side so long would fill the memory.
        """
        size = self.seen_size(image.shape[:2])
        if math.prod(size) > MOST_PIXELS:
            raise DataError(
                f"an image of {image.shape[1]}x{image.shape[0]} pixels would be seen at {size[1]}x{size[0]}, which is "
                "too large: cut it into shorter parts, or choose a smaller size"
            )
        seen = image if image.shape[:2] == size else self.resample(image, size)
        return torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1)))

    def segment_strips(self, image: Tensor, text: Tensor, background: Background | None, output: Size) -> Tensor:
        """The label map (height, width) int64 of an image whose scores are averaged or refined."""
        strips = self._strips(image, text, background, lambda scores: self.decide(scores, background)[None])
        return resize_labels(strips[0], output)

    @torch.no_grad()
    def probabilities(self, image: Tensor, text: Tensor, background: Background | None, output: Size) -> Tensor:
        """Probabilities of the classes at every pixel, (classes, height, width)."""
        if self.is_large(image) or not self.scoring.is_plain:
            found = self._strips(image, text, background, lambda scores: self.normalise(scores, background))
        else:
            found = self.normalise(next(iter(self.scores([image], text, background))), background)
        if tuple(found.shape[-2:]) == tuple(output):
            return found
        return F.interpolate(found[None], size=output, mode="bilinear", align_corners=False)[0]

    @torch.no_grad()
    def _strips(self, image: Tensor, text: Tensor, background: Background | None, read: Read) -> Tensor:
        """What ``read`` makes of the scores, (N, h, w); for a large image in the memory of one row of windows."""
        scoring = dataclasses.replace(self.scoring, windows=self.windows() if self.is_large(image) else None)
        # Strips run along the longer side: those of a panorama are columns.
        turned = image.shape[2] > image.shape[1]

        def score(crops: Sequence[Tensor]) -> Iterator[Tensor]:
            upright = [crop.transpose(1, 2) for crop in crops] if turned else crops
            for scores in self.scores(upright, text, background):
                yield scores.transpose(1, 2) if turned else scores

        strips = scoring.strips(image.transpose(1, 2) if turned else image, score)
        found = torch.cat([read(strip) for strip in strips], dim=1)
        return found.transpose(1, 2) if turned else found


def pillow_resize(image: np.ndarray, size: Size, filter: Image.Resampling) -> np.ndarray:
    """(H, W, 3) uint8 at another (height, width)."""
    return np.asarray(Image.fromarray(image).resize(size[::-1], filter))


def decided(scores: Tensor, background: Background | None) -> Tensor:
    """``decide_pixels`` at the scores' own size."""
    return decide_pixels(scores, tuple(scores.shape[-2:]), background)


def shares(scores: Tensor) -> Tensor:
    """Scores (K, h, w) divided by their sum over the classes; equal shares where all of them are 0."""
    scores = scores.clamp(min=0)  # no share is negative, but refined ones may be by a little
    total = scores.sum(dim=0)
    return torch.where(total > 0, scores / total, 1 / len(scores))
