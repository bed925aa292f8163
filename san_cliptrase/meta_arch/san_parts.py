"""The parts that SAN is put together from, as the configuration describes them."""

from __future__ import annotations

from typing import Any

from detectron2.data import MetadataCatalog

from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.clip.visual import resolve_layer
from san_cliptrase.losses.criterion import SetCriterion
from san_cliptrase.losses.matcher import HungarianMatcher
from san_cliptrase.san.mask_decoder import MaskDecoder
from san_cliptrase.san.network import SideAdapterNetwork
from san_cliptrase.san.query_init import build_query_init
from san_cliptrase.san.side_adapter import SideAdapter


def network_from_config(san: Any, clip: FrozenClip) -> SideAdapterNetwork:
    """The learnable network of MODEL.SAN (``san``) beside a CLIP."""
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


def criterion_from_config(cfg: Any) -> SetCriterion | None:
    """The losses, for the classes of the training set; None without one."""
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
