"""Writes the embedded scenes to disk as ordinary image and label files.

``python -m san_cliptrase.scenes.write --output DIR`` writes ``DIR/images/{train,val,tune}/*.png`` and
``DIR/annotations/{train,val,tune}/*.png`` (class index per pixel), the layout of real datasets, and ``classes.txt``.
"""

from __future__ import annotations

import argparse
import logging
import struct
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from san_cliptrase.errors import OutputError
from san_cliptrase.files import write_text_atomically, write_whole
from san_cliptrase.pools import process_pool
from san_cliptrase.scenes.scene import CLASS_NAMES, make_scene

logger = logging.getLogger(__name__)

SPLITS: dict[str, tuple[int, int]] = {"train": (1, 800), "val": (2, 200), "tune": (3, 100)}
"""Split -> (first word of the seeds, number of scenes). Unseen classes do not occur in "train"; settings are chosen on
"tune", so that "val" stays unseen until it is scored."""


def draw_split(root: Path, split: str, first: int = 0) -> None:
    """Draws a split unless it is there already; a run that was cut off is taken up where it stopped.

    Args:
        root: folder to write ``images``, ``annotations`` and ``classes.txt`` into.
        split: a key of :data:`SPLITS`.
        first: how many of its scenes are needed, from the first one on; 0: all.

    Raises:
        OutputError: nothing can be written there.
    """
    seed, count = SPLITS[split]
    folders = [root / kind / split for kind in ("images", "annotations")]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot draw the demo scenes into {root}: {error.strerror or error}. Set DETECTRON2_DATASETS to a folder "
            "that can be written to"
        ) from error
    missing = [
        i for i in range(count)[: first or None] if not all((folder / f"{i:04d}.png").exists() for folder in folders)
    ]
    if not missing:
        return
    logger.info("drawing %d demo scenes into %s", len(missing), root)
    write_text_atomically(root / "classes.txt", "\n".join(CLASS_NAMES) + "\n")
    with process_pool() as pool:
        work = pool.map(partial(_write, root, split, seed), missing, chunksize=8)
        for _ in tqdm(work, f"scenes ({split})", len(missing)):
            pass


def _write(root: Path, split: str, seed: int, index: int) -> None:
    scene = make_scene((seed, index), unseen=split != "train")
    write_whole(root / "images" / split / f"{index:04d}.png", lambda path: path.write_bytes(_png(scene.image)))
    write_whole(root / "annotations" / split / f"{index:04d}.png", Image.fromarray(scene.labels).save)


def _png(image: np.ndarray) -> bytes:
    """An RGB image as a PNG, without filters and compression.

    Pillow looks for the best filter of every row even where it does not compress, and takes longer for that than for
    all else. Compression would save a third of the file, since most of it is sensor noise.
    """
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter, 0 for none
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(rows, 0), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for split in SPLITS:
        draw_split(args.output, split)


if __name__ == "__main__":
    main()
