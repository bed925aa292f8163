"""Segmentation with a trained SAN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from san_cliptrase.cliptrase.voting import Background
from san_cliptrase.errors import OptionError
from san_cliptrase.san.inference import class_scores
from san_cliptrase.san.model import SanModel
from san_cliptrase.scoring import PLAIN, Scoring
from san_cliptrase.segmenter.method import Method, decided, pillow_resize, shares
from san_cliptrase.structures import Size
from san_cliptrase.windows import Windows

SCORES_AT_ONCE = 2**22


class TrainedSan(Method):
    """A trained SAN, which sees images as ``evaluate`` shows them to it.

    Args:
        model: On its device, in evaluation mode.
        shorter: INPUT.MIN_SIZE_TEST: the shorter side in pixels at which images are seen.
        longest: INPUT.MAX_SIZE_TEST: images whose longer side would be longer are seen in windows.
        config: What the model was built from; written with its weights.
        scoring: See ``Method``.

    Raises:
        OptionError: Its queries start from a control that looks at more than an image.
    """

    def __init__(
        self, model: SanModel, shorter: int, longest: int, config: Mapping[str, Any], scoring: Scoring = PLAIN
    ) -> None:
        source = model.inference_source
        if source is not None and (source.needs_labels or source.needs_batch):
            raise OptionError(
                f"the queries of this SAN start from regions of the ground truth or of other images "
                f"(MODEL.REGIONS.SOURCE {config['MODEL']['REGIONS']['SOURCE']}), a control of evaluation: a single "
                "image has no ground truth and no batch"
            )
        self.model, self.clip, self.templates = model, model.clip, model.templates
        self.shorter, self.longest, self.config, self.scoring = shorter, longest, config, scoring

    def seen_size(self, size: Size) -> Size:
        """The shorter side becomes ``shorter``, as detectron2's ``ResizeShortestEdge`` rounds it."""
        scale = self.shorter / min(size)
        return tuple(self.shorter if side == min(size) else int(side * scale + 0.5) for side in size)

    def is_large(self, image: Tensor) -> bool:
        """Whether ``evaluate`` would shrink the image further."""
        return max(image.shape[-2:]) > self.longest

    def windows(self) -> Windows:
        """Squares of the shorter side, half overlapping."""
        return Windows(self.shorter, self.shorter // 2)

    def resample(self, image: np.ndarray, size: Size) -> np.ndarray:
        """Bilinear, as SAN was trained."""
        return pillow_resize(image, size, Image.Resampling.BILINEAR)

    @torch.no_grad()
    def segment(
        self, images: Sequence[Tensor], text: Tensor, background: Background | None, outputs: Sequence[Size]
    ) -> list[Tensor]:
        """See ``Method``; images that are padded alike are one batch, because padding is part of SAN's canvas."""
        labels: dict[int, Tensor] = {}
        for group in self.model.same_canvas(images):
            sizes = [outputs[index] for index in group]
            found = self.model.classified_masks([images[i] for i in group], text, sizes, at_once=SCORES_AT_ONCE)
            for index, (logits, masks) in zip(group, found, strict=True):
                # In strips: masks and scores of a large vocabulary do not fit into memory at a photograph's size.
                labels[index], done = torch.empty(outputs[index], dtype=torch.int64, device=logits.device), 0
                for strip in masks:
                    labels[index][done : done + strip.shape[1]] = decided(class_scores(logits, strip), background)
                    done += strip.shape[1]
        return [labels[index] for index in range(len(images))]

    @torch.no_grad()
    def scores(self, images: Sequence[Tensor], text: Tensor, background: Background | None) -> Iterator[Tensor]:
        """``sum_q p_qk m_q``, not normalised."""
        for group in self.model.same_canvas(images):  # windows have one size, and a single image is a group
            part = [images[index] for index in group]
            yield from self.model.scores(part, text, [tuple(image.shape[-2:]) for image in part])

    def decide(self, scores: Tensor, background: Background | None) -> Tensor:
        """See ``Method``."""
        return decided(scores, background)

    def normalise(self, scores: Tensor, background: Background | None) -> Tensor:
        """Divided by their sum over the classes, so that they add up to 1 at each pixel."""
        if background is not None:
            best = scores[background.index :].amax(dim=0, keepdim=True)
            scores = torch.cat([scores[: background.index], best])
        return shares(scores)

    @torch.no_grad()
    def regions(self, image: Tensor) -> Tensor:
        """The masks of all queries on the side adapter's patch grid."""
        batch, _, predictions = self.model.predict([image])
        masks = predictions[-1].mask_logits[0].sigmoid()
        shown = (-(-n * m // c) for n, m, c in zip(batch.sizes[0], masks.shape[-2:], batch.canvas, strict=True))
        rows, columns = shown
        return masks[:, :rows, :columns]
