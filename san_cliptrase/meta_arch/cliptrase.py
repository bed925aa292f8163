"""CLIPtrase as a detectron2 model: segmentation without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.cliptrase.segmenter import Cliptrase
from san_cliptrase.cliptrase.voting import resize_labels
from san_cliptrase.images import DataError
from san_cliptrase.meta_arch.inputs import (
    batch_vocabulary,
    clip_from_config,
    cliptrase_from_config,
    image_batch,
    one_hot_scores,
)


@META_ARCH_REGISTRY.register()
class CLIPtrase(nn.Module):
    """Training-free open-vocabulary segmentation (Shao et al., ECCV 2024).

    Args:
        clip: the frozen CLIP.
        cliptrase: the method on it.
        resolution: CLIP sees the images at this scale.
        templates: name of the prompt templates.
        background: words that together stand for the vocabulary's last class, which must then be "background".
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
            Dicts with "sem_seg" (K, height, width), one-hot.

        Raises:
            RuntimeError: when called in training mode: there is nothing to train.
            DataError: if there are background words, but the last class is not "background".
        """
        if self.training:
            raise RuntimeError("CLIPtrase has nothing to train: evaluate it with `train_net.py --eval-only`")
        vocabulary = batch_vocabulary(inputs)
        # Resized before they are padded: no image is mixed with its padding.
        batch = image_batch(inputs, self.clip, self.device, scale=self.resolution)
        features = self.clip.visual(batch.tensor, self.cliptrase.taps, batch.image_sizes)
        text, classes = self._text_weights(vocabulary)
        results = []
        for labels, entry in zip(
            self.cliptrase.segment(features, text, batch.image_sizes, classes), inputs, strict=True
        ):
            height, width = entry["image"].shape[-2:]
            labels = resize_labels(labels, (entry.get("height", height), entry.get("width", width)))
            results.append({"sem_seg": one_hot_scores(labels, len(vocabulary))})
        return results

    def _text_weights(self, vocabulary: Sequence[str]) -> tuple[Tensor, int | None]:
        """Text weights, and the number of classes that are not background (None: there are no background words)."""
        if not self.background:
            return self.clip.text(vocabulary, self.templates), None
        *classes, last = vocabulary
        if last != "background":
            raise DataError(f"MODEL.CLIPTRASE.BACKGROUND needs 'background' as the dataset's last class, not {last!r}")
        return self.clip.text(classes, self.templates, self.background), len(classes)
