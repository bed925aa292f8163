"""CLIPtrase as a detectron2 model: segmentation without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torchvision.transforms.functional import InterpolationMode, resize

from san_cliptrase.builders import clip_from_config, reader_from_config, scoring_from_config
from san_cliptrase.clip.batches import image_batch, images_for_source
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.cliptrase.class_words import ClassWords, decide_by_words
from san_cliptrase.cliptrase.reader import TrainingFreeReader
from san_cliptrase.cliptrase.voting import Background, decide_pixels, resize_labels
from san_cliptrase.meta_arch.inputs import (
    BackgroundReader,
    check_views,
    in_given_order,
    one_hot_scores,
    output_size,
)
from san_cliptrase.protocols import WindowRules
from san_cliptrase.regions.controls import canvas_labels
from san_cliptrase.scoring import PLAIN, Scoring
from san_cliptrase.structures import ClipFeatures
from san_cliptrase.windows import Windows


@META_ARCH_REGISTRY.register()
class CLIPtrase(nn.Module):
    """Training-free open-vocabulary segmentation (Shao et al., ECCV 2024).

    Args:
        clip: the frozen CLIP.
        reader: the training-free reading of it, with its source of regions.
        resolution: CLIP sees the images at this scale.
        templates: name of the prompt templates.
        background: reads what is background in a batch.
        scoring: windows, test-time augmentation and refinement.
        ignore_label: what marks pixels without a label, for controls that look at the ground truth.

    Raises:
        OptionError: images are not seen once and whole, but the attention rule or the source of regions looks at the
            ground truth or at other images of the batch.
    """

    @configurable
    def __init__(
        self,
        clip: FrozenClip,
        reader: TrainingFreeReader,
        resolution: float,
        templates: str,
        background: BackgroundReader,
        scoring: Scoring = PLAIN,
        ignore_label: int = 255,
    ) -> None:
        super().__init__()
        self.clip, self.reader = clip, reader
        self.resolution, self.templates = resolution, templates
        self.background = background
        self.scoring = dataclasses.replace(scoring, patch=max(1, round(min(clip.visual.patch_size) / resolution)))
        self.ignore_label = ignore_label
        check_views(scoring, reader)

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """Reads MODEL.CLIP, MODEL.CLIPTRASE, MODEL.REGIONS and TEST."""
        clip = clip_from_config(cfg)
        return {
            "clip": clip,
            "reader": reader_from_config(cfg, clip),
            "resolution": cfg.MODEL.CLIP.RESOLUTION,
            "templates": cfg.MODEL.CLIP.TEMPLATES,
            "background": BackgroundReader.from_config(cfg),
            "scoring": scoring_from_config(cfg),
            "ignore_label": cfg.INPUT.IGNORE_LABEL,
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.clip.logit_scale.device

    def forward(self, inputs: list[dict]) -> list[dict]:
        """:meth:`label_maps` as detectron2's evaluators expect them.

        Returns:
            Dicts with "sem_seg" (K, height, width), one-hot.
        """
        count = [len(entry.get("vocabulary", ())) for entry in inputs]
        return [
            {"sem_seg": one_hot_scores(labels, k)} for labels, k in zip(self.label_maps(inputs), count, strict=True)
        ]

    @torch.no_grad()
    @in_given_order
    def label_maps(self, inputs: list[dict]) -> list[Tensor]:
        """Segments a batch; each image gets what it would get alone, unless regions are shuffled.

        Args:
            inputs: dicts with "image" (3, H, W) uint8 RGB, "vocabulary", the output size "height", "width", and maybe
                "background_words" and "cls_prior", or "window_rules" and "class_words".

        Returns:
            Per image (height, width) int64 class indices.

        Raises:
            RuntimeError: when called in training mode: there is nothing to train.
            DataError: if there are background words, but the last class is not "background".
        """
        if self.training:
            raise RuntimeError("CLIPtrase has nothing to train: evaluate it with `train_net.py --eval-only`")
        if not self.scoring.is_plain:
            return [
                self._scored_as_published(entry, entry["window_rules"], entry["class_words"])
                if "window_rules" in entry
                else self._scored(entry)
                for entry in inputs
            ]
        # Resized before they are padded: no image is mixed with its padding.
        batch = image_batch([entry["image"] for entry in inputs], self.clip, scale=self.resolution)
        features = self.clip.visual(batch.tensor, self.reader.taps, batch.sizes)
        classes, words, background = self.background(inputs, self.clip.logit_scale.item())
        text = self.clip.text(classes, self.templates, words)
        found = self.reader.segment(
            features,
            text,
            self._source_images([entry["image"] for entry in inputs]),
            background,
            inputs[0].get("cls_prior") or None,
            self._labels(inputs, features) if self.reader.needs_labels else (),
        )
        return [resize_labels(labels, output_size(entry)) for labels, entry in zip(found, inputs, strict=True)]

    def _labels(self, inputs: list[dict], features: ClipFeatures) -> list[Tensor | None]:
        """The ground truth as CLIP sees the images."""
        canvas = tuple(n * p for n, p in zip(features.grid, features.patch_size, strict=True))
        labels = [
            resize(entry["sem_seg"][None], list(size), InterpolationMode.NEAREST)[0] if "sem_seg" in entry else None
            for entry, size in zip(inputs, features.sizes, strict=True)
        ]
        return [canvas_labels(own, canvas, self.ignore_label) for own in labels]

    def _source_images(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Of uint8 images, where regions come from these."""
        return images_for_source(images, self.device) if self.reader.needs_images else []

    def _scored(self, entry: dict) -> Tensor:
        classes, words, background = self.background([entry], self.clip.logit_scale.item())
        text = self.clip.text(classes, self.templates, words)
        prior = entry.get("cls_prior") or None
        found = self.scoring.scores(entry["image"], lambda crops: self._scores(crops, text, background, prior))
        # Where regions vote, background is a class of the vote.
        return decide_pixels(found, output_size(entry), None if self.reader.votes else background)

    def _scored_as_published(self, entry: dict, rules: WindowRules, words: ClassWords) -> Tensor:
        unique = list(dict.fromkeys(words.words))
        text = self.clip.text(unique, self.templates)[[unique.index(word) for word in words.words]]
        windows = Windows(rules.window, rules.stride) if rules.window else None
        scoring = dataclasses.replace(self.scoring, windows=windows)
        found = scoring.scores(entry["image"], lambda crops: self._scores(crops, text))
        return decide_by_words(found, words, output_size(entry), rules)

    def _scores(
        self, crops: Sequence[Tensor], text: Tensor, background: Background | None = None, prior: bool | None = None
    ) -> Iterator[Tensor]:
        batch = image_batch(crops, self.clip, scale=self.resolution)
        features = self.clip.visual(batch.tensor, self.reader.taps, batch.sizes)
        return self.reader.scores(features, text, self._source_images(crops), background, prior)
