"""TEST.PROTOCOL in a configuration: checked, settled, and put into words for tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from san_cliptrase.class_lists import find_background
from san_cliptrase.config import KEYS
from san_cliptrase.data.vocabularies import replacement_words
from san_cliptrase.errors import ConfigError
from san_cliptrase.protocols import (
    PUBLISHED_MODELS,
    PUBLISHED_SQUARES,
    SLIDE_SIDE,
    SLIDE_SIDES,
    SQUARES,
    WINDOW_PROTOCOLS,
    slide_side,
    window_rules,
)
from san_cliptrase.regions.clustering import default_clustering

CLASS_NAMES = "class names"
# What the protocols of papers with windows bring with them.
_FIXED = (
    "TEST.SLIDE.SIDE",
    "TEST.SLIDE.WINDOW",
    "TEST.SLIDE.STRIDE",
    "TEST.BACKGROUND",
    "TEST.VOCABULARY",
    "MODEL.CLIPTRASE.BACKGROUND",
    "MODEL.CLIPTRASE.CLS_PRIOR",
)


def check_test(cfg: Any) -> None:
    """Refuses values of TEST that mean nothing.

    Raises:
        ConfigError: names the key.
    """
    test, training_free = cfg.TEST, cfg.MODEL.META_ARCHITECTURE == "CLIPtrase"
    if test.PROTOCOL in WINDOW_PROTOCOLS:
        _check_published_windows(cfg)
    if test.SLIDE.STRIDE > test.SLIDE.WINDOW:
        raise ConfigError(
            f"TEST.SLIDE.STRIDE is {test.SLIDE.STRIDE}, WINDOW {test.SLIDE.WINDOW}: pixels between windows would be "
            "seen by none, so the stride must be 1 to the window's side"
        )
    if test.PROTOCOL == "unsupervised" and test.PICTURES:
        raise ConfigError(
            "TEST.PICTURES shows classes, and TEST.PROTOCOL 'unsupervised' predicts clusters: set it to 0"
        )
    if test.MASKS and training_free:
        raise ConfigError(
            "TEST.MASKS scores the masks of SAN's queries; CLIPtrase has none: set it to False "
            "(reproduce ceilings scores its regions so)"
        )
    if test.MASKS and (test.PROTOCOL != "whole" or test.FLIP or tuple(test.SCALES) != (1.0,) or test.REFINE != "none"):
        raise ConfigError(
            "TEST.MASKS scores the masks of one view of an image: it needs TEST.PROTOCOL whole, TEST.SCALES (1.0,), "
            "TEST.FLIP False and TEST.REFINE none"
        )
    if test.BACKGROUND == "learned" and training_free:
        raise ConfigError("TEST.BACKGROUND is 'learned', but CLIPtrase learns none: choose 'words' or 'threshold'")
    if test.BACKGROUND == "threshold" and not 0 < test.BACKGROUND_THRESHOLD < 1:
        raise ConfigError(f"TEST.BACKGROUND_THRESHOLD is {test.BACKGROUND_THRESHOLD}; probabilities lie in 0 to 1")
    if training_free:
        _check_thresholds(cfg)
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
    if test.PROTOCOL == "unsupervised" and cfg.MODEL.REGIONS.REFINE != "none":
        raise ConfigError(
            "TEST.PROTOCOL is 'unsupervised', which clusters the features of CLIPtrase's own regions, but "
            f"MODEL.REGIONS.REFINE is {cfg.MODEL.REGIONS.REFINE!r}: leave it at 'none'"
        )


def _check_thresholds(cfg: Any) -> None:
    """CLIPer scores patches by sums of probabilities, in whose softmax nearly every pixel is sure of its class."""
    node, protocol = cfg.MODEL.CLIPTRASE, cfg.TEST.PROTOCOL
    if node.ATTENTION != "cliper" or not {"patches", "vote", "mean_logits"} & {*node.CLASSIFY.split("+")}:
        return
    if cfg.TEST.BACKGROUND == "threshold":
        raise ConfigError(
            "TEST.BACKGROUND is 'threshold', a probability made of cosines, but the scores of ATTENTION cliper are "
            "none: choose TEST.BACKGROUND words, or MODEL.CLIPTRASE.CLASSIFY cls or pooled"
        )
    rules = WINDOW_PROTOCOLS.get(protocol, {}) and {name: window_rules(protocol, name) for name in cfg.DATASETS.TEST}
    if asked := [name for name, own in rules.items() if own.probability > 0]:
        raise ConfigError(
            f"TEST.PROTOCOL {protocol!r} finds the background of {', '.join(asked)} by a probability made of cosines, "
            "but the scores of ATTENTION cliper are none: leave these out of DATASETS.TEST, or choose "
            "TEST.PROTOCOL slide"
        )


def _check_published_windows(cfg: Any) -> None:
    """What a paper's protocol fixes must not be asked for otherwise."""
    name = cfg.TEST.PROTOCOL
    if cfg.MODEL.META_ARCHITECTURE != "CLIPtrase" or cfg.MODEL.CLIPTRASE.CLASSIFY == "vote":
        what = "a vote" if cfg.MODEL.META_ARCHITECTURE == "CLIPtrase" else cfg.MODEL.META_ARCHITECTURE
        raise ConfigError(
            f"TEST.PROTOCOL is {name!r}, which decides by cosines of pixels and words; {what} has none: choose "
            "TEST.PROTOCOL slide, or another MODEL.CLIPTRASE.CLASSIFY of CLIPtrase's, such as patches"
        )
    for key in _FIXED:
        usual = KEYS[key].default
        if (value := config_value(cfg, key)) != (list(usual) if isinstance(usual, tuple) else usual):
            raise ConfigError(
                f"{key} is {value!r}, but TEST.PROTOCOL {name!r} has sizes, words and thresholds of its own: leave it "
                f"at {usual!r}, or choose TEST.PROTOCOL slide"
            )


def settle_protocol(cfg: Any) -> None:
    """Writes what a protocol fixes over what the configuration says, so that ``config.yaml`` holds what is run.

    CLIP sees CLIPtrase's published squares, and the windows of papers, as they are; for the CLIP that they were
    published with, the squares come with their own radius and core size.
    """
    if cfg.MODEL.META_ARCHITECTURE != "CLIPtrase" or cfg.TEST.PROTOCOL not in (*SQUARES, *WINDOW_PROTOCOLS):
        return
    cfg.MODEL.CLIP.RESOLUTION = 1.0
    if cfg.TEST.PROTOCOL in WINDOW_PROTOCOLS:
        return
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
    if test.PROTOCOL in WINDOW_PROTOCOLS:
        detail[test.PROTOCOL] = "sizes, words and thresholds of that paper's code, by data set; whole labels"
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


def row_setting(cfg: Any, dataset: str) -> dict[str, str]:
    """How one row of a table was made.

    Returns:
        "protocol" with its sizes and what is added to one look, "words", and "thresholds" of the label decision.
    """
    test = cfg.TEST
    if test.PROTOCOL in WINDOW_PROTOCOLS:
        rules = window_rules(test.PROTOCOL, dataset)
        seen = f"windows {rules.window} every {rules.stride}" if rules.window else "whole"
        thresholds = f"scale {rules.scale:g}, probability {rules.probability:g}, area {rules.share:g}"
        words = rules.words or CLASS_NAMES
        shown = f"{test.PROTOCOL}, {rules.side}, {seen}{_scoring_title(test)}"
        return {"protocol": shown, "words": words, "thresholds": thresholds}
    side = {
        "whole": cfg.INPUT.MIN_SIZE_TEST,
        "slide": f"{test.SLIDE.SIDE or slide_side(dataset)}, windows {test.SLIDE.WINDOW} every {test.SLIDE.STRIDE}",
    }.get(test.PROTOCOL, test.SIZE)
    replaced = replacement_words(test.VOCABULARY, dataset, MetadataCatalog.get(dataset).stuff_classes)
    words = Path(test.VOCABULARY).name if replaced else CLASS_NAMES
    kind = background_kind(cfg, dataset)
    return {
        "protocol": f"{test.PROTOCOL}, {side}{_scoring_title(test)}",
        "words": "none" if test.PROTOCOL == "unsupervised" else words,
        "thresholds": kind.replace("threshold", "probability") if kind.startswith("threshold") else "none",
    }


def one_protocol(protocols: Iterable[str], where: str) -> None:
    """Refuses to put rows of two protocols into one table: they answer different questions.

    Args:
        protocols: of all rows, the name first.
        where: what the table is of, for the message.

    Raises:
        ConfigError: names them.
    """
    names = sorted({protocol.split(",")[0] for protocol in protocols})
    if len(names) > 1:
        raise ConfigError(
            f"{where}: rows of the protocols {' and '.join(names)} do not belong in one table (docs/evaluation.md): "
            "give all of them the same TEST.PROTOCOL, or make a table of each"
        )


def background_kind(cfg: Any, dataset: str) -> str:
    """How a dataset's background is found: one of ``BACKGROUNDS``, a threshold with its value; "none": it has none."""
    has_one = find_background(MetadataCatalog.get(dataset).stuff_classes) is not None
    if not has_one or cfg.TEST.PROTOCOL == "unsupervised":
        return "none"
    if cfg.TEST.PROTOCOL in WINDOW_PROTOCOLS:
        rules = window_rules(cfg.TEST.PROTOCOL, dataset)
        return f"words and threshold {rules.probability:g}" if rules.probability else "words"
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
