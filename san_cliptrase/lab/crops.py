"""Cuts random squares from the photographs of a dataset, so that where a thing lies no longer tells what it is.

``python -m san_cliptrase.lab.crops ccp_train ccp_crops_train --count 8`` reads the first dataset and writes the folders
of the second. The squares of a photograph follow from the seed and its stem alone: they are the same on every machine.
"""

from __future__ import annotations

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
from san_cliptrase.errors import DataError

# isort: split
import argparse
import functools
import logging
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from san_cliptrase.data.datasets import datasets_root
from san_cliptrase.data.mapper import record_labels
from san_cliptrase.data.table import DATASETS
from san_cliptrase.files import write_whole
from san_cliptrase.images import read_image, read_values

logger = logging.getLogger(__name__)

LEAST_LABELLED = 0.1
"""Share of a square's pixels that have a class: squares of a wall show nothing to score."""
TRIES = 100
"""Squares that are drawn for one with enough labelled pixels; a photograph without any gives fewer squares."""


def draw_squares(
    rng: np.random.Generator, labelled: np.ndarray, count: int, sides: tuple[float, float]
) -> Iterator[tuple[int, int, int]]:
    """Random squares with at least :data:`LEAST_LABELLED` of their pixels labelled.

    Args:
        rng: decides size and place.
        labelled: (H, W) bool.
        count: how many squares.
        sides: least and greatest side, as shares of the shorter side of the photograph; logarithms are uniform.

    Yields:
        top, left and side in pixels.
    """
    height, width = labelled.shape
    for _ in range(count):
        for _ in range(TRIES):
            side = max(1, round(float(np.exp(rng.uniform(*np.log(sides)))) * min(height, width)))
            top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
            if labelled[top : top + side, left : left + side].mean() >= LEAST_LABELLED:
                yield top, left, side
                break


def cut(source: str, target: str, count: int, sides: tuple[float, float], seed: int) -> int:
    """Writes the squares of a dataset's photographs; label files keep their values.

    Args:
        source, target: names in the table of datasets.
        count: squares of a photograph.
        sides: see :func:`draw_squares`.
        seed: of all draws.

    Returns:
        How many squares there are.

    Raises:
        FileNotFoundError, DataError: a folder is missing, or a file cannot be used.
    """
    metadata, root, written = MetadataCatalog.get(source), datasets_root(), 0
    images, labels = root / DATASETS[target].images, root / DATASETS[target].labels
    for record in DatasetCatalog.get(source):
        image, values = read_image(record["file_name"]), read_values(record["sem_seg_file_name"])
        classes = record_labels(record, metadata.stuff_classes, metadata.ignore_label, image.shape[:2])
        stem = Path(record["file_name"]).stem
        rng = np.random.default_rng((seed, zlib.crc32(stem.encode())))
        for number, (top, left, side) in enumerate(draw_squares(rng, classes != metadata.ignore_label, count, sides)):
            place = np.s_[top : top + side, left : left + side]
            for folder, pixels in ((images, image), (labels, values)):
                path = folder / f"{stem}_{number}.png"
                picture = Image.fromarray(pixels[place])
                write_whole(path, functools.partial(picture.save, format="png", compress_level=1))
            written += 1
    return written


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=sorted(DATASETS), metavar="SOURCE", help="whose photographs are cut")
    parser.add_argument("target", choices=sorted(DATASETS), metavar="TARGET", help="whose folders are written")
    parser.add_argument("--count", type=int, default=4, help="squares of a photograph")
    parser.add_argument(
        "--sides", type=float, nargs=2, default=(0.35, 1.0), help="least and greatest, of the shorter side"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if DATASETS[args.source].images == DATASETS[args.target].images:
        parser.error("SOURCE and TARGET lie in the same folder")
    if args.count < 1 or not 0 < args.sides[0] <= args.sides[1] <= 1:
        parser.error("--count is at least 1, and --sides are two shares with 0 < LEAST <= GREATEST <= 1")
    try:
        written = cut(args.source, args.target, args.count, tuple(args.sides), args.seed)
    except (DataError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    logger.info("%s: %d squares", args.target, written)


if __name__ == "__main__":
    main()
