"""A whole SAN: from images and text weights to classified masks and label maps. Needs no detectron2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from san_cliptrase.clip.batches import ImageBatch, canvas_for_clip, image_batch, images_for_source
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.clip.cache import FeatureCache
from san_cliptrase.clip.recognition import recognition_taps
from san_cliptrase.errors import OptionError
from san_cliptrase.regions.controls import canvas_labels, image_features
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.san.inference import class_scores, mask_strips
from san_cliptrase.san.mask_decoder import MaskPrediction
from san_cliptrase.san.network import SideAdapterNetwork
from san_cliptrase.san.recognition import MaskClassifier, recognise_masks
from san_cliptrase.structures import ClipFeatures, Regions, Size

Labels = Sequence[Tensor | None]
DIVISIBILITY = 32
"""Images are padded to a multiple of so many pixels, as in SAN."""


class PatchNames(Protocol):
    """What CLIP's patches are called without training, such as ``cliptrase.reader.TrainingFreeReader``.

    Attributes:
        taps: Block inputs that it needs.
    """

    taps: Sequence[int]

    def patch_scores(self, features: ClipFeatures, text_weights: Tensor) -> Tensor:
        """How well each word fits each patch, (B, L, K), as cosines, without gradient."""


class SanModel(nn.Module):
    """Side Adapter Network (Xu et al., CVPR 2023); one pass of the frozen CLIP feeds all of its parts.

    Args:
        clip: The frozen CLIP.
        network: Side adapter, query initialisation and mask decoder.
        classifier: Logits of mask embeddings.
        region_source: Finds regions; None for plain SAN.
        recognition_blocks: How many of CLIP's last blocks the [SOS] tokens pass.
        resolution: CLIP sees the images at this scale.
        templates: Name of the prompt templates.
        cache_gb: Keep CLIP's features of images in so many gigabytes; 0: compute them each time.
        ignore_label: What marks pixels without a label, for a source of regions that looks at the ground truth.
        names: What the patches are called, where regions have a say in the classes of their queries.

    Raises:
        OptionError: CLIP's features are to be kept, but it is trained; padded images do not divide into the side
            adapter's patches; or regions have a say in classes, but there are no names.
    """

    def __init__(
        self,
        clip: FrozenClip,
        network: SideAdapterNetwork,
        classifier: MaskClassifier,
        region_source: RegionSource | None,
        recognition_blocks: int,
        resolution: float,
        templates: str,
        cache_gb: float = 0.0,
        ignore_label: int = 255,
        names: PatchNames | None = None,
    ) -> None:
        super().__init__()
        if DIVISIBILITY % network.adapter.patch_size:
            raise OptionError(
                f"MODEL.SAN.SIDE.PATCH_SIZE is {network.adapter.patch_size}; it must divide {DIVISIBILITY}, to a "
                "multiple of which images are padded"
            )
        if network.query_init.names_queries and names is None:
            raise OptionError(
                "the query initialisation has a strength of names, but nothing says what patches are called"
            )
        self.clip, self.network, self.classifier = clip, network, classifier
        self.region_source, self.names = region_source, names
        self.recognition_blocks, self.resolution = recognition_blocks, resolution
        self.templates = templates
        self.ignore_label = ignore_label
        taps = {*network.taps, *recognition_taps(clip.visual, recognition_blocks)}
        for reader in (region_source, names):
            taps |= {*reader.taps} if reader else set()
        self.taps = tuple(sorted(taps))
        self._cache = FeatureCache(clip.visual, self.taps, cache_gb) if cache_gb else None
        if self._cache:
            self.register_load_state_dict_post_hook(lambda *_: self._forget())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.clip.logit_scale.device

    @property
    def inference_source(self) -> RegionSource | None:
        """Where regions come from at inference; None where none are needed."""
        return self.region_source if self.network.query_init.needs_regions else None

    def predict(self, images: Sequence[Tensor], labels: Labels = ()) -> tuple[ImageBatch, ClipFeatures, MaskPrediction]:
        """Masks and attention biases of a test batch.

        Args:
            images: Per image (3, H, W) uint8 RGB.
            labels: See :meth:`find_regions`.
        """
        batch, features = self.encode(images)
        regions = self.find_regions(features, images, batch, labels) if self.inference_source else None
        return batch, features, self.network(batch.tensor, features, regions)[-1]

    def encode(self, images: Sequence[Tensor]) -> tuple[ImageBatch, ClipFeatures]:
        """Images (3, H, W), uint8 RGB, as one batch, and CLIP's features of it."""
        batch = image_batch(images, self.clip, DIVISIBILITY)
        # As in SAN, padding is part of the canvas for CLIP and side adapter; regions keep to the images.
        return batch, self.clip_features(batch)

    def clip_features(self, batch: ImageBatch) -> ClipFeatures:
        """CLIP's tokens of a padded batch at its resolution; those of images that were seen before may be kept."""
        canvas = canvas_for_clip(batch.tensor, self.resolution, self.clip.visual.patch_size)
        return self._cache(canvas) if self._cache else self.clip.visual(canvas, self.taps)

    def find_regions(
        self,
        features: ClipFeatures,
        images: Sequence[Tensor],
        batch: ImageBatch,
        labels: Labels = (),
        shown: Sequence[Size] | None = None,
    ) -> Regions:
        """Regions of the images inside their padded canvas.

        Args:
            features: Of the batch.
            images: Per image (3, H, W) uint8 RGB.
            batch: What was made of them.
            labels: Label maps (H, W) at any size, for a source that looks at the ground truth.
            shown: (height, width) of the part of each image that is photograph, not filling; None: all of it.
        """
        shown, source = shown or batch.sizes, self.region_source
        seen = []
        if source.needs_images:
            cut = [image[:, :h, :w] for image, (h, w) in zip(images, shown, strict=True)]
            seen = images_for_source(cut, self.device)
        if source.needs_labels:
            labels = [_resized_labels(*one) for one in zip(labels, batch.sizes, strict=True)]
            labels = [canvas_labels(own, batch.canvas, self.ignore_label) for own in labels]
        return source(seen, image_features(features, shown, batch.canvas), labels)

    def region_tokens(self, images: Sequence[Tensor], labels: Labels = ()) -> Tensor:
        """The mean of the side adapter's own patch tokens over each region of a batch, (regions of all images, C')."""
        batch, features = self.encode(images)
        regions = self.find_regions(features, images, batch, labels)
        return self.network.region_tokens(batch.tensor, features, regions)[regions.valid]

    def classify(self, predictions: Sequence[MaskPrediction], features: ClipFeatures, text: Tensor) -> list[Tensor]:
        """Class logits (B, Q, K + 1) of the masks of each prediction; the background is last.

        Where patches have a say, word k of query q gets ``s sum_p votes_qp (l_pk - mean_j l_pj)`` besides: l are the
        patches' cosines with the words, s is CLIP's scale. It moves words against each other, not all against the
        background.
        """
        # [SOS] tokens do not see each other: the queries of all predictions are recognised in one pass.
        biases = torch.cat([prediction.attn_bias for prediction in predictions], dim=3)
        embeddings = recognise_masks(self.clip.visual, features, biases, self.recognition_blocks)
        scale = self.clip.logit_scale
        logits = self.classifier(embeddings, text, scale).chunk(len(predictions), dim=1)
        if all(prediction.votes is None for prediction in predictions):
            return list(logits)
        words = self.names.patch_scores(features, text)
        named = scale * (words - words.mean(dim=-1, keepdim=True))
        return [
            own if prediction.votes is None else own + F.pad(prediction.votes @ named.to(prediction.votes), (0, 1))
            for own, prediction in zip(logits, predictions, strict=True)
        ]

    def classified_masks(
        self, images: Sequence[Tensor], text: Tensor, outputs: Sequence[Size], labels: Labels = (), at_once: int = 0
    ) -> Iterator[tuple[Tensor, Iterator[Tensor]]]:
        """Class logits (Q, K + 1) and masks (Q, *output) of each image of a test batch.

        The masks come in strips, of which masks and scores have at most ``at_once`` values; 0: as one strip.

        Args:
            images: Per image (3, H, W) uint8 RGB.
            text: (K, E), rows of length 1.
            outputs: (height, width) that the masks of each image are wanted at.
            labels: See :meth:`find_regions`.
        """
        batch, features, final = self.predict(images, labels)
        (logits,) = self.classify([final], features, text)
        for pred, masks, size, output in zip(logits, final.mask_logits, batch.sizes, outputs, strict=True):
            rows = max(1, at_once // (max(pred.shape) * output[1])) if at_once else output[0]
            yield pred, mask_strips(masks, batch.canvas, size, output, rows)

    def scores(
        self,
        images: Sequence[Tensor],
        text: Tensor,
        outputs: Sequence[Size],
        labels: Labels = (),
        keep_background: bool = False,
    ) -> Iterator[Tensor]:
        """``sum_q p_qk m_q`` of each image, (K, *output), with the learned background (K + 1, *output)."""
        for logits, masks in self.classified_masks(images, text, outputs, labels):
            yield class_scores(logits, next(masks), keep_background)

    def same_canvas(self, images: Sequence[Tensor]) -> list[list[int]]:
        """Which images see no other's padding: positions of those that are padded to the same size by themselves.

        Padding is part of SAN's canvas, so only these give together what each gives alone.
        """
        groups: dict[Size, list[int]] = {}
        for index, image in enumerate(images):
            height, width = (-(-side // DIVISIBILITY) * DIVISIBILITY for side in image.shape[-2:])
            groups.setdefault((height, width), []).append(index)
        return list(groups.values())

    def _forget(self) -> None:
        self._cache.clear()
        if self.region_source:
            self.region_source.forget()


def _resized_labels(labels: Tensor | None, size: Size) -> Tensor | None:
    """A label map at the size of its image: test images are resized without it."""
    if labels is None or labels.shape == size:
        return labels
    return F.interpolate(labels[None, None].float(), size=size, mode="nearest")[0, 0].long()
