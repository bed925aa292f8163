"""CLIPtrase as a detectron2 model: segmentation without training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torchvision.transforms.functional import InterpolationMode, resize

from san_cliptrase.builders import clip_from_config, cliptrase_from_config, mask_source_from_config, windows_from_config
from san_cliptrase.clip.batches import image_batch
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.cliptrase.reader import Cliptrase
from san_cliptrase.cliptrase.voting import decide_pixels, resize_labels
from san_cliptrase.errors import OptionError
from san_cliptrase.meta_arch.inputs import (
    BackgroundReader,
    in_given_order,
    one_hot_scores,
    output_size,
)
from san_cliptrase.regions.controls import patch_classes
from san_cliptrase.regions.source import MaskSource
from san_cliptrase.structures import ClipFeatures
from san_cliptrase.windows import Windows


@META_ARCH_REGISTRY.register()
class CLIPtrase(nn.Module):
    """Training-free open-vocabulary segmentation (Shao et al., ECCV 2024).

    Args:
        clip: the frozen CLIP.
        cliptrase: the method on it.
        resolution: CLIP sees the images at this scale.
        templates: name of the prompt templates.
        background: reads what is background in a batch.
        windows: slide over images instead of seeing them whole; None: do not.
        ignore_label: what marks pixels without a label, for attention rules that look at the ground truth.
        source: of the regions; None: CLIPtrase's own.

    Raises:
        OptionError: an attention rule looks at the ground truth, and windows slide.
    """

    @configurable
    def __init__(
        self,
        clip: FrozenClip,
        cliptrase: Cliptrase,
        resolution: float,
        templates: str,
        background: BackgroundReader,
        windows: Windows | None = None,
        ignore_label: int = 255,
        source: MaskSource | None = None,
    ) -> None:
        super().__init__()
        self.clip, self.cliptrase = clip, cliptrase
        self.resolution, self.templates = resolution, templates
        self.background, self.windows = background, windows
        self.ignore_label, self.source = ignore_label, source
        if windows is not None and cliptrase.rule.truth:
            raise OptionError(
                "an attention rule with '+truth' looks at whole images: TEST.PROTOCOL slide cannot have it"
            )

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """Reads MODEL.CLIP, MODEL.CLIPTRASE and TEST."""
        clip = clip_from_config(cfg)
        cliptrase = cliptrase_from_config(cfg, clip)
        return {
            "clip": clip,
            "cliptrase": cliptrase,
            "source": mask_source_from_config(cfg, cliptrase),
            "resolution": cfg.MODEL.CLIP.RESOLUTION,
            "templates": cfg.MODEL.CLIP.TEMPLATES,
            "background": BackgroundReader.from_config(cfg),
            "windows": windows_from_config(cfg),
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
        """Segments a batch; each image gets what it would get alone.

        Args:
            inputs: dicts with "image" (3, H, W) uint8 RGB, "vocabulary", the output size "height", "width", and maybe
                "background_words" and "cls_prior".

        Returns:
            Per image (height, width) int64 class indices.

        Raises:
            RuntimeError: when called in training mode: there is nothing to train.
            DataError: if there are background words, but the last class is not "background".
        """
        if self.training:
            raise RuntimeError("CLIPtrase has nothing to train: evaluate it with `train_net.py --eval-only`")
        if self.windows is not None:
            return [self._slide(entry) for entry in inputs]
        # Resized before they are padded: no image is mixed with its padding.
        batch = image_batch([entry["image"] for entry in inputs], self.clip, scale=self.resolution)
        features = self.clip.visual(batch.tensor, self.cliptrase.taps, batch.sizes)
        classes, words, background = self.background(inputs, self.clip.logit_scale.item())
        text = self.clip.text(classes, self.templates, words)
        prior = inputs[0].get("cls_prior") or None
        truth = self._true_classes(inputs, features, batch.sizes) if self.cliptrase.rule.truth else None
        regions = self._regions([entry["image"] for entry in inputs], batch.sizes, features)
        found = self.cliptrase.segment(
            features,
            text,
            batch.sizes,
            background=background,
            cls_prior=prior,
            true_classes=truth,
            regions=regions,
        )
        return [resize_labels(labels, output_size(entry)) for labels, entry in zip(found, inputs, strict=True)]

    def _true_classes(self, inputs: list[dict], features: ClipFeatures, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """The ground truth of every patch, as CLIP sees the images."""
        labels = [
            resize(entry["sem_seg"][None], list(size), InterpolationMode.NEAREST)[0] if "sem_seg" in entry else None
            for entry, size in zip(inputs, sizes, strict=True)
        ]
        canvas = tuple(n * p for n, p in zip(features.grid, self.clip.visual.patch_size, strict=True))
        return patch_classes(features, labels, canvas, self.ignore_label)

    def _regions(
        self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]], features: ClipFeatures
    ) -> list[Tensor | None] | None:
        """Of uint8 images, at the sizes that CLIP sees; None: CLIPtrase finds its own."""
        if self.source is None or not self.cliptrase.uses_regions:
            return None
        return self.source([image.to(self.device).float() / 255 for image in images], sizes, features)

    def _slide(self, entry: dict) -> Tensor:
        classes, words, background = self.background([entry], self.clip.logit_scale.item())
        text = self.clip.text(classes, self.templates, words)

        def scores(crops: Sequence[Tensor]) -> Iterator[Tensor]:
            batch = image_batch(crops, self.clip, scale=self.resolution)
            features = self.clip.visual(batch.tensor, self.cliptrase.taps, batch.sizes)
            prior = entry.get("cls_prior") or None
            regions = self._regions(crops, batch.sizes, features)
            return self.cliptrase.scores(features, text, batch.sizes, background, prior, regions)

        average = self.windows.average(entry["image"], scores)
        # Where regions vote, background is a class of the vote.
        return decide_pixels(average, output_size(entry), None if self.cliptrase.classify == "vote" else background)
