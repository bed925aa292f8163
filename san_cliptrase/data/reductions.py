"""From the values of label files to classes, where a dataset regroups files that exist already.

A reduction is applied when a file is read: COCO-Object, Pascal Context with background and the coarse classes of
unsupervised segmentation need no second copy of the labels, and Cityscapes is read as it is published.
"""

from __future__ import annotations

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

REDUCTIONS: dict[str, Reduction] = {
    # Things keep their places, all the rest is background; files of COCO-Stuff-171.
    "coco_object": Reduction((*range(80), *[80] * 91), void=80),
    # The 27 classes on which PiCIE, STEGO and what follows them are scored; files of COCO-Stuff-171.
    "coco_stuff27": Reduction(_coco_coarse()),
    # What is none of the 59 classes is background; files of Pascal Context with 59 classes.
    "pc60": Reduction(tuple(range(59)), void=59),
    "cityscapes19": Reduction(tuple(_CITYSCAPES_19.index(i) if i in _CITYSCAPES_19 else IGNORED for i in range(34))),
    "cityscapes27": Reduction((*[IGNORED] * 7, *range(27))),
}
