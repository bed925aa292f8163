"""From the values of label files to classes, where a dataset regroups files that exist already.

A reduction is applied when a file is read: COCO-Object, Pascal Context with background and the coarse classes of
unsupervised segmentation need no second copy of the labels, and Cityscapes is read as it is published.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

IGNORED = -1


@dataclass(frozen=True)
class Reduction:
    """What the values of a label file mean.

    Attributes:
        classes: class of the value 0, 1, ... or ``IGNORED``; greater values are errors.
        void: class of the files' ignore value, or ``IGNORED``.
    """

    classes: tuple[int, ...]
    void: int = IGNORED

    def apply(self, labels: np.ndarray, file_ignore: int, ignore_label: int) -> np.ndarray:
        """Classes of checked file values.

        Args:
            labels: integers, each an index into ``classes`` or ``file_ignore``.
            file_ignore: the value that the file has for pixels without a label.
            ignore_label: what to write for pixels without a class.

        Returns:
            int64 array of the same shape.
        """
        table = np.array([ignore_label if name == IGNORED else name for name in self.classes], np.int64)
        result = np.full(labels.shape, ignore_label if self.void == IGNORED else self.void, np.int64)
        known = labels != file_ignore
        result[known] = table[labels[known]]
        return result


# COCO's supercategories of its 80 things are contiguous in the order of its classes: (coarse class, things in it).
_COCO_THINGS = ((9, 1), (11, 8), (8, 5), (7, 10), (6, 5), (10, 10), (5, 7), (2, 10), (3, 6), (0, 6), (1, 5), (4, 7))
# Coarse class -> the stuff classes of COCO-Stuff's hierarchy, as places in the alphabetical list of the 91.
_COCO_STUFF = {
    12: (10, 11),  # ceiling
    13: (9, 22, 23, 24, 25, 26),  # floor
    14: (29, 30, 61, 78),  # food
    15: (6, 15, 16, 18, 20, 31, 38, 41, 64, 69, 73),  # furniture
    16: (8, 40, 47, 51),  # raw material
    17: (0, 1, 12, 13, 17, 39, 45, 49, 60, 75, 76),  # textile
    18: (79, 80, 81, 82, 83, 84, 85),  # wall
    19: (88, 89),  # window
    20: (3, 4, 36, 59, 66, 74),  # building
    21: (19, 33, 34, 44, 48, 52, 53, 55, 57, 62, 67),  # ground
    22: (2, 5, 27, 32, 37, 42, 50, 71, 77),  # plant
    23: (14, 65),  # sky
    24: (35, 43, 58, 68, 70, 90),  # solid
    25: (7, 21, 46, 54, 72),  # structural
    26: (28, 56, 63, 86, 87),  # water
}


def _coco_coarse() -> tuple[int, ...]:
    things = [coarse for coarse, count in _COCO_THINGS for _ in range(count)]
    stuff = {place: coarse for coarse, places in _COCO_STUFF.items() for place in places}
    return (*things, *(stuff[place] for place in range(91)))


# Cityscapes: the ids of its files run from 0 to 33; 0 to 6 are void. The benchmark scores 19 of the other 27.
_CITYSCAPES_19 = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

CCP_UNSEEN = ("bag", "hat", "skirt", "sweater")
"""Kept from SAN's training masks: a thing that is carried, one on the head, a garment below and one above the waist."""

# What the 59 values of Clothing Co-Parsing's label files are called there.
_CCP_FILES = (
    *("null", "accessories", "bag", "belt", "blazer", "blouse", "bodysuit", "boots", "bra", "bracelet", "cape"),
    *("cardigan", "clogs", "coat", "dress", "earrings", "flats", "glasses", "gloves", "hair", "hat", "heels"),
    *("hoodie", "intimate", "jacket", "jeans", "jumper", "leggings", "loafers", "necklace", "panties", "pants"),
    *("pumps", "purse", "ring", "romper", "sandals", "scarf", "shirt", "shoes", "shorts", "skin", "skirt"),
    *("sneakers", "socks", "stockings", "suit", "sunglasses", "sweater", "sweatshirt", "swimwear", "t-shirt"),
    *("tie", "tights", "top", "vest", "wallet", "watch", "wedges"),
)
# Merged class -> the names that become it, chosen before any result: names of things that look nearly the same are one
# class. Not labelled: `null` (all that is not clothes, skin or hair); things of a patch or two, such as jewellery and
# belts; `suit`, which is jacket and trousers at once; underwear, swimwear and bodysuits, of which there are hardly any.
_CCP_MEMBERS = {
    "bag": ("bag", "purse", "wallet"),
    "coat": ("blazer", "cape", "coat", "jacket", "vest"),
    "dress": ("dress", "romper"),
    "hair": ("hair",),
    "hat": ("hat",),
    "jeans": ("jeans",),
    "pants": ("pants",),
    "scarf": ("scarf",),
    "shirt": ("blouse", "shirt", "t-shirt", "top"),
    "shoes": (*("boots", "clogs", "flats", "heels", "loafers", "pumps", "sandals", "shoes", "sneakers", "wedges"),),
    "shorts": ("shorts",),
    "skin": ("skin",),
    "skirt": ("skirt",),
    "stockings": ("leggings", "socks", "stockings", "tights"),
    "sunglasses": ("glasses", "sunglasses"),
    "sweater": ("cardigan", "hoodie", "jumper", "sweater", "sweatshirt"),
}


def _merged(names: Sequence[str], members: Mapping[str, Sequence[str]], without: Collection[str] = ()) -> Reduction:
    """The value of each of ``names`` is the place, among the merged classes that are kept, of the one it belongs to."""
    kept = [merged for merged in members if merged not in without]
    place = {name: kept.index(merged) for merged in kept for name in members[merged]}
    return Reduction(tuple(place.get(name, IGNORED) for name in names))


REDUCTIONS: dict[str, Reduction] = {
    # Things keep their places, all the rest is background; files of COCO-Stuff-171.
    "coco_object": Reduction((*range(80), *[80] * 91), void=80),
    # The 27 classes on which PiCIE, STEGO and what follows them are scored; files of COCO-Stuff-171.
    "coco_stuff27": Reduction(_coco_coarse()),
    # What is none of the 59 classes is background; files of Pascal Context with 59 classes.
    "pc60": Reduction(tuple(range(59)), void=59),
    "cityscapes19": Reduction(tuple(_CITYSCAPES_19.index(i) if i in _CITYSCAPES_19 else IGNORED for i in range(34))),
    "cityscapes27": Reduction((*[IGNORED] * 7, *range(27))),
    "ccp": _merged(_CCP_FILES, _CCP_MEMBERS),
    "ccp_seen": _merged(_CCP_FILES, _CCP_MEMBERS, CCP_UNSEEN),
}
