"""From a configuration to the parts of a model: the one place that reads MODEL's keys, with or without detectron2."""

from __future__ import annotations

from typing import Any

from san_cliptrase.clip.build import FrozenClip, build_clip
from san_cliptrase.clip.text_cache import cache_folder
from san_cliptrase.clip.visual import resolve_layer
from san_cliptrase.cliptrase.reader import Cliptrase
from san_cliptrase.errors import OptionError
from san_cliptrase.regions.controls import RegionSource
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.source import OWN, MaskSource, build_mask_source
from san_cliptrase.san.mask_decoder import MaskDecoder
from san_cliptrase.san.network import SideAdapterNetwork
from san_cliptrase.san.query_init import build_query_init
from san_cliptrase.san.recognition import MaskClassifier
from san_cliptrase.san.side_adapter import SideAdapter
from san_cliptrase.windows import Windows


def clip_from_config(cfg: Any) -> FrozenClip:
    """The CLIP that MODEL.CLIP names."""
    node = cfg.MODEL.CLIP
    clip = build_clip(node.NAME, node.PRETRAINED, node.INTERPOLATE_OFFSET, node.TRAINABLE, node.SYNONYMS)
    clip.text.cache = cache_folder(node.TEXT_CACHE)
    return clip


def finder_from_config(cfg: Any, clip: FrozenClip) -> RegionFinder:
    """CLIPtrase's regions on that CLIP, for what names them otherwise: the settings of how CLIP is read do not matter.

    Raises:
        OptionError: MODEL.CLIPTRASE.REGIONS names another source.
    """
    node = cfg.MODEL.CLIPTRASE
    if node.REGIONS != OWN:
        raise OptionError(
            f"MODEL.CLIPTRASE.REGIONS is {node.REGIONS!r}, but SAN's regions come from where "
            f"MODEL.SAN.QUERY_INIT.SOURCE says: leave REGIONS at {OWN!r}"
        )
    return RegionFinder(clip.visual, node.EPS or None, node.MIN_SAMPLES or None, node.CORRELATION)


def cliptrase_from_config(cfg: Any, clip: FrozenClip) -> Cliptrase:
    """CLIPtrase on that CLIP with the settings of MODEL.CLIPTRASE."""
    node = cfg.MODEL.CLIPTRASE
    return Cliptrase(
        clip.visual,
        eps=node.EPS or None,
        min_samples=node.MIN_SAMPLES or None,
        attention=node.ATTENTION,
        classify=node.CLASSIFY,
        cls_layer=node.CLS_LAYER,
        cls_prior=node.CLS_PRIOR,
        correlation=node.CORRELATION,
    )


def mask_source_from_config(cfg: Any, cliptrase: Cliptrase) -> MaskSource | None:
    """The source of regions that MODEL.CLIPTRASE.REGIONS names; None: CLIPtrase's own."""
    node = cfg.MODEL.CLIPTRASE
    return build_mask_source(node.REGIONS, cliptrase, node.REGIONS_PRETRAINED, node.SAM_MODEL, node.SAM_GRID)


def windows_from_config(cfg: Any) -> Windows | None:
    """The windows of TEST.SLIDE, or None where TEST.PROTOCOL is another."""
    return Windows(cfg.TEST.SLIDE.WINDOW, cfg.TEST.SLIDE.STRIDE) if cfg.TEST.PROTOCOL == "slide" else None


def san_parts_from_config(cfg: Any, clip: FrozenClip) -> dict[str, Any]:
    """The arguments of ``SanModel`` that MODEL describes, beside a CLIP."""
    san, depth = cfg.MODEL.SAN, clip.visual.depth
    return {
        "clip": clip,
        # Before the network, whose query initialisation draws last: what the variants share starts equal.
        "classifier": MaskClassifier(clip.visual.embed_dim),
        "network": _network(san, clip),
        "region_source": _region_source(cfg, clip),
        "recognition_blocks": depth - resolve_layer(san.RECOGNITION_LAYER, depth),
        "resolution": cfg.MODEL.CLIP.RESOLUTION,
        "divisibility": san.SIZE_DIVISIBILITY,
        "templates": cfg.MODEL.CLIP.TEMPLATES,
        "cache_gb": cfg.MODEL.CLIP.CACHE_GB,
    }


def _network(san: Any, clip: FrozenClip) -> SideAdapterNetwork:
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


def _region_source(cfg: Any, clip: FrozenClip) -> RegionSource | None:
    """Where MODEL.SAN.QUERY_INIT takes regions from; None for plain SAN."""
    init = cfg.MODEL.SAN.QUERY_INIT
    if init.NAME == "off":
        return None
    finder = finder_from_config(cfg, clip)
    keep_gb = cfg.MODEL.CLIP.CACHE_GB
    return RegionSource(init.SOURCE, finder, init.SCALES, init.GRID_SIDE, cfg.INPUT.IGNORE_LABEL, keep_gb)
