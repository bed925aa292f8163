"""A miniature in the layout of Clothing Co-Parsing."""

import json

import numpy as np
from PIL import Image

HAIR, COAT, PANTS, HEELS, SHOES = 19, 13, 31, 21, 39  # values of its label files
COLOURS = {HAIR: (90, 50, 20), COAT: (200, 30, 30), PANTS: (30, 30, 200), SHOES: (20, 160, 20), 0: (220, 220, 220)}


def person(size=(96, 64)):
    """(image, label values) of somebody in a coat and pants, hair above and shoes below."""
    labels = np.zeros(size, np.uint8)
    for value, (top, bottom) in {HAIR: (0, 16), COAT: (16, 48), PANTS: (48, 80), SHOES: (80, 96)}.items():
        labels[top:bottom, 16:48] = value
    image = np.zeros((*size, 3), np.uint8)
    for value, colour in COLOURS.items():
        image[labels == value] = colour
    return image, labels


def write_ccp(root, count=2):
    """Writes every split, and tagged photographs beside them."""
    image, labels = person()
    for split in ("train", "val", "test"):
        for kind, values, suffix in (("images", image, "jpg"), ("annotations", labels, "png")):
            folder = root / "ccp" / kind / split
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(values).save(folder / f"{number}.{suffix}")
    (root / "ccp" / "images" / "tagged").mkdir()
    Image.fromarray(image).save(root / "ccp" / "images" / "tagged" / "9.jpg")
    (root / "ccp" / "tags.json").write_text(json.dumps({"9": [0, HEELS, COAT]}))
