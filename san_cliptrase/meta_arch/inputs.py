"""What both meta-architectures read from detectron2's dicts in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import ImageList
from torch import Tensor

from san_cliptrase.clip.build import FrozenClip, build_clip
from san_cliptrase.clip.text_cache import cache_folder
from san_cliptrase.cliptrase.reader import TrainingFreeReader
from san_cliptrase.cliptrase.voting import Background
from san_cliptrase.errors import DataError, OptionError
from san_cliptrase.regions.build import build_region_source
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.san.network import resize_for_clip

BACKGROUND = "background"
Words = tuple[str, ...]


def clip_from_config(cfg: Any) -> FrozenClip:
    """The CLIP that MODEL.CLIP names."""
    node = cfg.MODEL.CLIP
    clip = build_clip(node.NAME, node.PRETRAINED, node.INTERPOLATE_OFFSET, node.TRAINABLE, node.SYNONYMS)
    clip.text.cache = cache_folder(node.TEXT_CACHE)
    return clip


def region_source_from_config(cfg: Any, clip: FrozenClip, name: str = "", keep_gb: float = 0.0) -> RegionSource:
    """Where MODEL.REGIONS takes regions from, on that CLIP.

    Args:
        cfg: configuration.
        clip: the frozen CLIP.
        name: in place of MODEL.REGIONS.SOURCE.
        keep_gb: see ``build_region_source``.
    """
    node = cfg.MODEL.REGIONS
    return build_region_source(
        name or node.SOURCE,
        clip.visual,
        eps=node.EPS or None,
        min_samples=node.MIN_SAMPLES or None,
        correlation=node.CORRELATION,
        scales=node.SCALES,
        pretrained=node.PRETRAINED,
        sam_model=node.SAM_MODEL,
        sam_grid=node.SAM_GRID,
        grid_side=node.GRID_SIDE,
        keep_gb=keep_gb,
    )


def reader_from_config(cfg: Any, clip: FrozenClip) -> TrainingFreeReader:
    """The training-free reading of MODEL.CLIPTRASE on that CLIP, with a source of regions where any are used."""
    node = cfg.MODEL.CLIPTRASE
    needed = node.CLASSIFY != "patches" or cfg.TEST.PROTOCOL == "unsupervised"
    return TrainingFreeReader(
        clip.visual,
        region_source_from_config(cfg, clip) if needed else None,
        attention=node.ATTENTION,
        classify=node.CLASSIFY,
        cls_layer=node.CLS_LAYER,
        cls_prior=node.CLS_PRIOR,
    )


def image_batch(
    inputs: Sequence[dict], clip: FrozenClip, device: torch.device, divisibility: int = 0, scale: float = 1.0
) -> ImageList:
    """Normalised images of a batch, each resized by ``scale``, padded at the bottom and the right to a common size."""
    images = [clip.normalize(entry["image"].to(device).float() / 255) for entry in inputs]
    return ImageList.from_tensors([resize_for_clip(image[None], scale)[0] for image in images], divisibility)


def images_for_source(images: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """uint8 images as sources of regions read them, see ``RegionSource``."""
    return [image.to(device).float() / 255 for image in images]


def output_size(entry: dict) -> tuple[int, int]:
    """The (height, width) that an entry asks for; without, that of its image."""
    height, width = entry["image"].shape[-2:]
    return entry.get("height", height), entry.get("width", width)


def batch_vocabulary(inputs: Sequence[dict]) -> tuple[str, ...]:
    """The class names that all dicts of a batch carry.

    Raises:
        OptionError: if they carry none, or different ones.
    """
    found = {tuple(entry.get("vocabulary", ())) for entry in inputs}
    if len(found) != 1 or not next(iter(found)):
        raise OptionError(
            f"every input needs the same non-empty 'vocabulary'; this batch of {len(inputs)} has {len(found)} different"
        )
    return next(iter(found))


@dataclass(frozen=True)
class BackgroundReader:
    """TEST.BACKGROUND: what a batch's words and scores mean where its dataset has a class "background".

    Attributes:
        kind: words, threshold or learned.
        words: background words that replace those of the dataset; () keeps the dataset's.
        threshold: of ``threshold``.
    """

    kind: str
    words: Words
    threshold: float

    @classmethod
    def from_config(cls, cfg: Any) -> BackgroundReader:
        """Reads TEST.BACKGROUND, TEST.BACKGROUND_THRESHOLD and MODEL.CLIPTRASE.BACKGROUND."""
        return cls(cfg.TEST.BACKGROUND, tuple(cfg.MODEL.CLIPTRASE.BACKGROUND), cfg.TEST.BACKGROUND_THRESHOLD)

    def __call__(self, inputs: Sequence[dict], scale: float = 0.0) -> tuple[Words, Words, Background | None]:
        """Reads a batch.

        Args:
            inputs: dicts with "vocabulary" and maybe "background_words".
            scale: see ``Background``; used for a threshold.

        Returns:
            The class names to encode, the background words, and how scores over both become classes.

        Raises:
            DataError: if there are background words, but the last class is not "background".
        """
        vocabulary = batch_vocabulary(inputs)
        words = self.words or tuple(inputs[0].get("background_words", ()))
        *classes, last = vocabulary
        if words and last != BACKGROUND:
            raise DataError(
                f"the background words {', '.join(words[:3])}, ... (of the dataset, or of MODEL.CLIPTRASE.BACKGROUND) "
                f"need 'background' as the dataset's last class, not {last!r}"
            )
        if last != BACKGROUND or (self.kind == "words" and not words):
            return vocabulary, (), None
        if self.kind == "words":
            return tuple(classes), words, Background(len(classes))
        threshold = self.threshold if self.kind == "threshold" else 0.0
        return tuple(classes), (), Background(len(classes), threshold, scale)

    def keeps(self, background: Background | None) -> bool:
        """Whether SAN's learned background is a class of its semantic map."""
        return background is not None and self.kind == "learned"


def merge_scores(scores: Tensor, background: Background | None) -> Tensor:
    """(K, H, W) scores whose maximum is the class that ``decide_pixels`` takes, for scores that are probabilities."""
    if background is None:
        return scores
    rest = scores[background.index :]
    if background.threshold > 0:
        rest = torch.full_like(scores[:1], background.threshold)
    return torch.cat([scores[: background.index], rest.amax(dim=0, keepdim=True)])


def one_hot_scores(labels: Tensor, num_classes: int) -> Tensor:
    """(K, H, W) scores of a label map (H, W), as detectron2's evaluators expect them."""
    scores = torch.zeros(num_classes, *labels.shape, device=labels.device)
    return scores.scatter_(0, labels[None], 1.0)
