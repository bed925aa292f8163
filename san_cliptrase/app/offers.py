"""What can be chosen on the page: models, and images that may be shipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from san_cliptrase.scenes import make_scene

EMBEDDED = "scenes_vit@scenes"
CLIPS = (EMBEDDED, "ViT-B-16@openai", "ViT-L-14-336@openai")
EMBEDDED_SIZE = 96
"""The shorter side, in pixels, at which the demo shows its scenes to the embedded CLIP."""
ABOUT_EMBEDDED = (
    "**scenes_vit** is the small CLIP that is part of this package. It knows the **textures** of the demo scenes "
    "(brick, grass, lava, ...) and **no photographs**: on a photograph its names mean nothing."
)
ABOUT_OTHERS = "Published weights come from a model hub on first use (ViT-B-16: 0.6 GB) and are kept for the next time."

_SCENES = (
    (25, "lava, grass", "brick, bubbles, fish scales, grass, lava, snow, water"),
    (5, "clouds, sand", "brick, circuit board, clouds, grass, mosaic, rainbow, sand"),
)
_PHOTOS = (("china.jpg", "temple, sky, tree"), ("flower.jpg", "flower, leaf"))


@dataclass(frozen=True)
class Offers:
    """Models by name, and whether others may be named.

    Attributes:
        clips: MODEL@WEIGHTS; the first is chosen at the start.
        sans: runs and model files.
        others: whether the page takes names that are not in these lists. Whoever can reach the page could otherwise
            have this machine fetch and open files.
    """

    clips: tuple[str, ...]
    sans: tuple[str, ...]
    others: bool

    @classmethod
    def of(cls, clips: Sequence[str], sans: Sequence[str], local: bool) -> Offers:
        """What the command line gives, before what is always there."""
        return cls(tuple(dict.fromkeys([*clips, *CLIPS])), tuple(dict.fromkeys(sans)), local)


@dataclass(frozen=True)
class Example:
    """An image file, words for it, and what it is called."""

    path: str
    words: str
    about: str


def examples(folder: Path) -> list[Example]:
    """Demo scenes and scikit-learn's two photographs, written into a folder."""
    from sklearn.datasets import load_sample_image

    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for index, about, words in _SCENES:
        path = folder / f"scene_{index}.png"
        Image.fromarray(make_scene((2, index)).image).save(path)
        found.append(Example(str(path), words, about))
    for name, words in _PHOTOS:
        path = folder / name
        Image.fromarray(load_sample_image(name)).save(path, quality=92)
        found.append(Example(str(path), words, words.split(",")[0]))
    return found
