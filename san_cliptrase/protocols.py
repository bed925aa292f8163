"""How a test set is scored: the protocols by name, and what each of them does with each dataset. Tables, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

SQUARES = ("cliptrase", "unsupervised")
"""Protocols that cut image and ground truth to a central square of TEST.SIZE."""

BACKGROUNDS = ("words", "threshold", "learned")
"""How pixels become a dataset's "background": by words, by a low probability, or by SAN's learned background."""

PUBLISHED_SQUARES = (224, 336)
"""Sides of the squares that CLIPtrase was published with, on one of PUBLISHED_MODELS."""

PUBLISHED_MODELS = ("ViT-B-16", "ViT-B-16-quickgelu")
"""The names that the published CLIP, with patches of 16 pixels, has here."""

SLIDE_MAX_SIDE = 2048
"""The longest side of an image that windows slide over."""


@dataclass(frozen=True)
class PaperRules:
    """What CLIPtrase's published evaluation does on one dataset besides cutting squares.

    Attributes:
        cls_prior: multiply patch logits by those of [CLS].
        void_is_background: pixels without a label count as background, unless the whole square is without.
        file_values: stored label value -> class index, or None for pixels that are not scored. Where it is given, the
            label file is read as it is, and values that are not in it keep their meaning.
    """

    cls_prior: bool = False
    void_is_background: bool = False
    file_values: Mapping[int, int | None] = field(default_factory=lambda: MappingProxyType({}))


PAPER_RULES: Mapping[str, PaperRules] = MappingProxyType(
    {
        "voc20_val": PaperRules(cls_prior=True),
        "voc21_val": PaperRules(void_is_background=True),
        "pc60_val": PaperRules(void_is_background=True),
        # Scored on the label maps of COCO-Stuff: the first stuff class is counted as background, the other 90 are not
        # scored at all.
        "coco_object_val": PaperRules(
            void_is_background=True, file_values=MappingProxyType(dict.fromkeys(range(81, 171)))
        ),
    }
)
"""Dataset -> its rules under the protocol ``cliptrase``; others have none."""

SLIDE_SIDES: Mapping[str, int] = MappingProxyType(dict.fromkeys(("cityscapes19_val", "cityscapes27_val"), 560))
"""Dataset -> the short side that windows slide over, where it is not :data:`SLIDE_SIDE`."""

SLIDE_SIDE = 336


@dataclass(frozen=True)
class WindowRules:
    """How the authors of one method evaluate on one dataset: what CLIP sees, and how scores of words become labels.

    Attributes:
        words: the class list ``data/class_names/DATASET_WORDS.txt``, where a comma stands between the words of a class;
            "": the class names.
        side: short side of the image in pixels; the long one is at most :data:`SLIDE_MAX_SIDE`.
        window: side of a window in pixels (``slide_crop``); 0: the image is seen whole.
        stride: step of the windows in pixels (``slide_stride``).
        scale: probabilities are ``softmax(scale * cosine)`` (``logit_scale``), over words, not classes.
        probability: a pixel whose largest probability is below is background (``prob_thd``).
        share: a class with no more than this share of the pixels that are not background is dropped (``area_thd``).
    """

    words: str
    side: int
    window: int
    stride: int
    scale: float
    probability: float = 0.0
    share: float = 0.0


OTHER = "any other dataset"

_SCLIP = WindowRules("sclip", side=336, window=224, stride=112, scale=40.0)
_CLEARCLIP = WindowRules("sclip", side=448, window=448, stride=224, scale=50.0)

WINDOW_PROTOCOLS: Mapping[str, Mapping[str, WindowRules]] = MappingProxyType(
    {
        # wangf3014/SCLIP at b56bd30
        "sclip": {
            "voc21": replace(_SCLIP, scale=65.0, probability=0.1, share=0.1),
            "pc60": replace(_SCLIP, scale=50.0, probability=0.1),
            "coco_object": replace(_SCLIP, scale=50.0, probability=0.1),
            "voc20": _SCLIP,
            "cityscapes19": replace(_SCLIP, side=560),
            "pc59": _SCLIP,
            "ade150": _SCLIP,
            "coco_stuff171": replace(_SCLIP, side=448),
            OTHER: replace(_SCLIP, words=""),
        },
        # sinahmr/NACLIP at 0cac3a6, without PAMR
        "naclip": {
            "voc21": replace(_SCLIP, window=0, probability=0.1),
            "pc60": replace(_SCLIP, probability=0.1),
            "coco_object": replace(_SCLIP, probability=0.1),
            "voc20": replace(_SCLIP, window=0),
            "cityscapes19": replace(_SCLIP, side=560),
            "pc59": _SCLIP,
            "ade150": _SCLIP,
            "coco_stuff171": _SCLIP,
            OTHER: replace(_SCLIP, words=""),
        },
        # mc-lan/ClearCLIP at ad68a40
        "clearclip": {
            "voc21": replace(_CLEARCLIP, words="clearclip", probability=0.5),
            "pc60": replace(_CLEARCLIP, probability=0.15),
            "coco_object": replace(_CLEARCLIP, words="clearclip", probability=0.4),
            "voc20": replace(_CLEARCLIP, words="clearclip"),
            "cityscapes19": replace(_CLEARCLIP, window=224),
            "pc59": _CLEARCLIP,
            "ade150": _CLEARCLIP,
            "coco_stuff171": _CLEARCLIP,
            OTHER: replace(_CLEARCLIP, words=""),
        },
        # SuleBai/SC-CLIP at 0417ba9
        "scclip": {
            "voc21": replace(_SCLIP, scale=50.0, probability=0.15, share=0.1),
            "pc60": replace(_SCLIP, probability=0.15),
            "coco_object": replace(_SCLIP, scale=55.0, probability=0.35),
            "voc20": _SCLIP,
            "cityscapes19": replace(_SCLIP, side=560),
            "pc59": _SCLIP,
            "ade150": _SCLIP,
            "coco_stuff171": _SCLIP,
            OTHER: replace(_SCLIP, words=""),
        },
    }
)
"""Protocol -> dataset without its split -> its rules, as in the authors' configurations and the defaults of their code.
SCLIP, NACLIP and SC-CLIP have the same class lists; ClearCLIP has them but for the three datasets named."""

PROTOCOLS = ("whole", "cliptrase", "slide", "unsupervised", *WINDOW_PROTOCOLS)
"""Whole images; central squares, as CLIPtrase was published; sliding windows in general; clusters matched to classes,
as PiCIE and STEGO; and what the papers of those names do. docs/evaluation.md says what may be compared with what."""


def window_rules(protocol: str, dataset: str) -> WindowRules:
    """The rules of a registered dataset under one of :data:`WINDOW_PROTOCOLS`."""
    rules = WINDOW_PROTOCOLS[protocol]
    return rules.get(dataset.removesuffix("_val").removesuffix("_train"), rules[OTHER])


def paper_rules(dataset: str) -> PaperRules:
    """The rules of a dataset under the protocol ``cliptrase``."""
    return PAPER_RULES.get(dataset, PaperRules())


def slide_side(dataset: str) -> int:
    """The short side in pixels that windows slide over."""
    return SLIDE_SIDES.get(dataset, SLIDE_SIDE)
