"""CLIPtrase as a detectron2 model: segmentation without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.cliptrase.segmenter import Cliptrase
from san_cliptrase.cliptrase.voting import resize_labels
from san_cliptrase.meta_arch.inputs import (
    batch_vocabulary,
    clip_from_config,
    cliptrase_from_config,
    image_batch,
    one_hot_scores,
)
from san_cliptrase.san.network import resize_for_clip


@META_ARCH_REGISTRY.register()
class CLIPtrase(nn.Module):
    """Training-free open-vocabulary segmentation (Shao et al., ECCV 2024).

    Args:
        clip: the frozen CLIP.
        cliptrase: the method on it.
        resolution: CLIP sees the images at this scale.
        templates: name of the prompt templates.
        background: words that together stand for one class appended to the vocabulary; may be empty.
    """

    @configurable
    def __init__(
        self, clip: FrozenClip, cliptrase: Cliptrase, resolution: float, templates: str, background: Sequence[str]
    ) -> None:
        super().__init__()
        self.clip, self.cliptrase = clip, cliptrase
        self.resolution, self.templates, self.background = resolution, templates, tuple(background)

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """Reads MODEL.CLIP and MODEL.CLIPTRASE."""
        clip = clip_from_config(cfg)
        return {
            "clip": clip,
            "cliptrase": cliptrase_from_config(cfg, clip),
            "resolution": cfg.MODEL.CLIP.RESOLUTION,
            "templates": cfg.MODEL.CLIP.TEMPLATES,
            "background": cfg.MODEL.CLIPTRASE.BACKGROUND,
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.clip.logit_scale.device

    @torch.no_grad()
    def forward(self, inputs: list[dict]) -> list[dict]:
        """Segments a batch; each image gets what it would get alone.

        Args:
            inputs: dicts with "image" (3, H, W) uint8 RGB, "vocabulary", and the output size "height", "width".

        Returns:
            Dicts with "sem_seg" (K, height, width), one-hot; with background words, one channel more.

        Raises:
            RuntimeError: when called in training mode: there is nothing to train.
        """
        if self.training:
            raise RuntimeError("CLIPtrase has nothing to train: evaluate it with `train_net.py --eval-only`")
        vocabulary = batch_vocabulary(inputs)
        batch = image_batch(inputs, self.clip, self.device, divisibility=0)
        images = resize_for_clip(batch.tensor, self.resolution)
        sizes = [tuple(round(side * self.resolution) for side in size) for size in batch.image_sizes]
        features = self.clip.visual(images, self.cliptrase.taps, sizes)
        text = self.clip.text(vocabulary, self.templates, self.background)
        classes = len(vocabulary) if self.background else None
        channels = len(vocabulary) + bool(self.background)
        results = []
        for labels, size, entry in zip(
            self.cliptrase.segment(features, text, sizes, classes), sizes, inputs, strict=True
        ):
            labels = resize_labels(labels, (entry.get("height", size[0]), entry.get("width", size[1])))
            results.append({"sem_seg": one_hot_scores(labels, channels)})
        return results
