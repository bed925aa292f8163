"""How a test set is scored: the protocols by name, and what each of them does with each dataset. One table, no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

PROTOCOLS = ("whole", "cliptrase", "slide", "unsupervised")
"""Whole images; central squares, as CLIPtrase was published; sliding windows, as SCLIP and its family; clusters matched
to classes, as PiCIE and STEGO. docs/evaluation.md says what may be compared with what."""

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


def paper_rules(dataset: str) -> PaperRules:
    """The rules of a dataset under the protocol ``cliptrase``."""
    return PAPER_RULES.get(dataset, PaperRules())


def slide_side(dataset: str) -> int:
    """The short side in pixels that windows slide over."""
    return SLIDE_SIDES.get(dataset, SLIDE_SIDE)
