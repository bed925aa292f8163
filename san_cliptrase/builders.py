"""From a configuration to the parts of a model: the one place that reads MODEL's keys, with or without detectron2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from san_cliptrase.clip.build import FrozenClip, build_clip
from san_cliptrase.clip.text_cache import cache_folder
from san_cliptrase.clip.visual import resolve_layer
from san_cliptrase.cliptrase.classify import classify_parts
from san_cliptrase.cliptrase.reader import TrainingFreeReader
from san_cliptrase.errors import ConfigError, OptionError
from san_cliptrase.protocols import OTHER, WINDOW_PROTOCOLS
from san_cliptrase.refine import refinement
from san_cliptrase.regions.build import build_region_source
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.san.mask_decoder import MaskDecoder
from san_cliptrase.san.network import SideAdapterNetwork
from san_cliptrase.san.query_init import build_query_init
from san_cliptrase.san.recognition import MaskClassifier
from san_cliptrase.san.side_adapter import SideAdapter
from san_cliptrase.scoring import Scoring
from san_cliptrase.windows import Windows


@contextmanager
def _naming(*keys: str) -> Iterator[None]:
    """Says which keys ask for what is refused inside, where the message names no key."""
    try:
        yield
    except OptionError as error:
        message = str(error)
        told = message if "MODEL." in message else f"{' or '.join(keys)}: {message}"
        raise ConfigError(told) from error


def clip_from_config(cfg: Any) -> FrozenClip:
    """The CLIP that MODEL.CLIP names."""
    node = cfg.MODEL.CLIP
    with _naming("MODEL.CLIP.NAME", "MODEL.CLIP.PRETRAINED"):
        clip = build_clip(node.NAME, node.PRETRAINED, node.INTERPOLATE_OFFSET, node.TRAINABLE, node.SYNONYMS)
    clip.text.cache = cache_folder(node.TEXT_CACHE)
    return clip


def region_source_from_config(
    cfg: Any, clip: FrozenClip, name: str = "", refine: str = "", keep_gb: float = 0.0
) -> RegionSource:
    """Where MODEL.REGIONS takes regions from, on that CLIP.

    Args:
        cfg: configuration.
        clip: the frozen CLIP.
        name: in place of MODEL.REGIONS.SOURCE.
        refine: in place of MODEL.REGIONS.REFINE.
        keep_gb: see ``build_region_source``.
    """
    node = cfg.MODEL.REGIONS
    with _naming("MODEL.REGIONS.SOURCE"):
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
            refine=refine or node.REFINE,
            keep_gb=keep_gb,
        )


def reader_from_config(cfg: Any, clip: FrozenClip) -> TrainingFreeReader:
    """The training-free reading of MODEL.CLIPTRASE on that CLIP, with a source of regions where any are used."""
    node = cfg.MODEL.CLIPTRASE
    needed = classify_parts(node.CLASSIFY) != ("patches",) or cfg.TEST.PROTOCOL == "unsupervised"
    source = region_source_from_config(cfg, clip) if needed else None
    with _naming("MODEL.CLIPTRASE.ATTENTION"):  # the other keys' refusals name them
        return TrainingFreeReader(
            clip.visual,
            source,
            attention=node.ATTENTION,
            classify=node.CLASSIFY,
            cls_layer=node.CLS_LAYER,
            cls_prior=node.CLS_PRIOR,
        )


def scoring_from_config(cfg: Any) -> Scoring:
    """TEST.SCALES, FLIP and REFINE, and the windows of TEST.SLIDE or of a paper where TEST.PROTOCOL has some.

    Raises:
        ConfigError: The protocol reads no scores.
    """
    test = cfg.TEST
    windows = Windows(test.SLIDE.WINDOW, test.SLIDE.STRIDE) if test.PROTOCOL == "slide" else None
    if test.PROTOCOL in WINDOW_PROTOCOLS:
        rules = WINDOW_PROTOCOLS[test.PROTOCOL][OTHER]  # those of a dataset come with its entries
        windows = Windows(rules.window, rules.stride)
    scoring = Scoring(tuple(map(float, test.SCALES)), test.FLIP, windows, refinement(test.REFINE))
    if test.PROTOCOL == "unsupervised" and not scoring.is_plain:
        raise ConfigError(
            "TEST.PROTOCOL is 'unsupervised', which clusters features and reads no scores: leave TEST.SCALES at [1.0], "
            "TEST.FLIP at False and TEST.REFINE at none"
        )
    return scoring


def san_parts_from_config(cfg: Any, clip: FrozenClip, training: bool = True) -> dict[str, Any]:
    """The arguments of ``SanModel`` that MODEL describes, beside a CLIP.

    Args:
        cfg: configuration.
        clip: the frozen CLIP.
        training: with a source of regions that only training needs; its weights may be missing where a SAN is used.
    """
    san, depth, keep_gb = cfg.MODEL.SAN, clip.visual.depth, cfg.MODEL.CLIP.CACHE_GB
    # Before the network, whose query initialisation draws last: what the variants share starts equal.
    classifier, network = MaskClassifier(clip.visual.embed_dim), _network(san, clip)
    needed = network.query_init.needs_regions or (training and (san.QUERY_INIT.NAME != "off" or san.PSEUDO_MASKS))
    return {
        "clip": clip,
        "classifier": classifier,
        "network": network,
        "region_source": region_source_from_config(cfg, clip, keep_gb=keep_gb) if needed else None,
        "recognition_blocks": depth - resolve_layer(san.RECOGNITION_LAYER, depth, "MODEL.SAN.RECOGNITION_LAYER"),
        "resolution": cfg.MODEL.CLIP.RESOLUTION,
        "templates": cfg.MODEL.CLIP.TEMPLATES,
        "cache_gb": keep_gb,
        "ignore_label": cfg.INPUT.IGNORE_LABEL,
        "names": _patch_names(cfg.MODEL.CLIPTRASE.ATTENTION, clip) if san.QUERY_INIT.NAME_STRENGTH else None,
    }


def _patch_names(attention: str, clip: FrozenClip) -> TrainingFreeReader:
    """What patches are called under an attention rule, for MODEL.SAN.QUERY_INIT.NAME_STRENGTH."""
    key = "MODEL.CLIPTRASE.ATTENTION"
    with _naming(key):
        reader = TrainingFreeReader(clip.visual, attention=attention, classify="patches")
    if reader.needs_labels or not reader.gives_cosines:
        reason = "looks at the ground truth" if reader.needs_labels else "gives scores that are no cosines"
        raise ConfigError(
            f"{key} is {attention!r}, which {reason}: it cannot name the queries of a SAN. Choose another rule, such "
            "as clip_surgery, or set MODEL.SAN.QUERY_INIT.NAME_STRENGTH to 0"
        )
    return reader


def _fusion(pairs: Iterable[Sequence[int]], depth: int) -> dict[int, int]:
    """Block of the side adapter -> tap of CLIP."""
    key, taps = "MODEL.SAN.SIDE.FUSION", {}
    for tap, block in pairs:
        if block in taps:
            raise ConfigError(f"{key} has two blocks of CLIP for block {block} of the side adapter, which takes one")
        taps[block] = resolve_layer(tap, depth, key)
    return taps


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
        fusion=_fusion(side.FUSION, depth),
        supervised=tuple(side.SUPERVISED),
    )
    decoder = MaskDecoder(side.WIDTH, san.DECODER_WIDTH, clip.visual.heads)
    query_init = build_query_init(
        init.NAME,
        clip_width=clip.visual.width,
        width=side.WIDTH,
        tap=resolve_layer(init.MAP_LAYER, depth, "MODEL.SAN.QUERY_INIT.MAP_LAYER"),
        zero_init=init.ZERO_INIT,
        mask_strength=init.MASK_STRENGTH,
        bias_strength=init.BIAS_STRENGTH,
        name_strength=init.NAME_STRENGTH,
        repeat=init.REPEAT,
        annealed=init.ANNEAL > 0,
    )
    return SideAdapterNetwork(adapter, decoder, query_init)
