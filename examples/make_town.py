"""Writes a small made-up data set, to follow docs/own_data.md with: ``python examples/make_town.py``.

The photographs are drawn scenes of 18 materials, which the CLIP of the package knows.
"""

import argparse
from pathlib import Path

from PIL import Image

from san_cliptrase.scenes import SEEN_CLASSES, make_scene

SPLITS = {"train": (11, 32), "val": (12, 8)}  # seed and number of images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("town"), metavar="FOLDER", help="default: town")
    folder = parser.parse_args().folder
    for split, (seed, count) in SPLITS.items():
        images, labels = folder / "images" / split, folder / "annotations" / split
        for place in (images, labels):
            place.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            scene = make_scene((seed, index), unseen=False)
            Image.fromarray(scene.image).save(images / f"{index:02}.jpg", quality=95)
            Image.fromarray(scene.labels).save(labels / f"{index:02}.png")
    Image.fromarray(make_scene((13, 0), unseen=False).image).save(folder / "photo.jpg", quality=95)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in SEEN_CLASSES))
    print(f"{folder}: {', '.join(f'{count} images for {split}' for split, (_, count) in SPLITS.items())}")


if __name__ == "__main__":
    main()
