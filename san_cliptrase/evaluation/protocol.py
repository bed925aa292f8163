"""TEST.PROTOCOL in a configuration: checked, settled, and put into words for tables."""

from __future__ import annotations

from typing import Any

from detectron2.data import MetadataCatalog

from san_cliptrase.errors import ConfigError
from san_cliptrase.protocols import (
    PUBLISHED_MODELS,
    PUBLISHED_SQUARES,
    SLIDE_SIDE,
    SLIDE_SIDES,
    SQUARES,
)
from san_cliptrase.regions.clustering import default_clustering


def check_test(cfg: Any) -> None:
    """Refuses values of TEST that mean nothing.

    Raises:
        ConfigError: names the key.
    """
    test, training_free = cfg.TEST, cfg.MODEL.META_ARCHITECTURE == "CLIPtrase"
    if test.SLIDE.STRIDE > test.SLIDE.WINDOW:
        raise ConfigError(
            f"TEST.SLIDE.STRIDE is {test.SLIDE.STRIDE}, WINDOW {test.SLIDE.WINDOW}: pixels between windows would be "
            "seen by none, so the stride must be 1 to the window's side"
        )
    if test.BACKGROUND == "learned" and training_free:
        raise ConfigError("TEST.BACKGROUND is 'learned', but CLIPtrase learns none: choose 'words' or 'threshold'")
    if test.BACKGROUND == "threshold" and not 0 < test.BACKGROUND_THRESHOLD < 1:
        raise ConfigError(f"TEST.BACKGROUND_THRESHOLD is {test.BACKGROUND_THRESHOLD}; probabilities lie in 0 to 1")
    if test.PROTOCOL == "unsupervised" and not training_free:
        raise ConfigError(
            "TEST.PROTOCOL is 'unsupervised', which clusters CLIPtrase's features: META_ARCHITECTURE is not"
        )
    source = cfg.MODEL.REGIONS.SOURCE
    if test.PROTOCOL == "unsupervised" and test.UNSUPERVISED.FEATURES == "regions" and source != "cliptrase":
        raise ConfigError(
            "TEST.PROTOCOL is 'unsupervised', which clusters the features of CLIPtrase's own regions, but "
            f"MODEL.REGIONS.SOURCE is {source!r}: leave it at 'cliptrase'"
        )


def settle_protocol(cfg: Any) -> None:
    """Writes what a protocol fixes over what the configuration says, so that ``config.yaml`` holds what is run.

    CLIP sees CLIPtrase's published squares as they are; for the CLIP that they were published with, they come with
    their own radius and core size.
    """
    if cfg.TEST.PROTOCOL not in SQUARES or cfg.MODEL.META_ARCHITECTURE != "CLIPtrase":
        return
    cfg.MODEL.CLIP.RESOLUTION = 1.0
    if cfg.MODEL.CLIP.NAME.replace("/", "-") in PUBLISHED_MODELS and cfg.TEST.SIZE in PUBLISHED_SQUARES:
        node, side = cfg.MODEL.REGIONS, cfg.TEST.SIZE // 16
        node.EPS, node.MIN_SAMPLES = default_clustering((side, side))


def protocol_title(cfg: Any) -> str:
    """The protocol in the words that stand over every table."""
    test = cfg.TEST
    side = test.SLIDE.SIDE or f"{SLIDE_SIDE} (Cityscapes {SLIDE_SIDES['cityscapes19_val']})"
    detail = {
        "whole": f"whole images, short side {cfg.INPUT.MIN_SIZE_TEST}, labels at their own size",
        "cliptrase": f"central squares of {test.SIZE} pixels, image and labels",
        "slide": f"windows of {test.SLIDE.WINDOW} pixels every {test.SLIDE.STRIDE}, short side {side}; whole labels",
        "unsupervised": f"k-means over {test.UNSUPERVISED.FEATURES}, matched to classes; squares of {test.SIZE} pixels",
    }
    return f"protocol {test.PROTOCOL}: {detail[test.PROTOCOL]}{_scoring_title(test)}"


def _scoring_title(test: Any) -> str:
    """What is added to one look at the image, as published numbers mostly have none of it."""
    scales = [f"{scale:g}" for scale in test.SCALES]
    parts = [
        *([f"sizes x {', '.join(scales)}"] if scales != ["1"] else []),
        *(["with mirror images"] if test.FLIP else []),
        *([f"refined by {test.REFINE}"] if test.REFINE != "none" else []),
    ]
    return "".join(f"; {part}" for part in parts)


def background_kind(cfg: Any, dataset: str) -> str:
    """How a dataset's background is found: one of ``BACKGROUNDS``, a threshold with its value; "none": it has none."""
    has_one = MetadataCatalog.get(dataset).stuff_classes[-1] == "background"
    if not has_one or cfg.TEST.PROTOCOL == "unsupervised":
        return "none"
    value = f" {cfg.TEST.BACKGROUND_THRESHOLD:g}" if cfg.TEST.BACKGROUND == "threshold" else ""
    return f"{cfg.TEST.BACKGROUND}{value}"


def row_name(cfg: Any, dataset: str) -> str:
    """A dataset's name in a table, with how its background is found."""
    kind = background_kind(cfg, dataset)
    return dataset if kind == "none" else f"{dataset} (background by {kind})"


def config_value(cfg: Any, key: str) -> Any:
    """The value of a key with dots, tuples as lists."""
    for part in key.split("."):
        cfg = cfg[part]
    return list(cfg) if isinstance(cfg, tuple) else cfg
