"""SAN as a detectron2 model, with or without queries initialised from CLIPtrase's regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.clip.cache import FeatureCache
from san_cliptrase.clip.recognition import recognition_taps
from san_cliptrase.clip.visual import resolve_layer
from san_cliptrase.cliptrase.voting import decide_pixels
from san_cliptrase.losses.criterion import SetCriterion
from san_cliptrase.losses.targets import MaskTarget
from san_cliptrase.meta_arch.inputs import (
    BackgroundReader,
    batch_vocabulary,
    clip_from_config,
    image_batch,
    images_for_source,
    merge_scores,
    output_size,
    region_source_from_config,
)
from san_cliptrase.meta_arch.san_parts import criterion_from_config, network_from_config
from san_cliptrase.meta_arch.sliding import Windows
from san_cliptrase.regions.controls import canvas_labels, image_features
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.san.inference import class_scores, mask_strips
from san_cliptrase.san.mask_decoder import MaskPrediction
from san_cliptrase.san.network import SideAdapterNetwork, canvas_for_clip
from san_cliptrase.san.recognition import MaskClassifier, recognise_masks
from san_cliptrase.structures import ClipFeatures, Regions

SCORES_AT_ONCE = 2**26


@META_ARCH_REGISTRY.register()
class SAN(nn.Module):
    """Side Adapter Network (Xu et al., CVPR 2023); one pass of the frozen CLIP feeds all of its parts.

    Args:
        clip: the frozen CLIP.
        network: side adapter, query initialisation and mask decoder.
        classifier: logits of mask embeddings.
        criterion: training losses; None for inference only.
        region_source: finds regions; None for plain SAN.
        recognition_blocks: how many of CLIP's last blocks the [SOS] tokens pass.
        resolution: CLIP sees the images at this scale.
        divisibility: images are padded to a multiple of it.
        templates: name of the prompt templates.
        background: reads what is background in a test batch.
        windows: label maps come from windows that slide over the image; None: from the whole image.
        cache_gb: keep CLIP's features of pictures in so many gigabytes; 0: compute them each time.
        ignore_label: what marks pixels without a label, for the source of regions that looks at the ground truth.

    Raises:
        ValueError: CLIP's features are to be kept, but it is trained.
    """

    @configurable
    def __init__(
        self,
        clip: FrozenClip,
        network: SideAdapterNetwork,
        classifier: MaskClassifier,
        criterion: SetCriterion | None,
        region_source: RegionSource | None,
        recognition_blocks: int,
        resolution: float,
        divisibility: int,
        templates: str,
        background: BackgroundReader,
        windows: Windows | None = None,
        cache_gb: float = 0.0,
        ignore_label: int = 255,
    ) -> None:
        super().__init__()
        self.background, self.windows = background, windows
        self.clip, self.network, self.classifier = clip, network, classifier
        self.criterion, self.region_source = criterion, region_source
        self.recognition_blocks, self.resolution = recognition_blocks, resolution
        self.divisibility, self.templates = divisibility, templates
        self.ignore_label = ignore_label
        taps = {*network.taps, *recognition_taps(clip.visual, recognition_blocks)}
        self.taps = tuple(sorted(taps | set(region_source.taps if region_source else ())))
        self._cache = FeatureCache(clip.visual, self.taps, cache_gb) if cache_gb else None
        if self._cache:
            self.register_load_state_dict_post_hook(lambda *_: self._forget())

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """Reads MODEL and the class list of the training set."""
        clip, san = clip_from_config(cfg), cfg.MODEL.SAN
        depth, starts_from_regions = clip.visual.depth, san.QUERY_INIT.NAME != "off"
        return {
            "clip": clip,
            # Before the network, whose query initialisation draws last: what the variants share starts equal.
            "classifier": MaskClassifier(clip.visual.embed_dim),
            "network": network_from_config(san, clip),
            "criterion": criterion_from_config(cfg),
            "region_source": (
                region_source_from_config(cfg, clip, keep_gb=cfg.MODEL.CLIP.CACHE_GB) if starts_from_regions else None
            ),
            "recognition_blocks": depth - resolve_layer(san.RECOGNITION_LAYER, depth),
            "resolution": cfg.MODEL.CLIP.RESOLUTION,
            "divisibility": san.SIZE_DIVISIBILITY,
            "templates": cfg.MODEL.CLIP.TEMPLATES,
            "background": BackgroundReader.from_config(cfg),
            "windows": Windows.from_config(cfg),
            "cache_gb": cfg.MODEL.CLIP.CACHE_GB,
            "ignore_label": cfg.INPUT.IGNORE_LABEL,
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.clip.logit_scale.device

    def forward(self, inputs: list[dict], mask_counts: Sequence[int] | None = None) -> dict[str, Tensor] | list[dict]:
        """Losses in training mode, semantic maps of whole images in evaluation mode.

        Args:
            inputs: dicts with "image" (3, H, W) uint8 RGB and "vocabulary"; for training "instances" and, for points
                that do not depend on the batch, "draw_seed"; for inference the output size "height", "width".
            mask_counts: for training, numbers of instances of all images of the batch that these are a part of.

        Returns:
            {"loss_ce": ..., ...}, or dicts with "sem_seg" (K, height, width).
        """
        if self.training:
            text = self.clip.text(batch_vocabulary(inputs), self.templates)
            batch, features, predictions = self._predict(inputs)
            return self._losses(predictions, features, text, inputs, batch, mask_counts)
        _, _, background = self.background(inputs)
        found = self._classified_masks(inputs, [output_size(entry) for entry in inputs])
        keep = self.background.keeps(background)
        return [{"sem_seg": merge_scores(class_scores(pred, next(masks), keep), background)} for pred, masks in found]

    @torch.no_grad()
    def label_maps(self, inputs: list[dict]) -> list[Tensor]:
        """The class of every pixel, (height, width) int64 per image; each image gets what it would get alone.

        Args:
            inputs: those of :meth:`forward` in evaluation mode.
        """
        if self.windows is not None:
            return [self._slide(entry) for entry in inputs]
        if self.region_source is not None and self.region_source.needs_batch:
            groups = [list(range(len(inputs)))]
        else:
            # Padding is part of SAN's canvas: only images that are padded alike do not see each other in it.
            groups = list(_by_canvas(inputs, self.divisibility).values())
        labels: dict[int, Tensor] = {}
        for group in groups:
            labels.update(zip(group, self._labels([inputs[index] for index in group]), strict=True))
        return [labels[index] for index in range(len(inputs))]

    def _labels(self, inputs: list[dict]) -> Iterator[Tensor]:
        _, _, background = self.background(inputs)
        keep = self.background.keeps(background)
        # In strips: neither masks nor the scores of a large vocabulary fit into memory at a photograph's size.
        for logits, masks in self._classified_masks(inputs, [output_size(entry) for entry in inputs], SCORES_AT_ONCE):
            strips = (class_scores(logits, strip, keep) for strip in masks)
            yield torch.cat([decide_pixels(strip, strip.shape[-2:], background) for strip in strips])

    def _slide(self, entry: dict) -> Tensor:
        _, _, background = self.background([entry])
        keep = self.background.keeps(background)
        # Without the label map, which is one of the whole image.
        words = {key: entry[key] for key in ("vocabulary", "background_words") if key in entry}

        def scores(crops: Sequence[Tensor]) -> Iterator[Tensor]:
            batch = [{**words, "image": crop} for crop in crops]
            found = self._classified_masks(batch, [tuple(crop.shape[-2:]) for crop in crops])
            return (class_scores(pred, next(masks), keep) for pred, masks in found)

        return decide_pixels(self.windows.average(entry["image"], scores), output_size(entry), background)

    def _predict(self, inputs: list[dict]) -> tuple[ImageList, ClipFeatures, list[MaskPrediction]]:
        batch = image_batch(inputs, self.clip, self.device, self.divisibility)
        # As in SAN, padding is part of the canvas for CLIP and side adapter; regions keep to the pictures.
        features = self.clip_features(batch)
        regions = self.find_regions(features, inputs, batch) if self.network.query_init.needs_regions else None
        return batch, features, self.network(batch.tensor, features, regions)

    def _classified_masks(
        self, inputs: list[dict], outputs: list[tuple[int, int]], at_once: int = 0
    ) -> Iterator[tuple[Tensor, Iterator[Tensor]]]:
        """Class logits (Q, words + 1) and masks (Q, *output) of each image of a test batch.

        The masks come in strips, of which masks and scores have at most ``at_once`` values; 0: as one strip.
        """
        classes, words, _ = self.background(inputs)
        batch, features, predictions = self._predict(inputs)
        final, padded = predictions[-1], tuple(batch.tensor.shape[-2:])
        logits = self._classify(final.attn_bias, features, self.clip.text(classes, self.templates, words))
        for pred, masks, size, output in zip(logits, final.mask_logits, batch.image_sizes, outputs, strict=True):
            rows = max(1, at_once // (max(pred.shape) * output[1])) if at_once else output[0]
            yield pred, mask_strips(masks, padded, size, output, rows)

    def region_tokens(self, inputs: list[dict]) -> Tensor:
        """The mean of the side adapter's own patch tokens over each region of a batch, (regions of all images, C')."""
        batch = image_batch(inputs, self.clip, self.device, self.divisibility)
        features = self.clip_features(batch)
        regions = self.find_regions(features, inputs, batch)
        return self.network.region_tokens(batch.tensor, features, regions)[regions.valid]

    def find_regions(self, features: ClipFeatures, inputs: list[dict], batch: ImageList) -> Regions:
        """Regions of the pictures inside their padded canvas, by the source that the configuration names."""
        sizes = [entry.get("picture_size", size) for entry, size in zip(inputs, batch.image_sizes, strict=True)]
        canvas = tuple(batch.tensor.shape[-2:])
        images, labels = [], []
        if self.region_source.needs_images:
            shown = [entry["image"][:, :h, :w] for entry, (h, w) in zip(inputs, sizes, strict=True)]
            images = images_for_source(shown, self.device)
        if self.region_source.needs_labels:
            labels = [_resized_labels(entry, size) for entry, size in zip(inputs, batch.image_sizes, strict=True)]
            labels = [canvas_labels(own, canvas, self.ignore_label) for own in labels]
        regions = self.region_source(images, image_features(features, sizes, canvas), labels)
        if self.training:
            counts = regions.valid.sum(1).float()
            storage = get_event_storage()
            storage.put_scalar("regions/mean_count", counts.mean().item())
            storage.put_scalar("regions/images_without", (counts == 0).float().mean().item())
        return regions

    def _forget(self) -> None:
        self._cache.clear()
        if self.region_source:
            self.region_source.forget()

    def clip_features(self, batch: ImageList) -> ClipFeatures:
        """CLIP's tokens of a padded batch at its resolution; those of pictures that were seen before may be kept."""
        images = canvas_for_clip(batch.tensor, self.resolution, self.clip.visual.patch_size)
        return self._cache(images) if self._cache else self.clip.visual(images, self.taps)

    def _classify(self, attn_bias: Tensor, features: ClipFeatures, text: Tensor) -> Tensor:
        embeddings = recognise_masks(self.clip.visual, features, attn_bias, self.recognition_blocks)
        return self.classifier(embeddings, text, self.clip.logit_scale)

    def _losses(
        self,
        predictions: list,
        features: ClipFeatures,
        text: Tensor,
        inputs: list[dict],
        batch: ImageList,
        mask_counts: Sequence[int] | None,
    ) -> dict[str, Tensor]:
        # [SOS] tokens do not see each other: the queries of all supervised blocks are recognised in one pass.
        biases = torch.cat([p.attn_bias for p in predictions], dim=3)
        logits = self._classify(biases, features, text).chunk(len(predictions), dim=1)
        scored = [(block, p.mask_logits) for block, p in zip(logits, predictions, strict=True)]
        height, width = batch.tensor.shape[-2:]
        targets = []
        for entry in inputs:
            instances = entry["instances"].to(self.device)
            masks = instances.gt_masks.tensor
            canvas = masks.new_zeros(len(masks), height, width)
            canvas[:, : masks.shape[1], : masks.shape[2]] = masks
            targets.append(MaskTarget(instances.gt_classes, canvas))
        seeds = [entry["draw_seed"] for entry in inputs] if "draw_seed" in inputs[0] else []
        return self.criterion(scored, targets, mask_counts, seeds)


def _by_canvas(inputs: Sequence[dict], divisibility: int) -> dict[tuple[int, int], list[int]]:
    """Which images are padded to the same size, when each is padded by itself."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, entry in enumerate(inputs):
        step = max(1, divisibility)
        height, width = (-(-side // step) * step for side in entry["image"].shape[-2:])
        groups.setdefault((height, width), []).append(index)
    return groups


def _resized_labels(entry: dict, size: tuple[int, int]) -> Tensor | None:
    """The label map of an entry, if it has one, at the size of its image: test images are resized without it."""
    labels = entry.get("sem_seg")
    if labels is None or labels.shape == size:
        return labels
    return F.interpolate(labels[None, None].float(), size=size, mode="nearest")[0, 0].long()
