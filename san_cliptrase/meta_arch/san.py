"""SAN as a detectron2 model, with or without queries initialised from CLIPtrase's regions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.clip.cache import FeatureCache
from san_cliptrase.clip.visual import resolve_layer
from san_cliptrase.losses.criterion import SetCriterion
from san_cliptrase.losses.matcher import HungarianMatcher
from san_cliptrase.losses.targets import MaskTarget
from san_cliptrase.meta_arch.inputs import batch_vocabulary, clip_from_config, cliptrase_from_config, image_batch
from san_cliptrase.meta_arch.region_sources import RegionSource, picture_features
from san_cliptrase.san.inference import semantic_map
from san_cliptrase.san.mask_decoder import MaskDecoder
from san_cliptrase.san.network import SideAdapterNetwork, resize_for_clip
from san_cliptrase.san.query_init import build_query_init
from san_cliptrase.san.recognition import MaskClassifier, recognise_masks, recognition_taps
from san_cliptrase.san.side_adapter import SideAdapter
from san_cliptrase.structures import ClipFeatures, Regions


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
        cache_gb: keep CLIP's features of pictures in so many gigabytes; 0: compute them each time.

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
        cache_gb: float = 0.0,
    ) -> None:
        super().__init__()
        self.clip, self.network, self.classifier = clip, network, classifier
        self.criterion, self.region_source = criterion, region_source
        self.recognition_blocks, self.resolution = recognition_blocks, resolution
        self.divisibility, self.templates = divisibility, templates
        taps = {*network.taps, *recognition_taps(clip.visual, recognition_blocks)}
        self.taps = tuple(sorted(taps | set(region_source.taps if region_source else ())))
        self._cache = FeatureCache(clip.visual, self.taps, cache_gb) if cache_gb else None
        if self._cache:
            self.register_load_state_dict_post_hook(lambda *_: self._forget())

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """Reads MODEL and the class list of the training set."""
        clip, san = clip_from_config(cfg), cfg.MODEL.SAN
        depth = clip.visual.depth
        return {
            "clip": clip,
            # Before the network, whose query initialisation draws last: what the variants share starts equal.
            "classifier": MaskClassifier(clip.visual.embed_dim),
            "network": _network_from_config(san, clip),
            "criterion": _criterion_from_config(cfg),
            "region_source": _region_source_from_config(cfg, clip),
            "recognition_blocks": depth - resolve_layer(san.RECOGNITION_LAYER, depth),
            "resolution": cfg.MODEL.CLIP.RESOLUTION,
            "divisibility": san.SIZE_DIVISIBILITY,
            "templates": cfg.MODEL.CLIP.TEMPLATES,
            "cache_gb": cfg.MODEL.CLIP.CACHE_GB,
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.clip.logit_scale.device

    def forward(self, inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training mode, semantic maps in evaluation mode.

        Args:
            inputs: dicts with "image" (3, H, W) uint8 RGB and "vocabulary"; for training "instances"; for
                inference the output size "height", "width".

        Returns:
            {"loss_ce": ..., ...}, or dicts with "sem_seg" (K, height, width).
        """
        text = self.clip.text(batch_vocabulary(inputs), self.templates)
        batch = image_batch(inputs, self.clip, self.device, self.divisibility)
        # As in SAN, padding is part of the canvas for CLIP and side adapter; regions keep to the pictures.
        features = self._clip_features(batch)
        regions = self.find_regions(features, inputs, batch) if self.network.query_init.needs_regions else None
        predictions = self.network(batch.tensor, features, regions)
        if self.training:
            return self._losses(predictions, features, text, inputs, batch)
        final = predictions[-1]
        logits = self._classify(final.attn_bias, features, text)
        padded = tuple(batch.tensor.shape[-2:])
        results = []
        for entry, size, image_logits, masks in zip(inputs, batch.image_sizes, logits, final.mask_logits, strict=True):
            output = (entry.get("height", size[0]), entry.get("width", size[1]))
            results.append({"sem_seg": semantic_map(image_logits, masks, padded, size, output)})
        return results

    def region_tokens(self, inputs: list[dict]) -> Tensor:
        """The mean of the side adapter's own patch tokens over each region of a batch, (regions of all images, C')."""
        batch = image_batch(inputs, self.clip, self.device, self.divisibility)
        features = self._clip_features(batch)
        regions = self.find_regions(features, inputs, batch)
        return self.network.region_tokens(batch.tensor, features, regions)[regions.valid]

    def find_regions(self, features: ClipFeatures, inputs: list[dict], batch: ImageList) -> Regions:
        """Regions of the pictures inside their padded canvas, by the source that the configuration names."""
        sizes = [entry.get("picture_size", size) for entry, size in zip(inputs, batch.image_sizes, strict=True)]
        canvas = tuple(batch.tensor.shape[-2:])
        labels = []
        if self.region_source.needs_labels:
            labels = [_resized_labels(entry, size) for entry, size in zip(inputs, batch.image_sizes, strict=True)]
        regions = self.region_source(picture_features(features, sizes, canvas), labels, canvas)
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

    def _clip_features(self, batch: ImageList) -> ClipFeatures:
        images = resize_for_clip(batch.tensor, self.resolution)
        return self._cache(images) if self._cache else self.clip.visual(images, self.taps)

    def _classify(self, attn_bias: Tensor, features: ClipFeatures, text: Tensor) -> Tensor:
        embeddings = recognise_masks(self.clip.visual, features, attn_bias, self.recognition_blocks)
        return self.classifier(embeddings, text, self.clip.logit_scale)

    def _losses(
        self, predictions: list, features: ClipFeatures, text: Tensor, inputs: list[dict], batch: ImageList
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
        return self.criterion(scored, targets)


def _resized_labels(entry: dict, size: tuple[int, int]) -> Tensor | None:
    """The label map of an entry, if it has one, at the size of its image: test images are resized without it."""
    labels = entry.get("sem_seg")
    if labels is None or labels.shape == size:
        return labels
    return F.interpolate(labels[None, None].float(), size=size, mode="nearest")[0, 0].long()


def _network_from_config(san: Any, clip: FrozenClip) -> SideAdapterNetwork:
    side, init, depth = san.SIDE, san.QUERY_INIT, clip.visual.depth
    adapter = SideAdapter(
        image_size=side.IMAGE_SIZE,
        patch_size=side.PATCH_SIZE,
        width=side.WIDTH,
        depth=side.DEPTH,
        heads=side.HEADS,
        num_queries=san.NUM_QUERIES,
        clip_width=clip.visual.width,
        fusion={side_block: resolve_layer(tap, depth) for tap, side_block in side.FUSION},
        supervised=tuple(side.SUPERVISED),
    )
    decoder = MaskDecoder(side.WIDTH, san.DECODER_WIDTH, san.BIAS_HEADS or clip.visual.heads)
    query_init = build_query_init(
        init.NAME,
        clip_width=clip.visual.width,
        width=side.WIDTH,
        tap=resolve_layer(init.MAP_LAYER, depth),
        zero_init=init.ZERO_INIT,
        mask_strength=init.MASK_STRENGTH,
        bias_strength=init.BIAS_STRENGTH,
        repeat=init.REPEAT,
    )
    return SideAdapterNetwork(adapter, decoder, query_init)


def _region_source_from_config(cfg: Any, clip: FrozenClip) -> RegionSource | None:
    init = cfg.MODEL.SAN.QUERY_INIT
    if init.NAME == "off":
        return None
    cliptrase = cliptrase_from_config(cfg, clip)
    keep = cfg.MODEL.CLIP.CACHE_GB > 0
    return RegionSource(init.SOURCE, cliptrase, init.SCALES, init.GRID_SIDE, cfg.INPUT.IGNORE_LABEL, keep)


def _criterion_from_config(cfg: Any) -> SetCriterion | None:
    if not cfg.DATASETS.TRAIN:
        return None
    san = cfg.MODEL.SAN
    weights = (san.CLASS_WEIGHT, san.MASK_WEIGHT, san.DICE_WEIGHT)
    return SetCriterion(
        len(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).stuff_classes),
        HungarianMatcher(*weights, num_points=san.TRAIN_NUM_POINTS),
        *weights,
        no_object_weight=san.NO_OBJECT_WEIGHT,
        num_points=san.TRAIN_NUM_POINTS,
        oversample_ratio=san.OVERSAMPLE_RATIO,
        importance_sample_ratio=san.IMPORTANCE_SAMPLE_RATIO,
    )
