"""Segmentation without training: CLIPtrase, or another reading of a frozen CLIP."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from san_cliptrase.clip.batches import image_batch, images_for_source
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.cliptrase.reader import TrainingFreeReader
from san_cliptrase.cliptrase.voting import Background, resize_labels
from san_cliptrase.errors import OptionError
from san_cliptrase.scoring import PLAIN, Scoring
from san_cliptrase.segmenter.method import Method, decided, pillow_resize, shares
from san_cliptrase.structures import ClipFeatures, Size
from san_cliptrase.windows import Windows

MOST_PATCHES = 4096
"""Patches that are seen at once: time and memory of attention and correlation grow with their square."""


class TrainingFree(Method):
    """A frozen CLIP read densely, see ``cliptrase.reader``.

    Args:
        clip: The frozen CLIP.
        reader: How it is read.
        templates: Name of the prompt templates.
        size: Shorter side, in pixels, at which images are seen; None: what CLIP was trained at.
        scoring: See ``Method``.

    Raises:
        OptionError: The size is less than one patch, or the reader looks at the ground truth.
    """

    def __init__(
        self,
        clip: FrozenClip,
        reader: TrainingFreeReader,
        templates: str,
        size: int | None = None,
        scoring: Scoring = PLAIN,
    ) -> None:
        self.clip, self.reader, self.templates = clip, reader, templates
        self.scoring = dataclasses.replace(scoring, patch=min(clip.visual.patch_size))
        if reader.needs_labels or reader.needs_batch:
            raise OptionError(
                "an attention rule with '+truth' and the sources of regions truth and shuffled are controls of "
                "evaluation: a single image has no ground truth and no batch"
            )
        self.size = min(clip.image_size) if size is None else size
        patch = max(clip.visual.patch_size)
        if self.size < patch:
            raise OptionError(f"size {self.size} is less than one patch of {clip.name} ({patch} pixels)")

    def seen_size(self, size: Size) -> Size:
        """The shorter side becomes ``size``."""
        scale = self.size / min(size)
        return tuple(max(self.size, round(side * scale)) for side in size)

    def is_large(self, image: Tensor) -> bool:
        """Whether CLIP would see more than ``MOST_PATCHES``."""
        patches = self.clip.visual.patch_size
        return math.prod(-(-side // p) for side, p in zip(image.shape[-2:], patches, strict=True)) > MOST_PATCHES

    def windows(self) -> Windows:
        """Squares of at most ``MOST_PATCHES``, half overlapping."""
        side = math.isqrt(MOST_PATCHES) * min(self.clip.visual.patch_size)
        return Windows(side, side // 2)

    def resample(self, image: np.ndarray, size: Size) -> np.ndarray:
        """Bicubic, as CLIP was trained."""
        return pillow_resize(image, size, Image.Resampling.BICUBIC)

    @torch.no_grad()
    def segment(
        self, images: Sequence[Tensor], text: Tensor, background: Background | None, outputs: Sequence[Size]
    ) -> list[Tensor]:
        """See ``Method``."""
        found = self.reader.segment(self._features(images), text, self._source_images(images), background)
        return [resize_labels(labels, output) for labels, output in zip(found, outputs, strict=True)]

    @torch.no_grad()
    def scores(self, images: Sequence[Tensor], text: Tensor, background: Background | None) -> Iterator[Tensor]:
        """Logits, or shares of the vote; see ``TrainingFreeReader.scores``."""
        yield from self.reader.scores(self._features(images), text, self._source_images(images), background)

    def decide(self, scores: Tensor, background: Background | None) -> Tensor:
        """See ``Method``."""
        return decided(scores, None if self.reader.votes else background)

    def normalise(self, scores: Tensor, background: Background | None) -> Tensor:
        """Shares of the vote, or ``softmax(s x.t)``, s CLIP's own scale; the best background word stands for all.

        CLIPer's scores are sums of probabilities: divided by their sum over the classes.
        """
        if background is not None and not self.reader.votes:
            best = scores[background.index :].amax(dim=0, keepdim=True)
            scores = torch.cat([scores[: background.index], best])
        return (self.clip.logit_scale * scores.float()).softmax(dim=0) if self.reader.gives_cosines else shares(scores)

    @torch.no_grad()
    def regions(self, image: Tensor) -> Tensor:
        """The regions on CLIP's patch grid; none where every pixel is classified by itself."""
        features = self._features([image])
        if not self.reader.uses_regions:
            return torch.zeros(0, *features.grid)
        return self.reader.source(self._source_images([image]), features).masks[0]

    def _features(self, images: Sequence[Tensor]) -> ClipFeatures:
        batch = image_batch(images, self.clip)
        return self.clip.visual(batch.tensor, self.reader.taps, batch.sizes)

    def _source_images(self, images: Sequence[Tensor]) -> list[Tensor]:
        return images_for_source(images, self.clip.logit_scale.device) if self.reader.needs_images else []
