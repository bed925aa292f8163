"""Trains the small CLIP on photographs, from the names of the classes in crops of them.

``python -m san_cliptrase.convergence.pretrain --dataset camvid_train --output DIR`` writes ``scenes_vit.safetensors``
and ``scenes_vit_record.json`` for ``MODEL.CLIP.PRETRAINED DIR/scenes_vit.safetensors``.

What supervises it: a random crop of a picture, and a caption that names classes with at least :data:`MIN_SHARE` of the
crop's pixels; crops with rare classes are drawn more often. Of the label maps only this set of names enters, never a
position; but it is a set *per crop*, drawn anew for every crop, which says more of where a class is than one set per
picture would. Sets per picture could not be used instead: nearly every picture shows sky, building and road. So this
CLIP is a stand-in that makes experiments on real photographs possible on two cores; it is not a model that has only
read captions. It learns the names of all classes, those too that no mask of SAN's training set shows.
"""

from __future__ import annotations

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)

# isort: split
import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torch import Tensor
from torchvision.transforms import ColorJitter

from san_cliptrase.clip.build import SHIPPED_WEIGHTS
from san_cliptrase.clip.pretrain import Batch, Normalise, Tokenizer, caption_accuracy, caption_batch, fit
from san_cliptrase.data.datasets import DATASETS
from san_cliptrase.data.mapper import record_labels
from san_cliptrase.images import DataError, read_image

SIDE = 96
"""Pixels of a crop's side as the CLIP sees it: the input size of the architecture ``scenes_vit``."""
SCALES = (0.12, 0.6)
"""Least and largest side of a crop, relative to the picture's shorter side; uniform in between. Larger crops of a
street show nearly every class, and a caption that is true of every crop teaches nothing."""
MIN_SHARE = 0.1
"""A class is named if it has this share of the crop's pixels."""
TRIES = 20
"""Crops that are looked at for one with a class chosen at random, so that rare classes are named too."""
HELD_OUT = 256
"""Crops of another split that captions are retrieved for, at each saving."""


class Crops:
    """Random square crops of a data set's pictures, with the names of the classes in each; pictures stay in memory.

    Args:
        dataset: registered name.

    Raises:
        FileNotFoundError: if the data set's folders are missing or incomplete.
        DataError: if a file cannot be read, or no pixel of the data set has a label.
    """

    def __init__(self, dataset: str) -> None:
        metadata = MetadataCatalog.get(dataset)
        self.names = tuple(metadata.stuff_classes)
        self.pictures: list[Image.Image] = []
        self.labels: list[np.ndarray] = []
        for record in DatasetCatalog.get(dataset):
            image = read_image(record["file_name"])
            labels = record_labels(record, self.names, metadata.ignore_label, image.shape[:2])
            if (labels != metadata.ignore_label).any():
                self.pictures.append(Image.fromarray(image))
                # One value behind the last class is what is not labelled: counted, never named.
                self.labels.append(np.where(labels == metadata.ignore_label, len(self.names), labels).astype(np.uint16))
        if not self.pictures:
            raise DataError(f"dataset {dataset!r} has no labelled pixel: there is nothing to make captions of")
        self._jitter = ColorJitter(0.3, 0.3, 0.3)

    def draw(self, rng: np.random.Generator, augment: bool = True) -> tuple[np.ndarray, list[str]]:
        """A random crop in which at least one class has :data:`MIN_SHARE` of the pixels.

        A class is chosen at random first; crops are drawn until one has it, or for :data:`TRIES` times.

        Args:
            rng: decides picture, place, size and flip; the colour jitter draws from torch's generator.
            augment: flip and jitter.

        Returns:
            (3, SIDE, SIDE) uint8, and the names of the classes in it.

        Raises:
            DataError: if no class reaches that share in a thousand crops.
        """
        wanted, tries, names = rng.integers(len(self.names)), 0, []
        while not names or (self.names[wanted] not in names and tries < TRIES):
            tries += 1
            if tries > 1000:
                raise DataError(f"no class has {MIN_SHARE:.0%} of a crop in 1000 crops: the labels are too sparse")
            index = int(rng.integers(len(self.pictures)))
            labels = self.labels[index]
            height, width = labels.shape
            side = max(1, round(rng.uniform(*SCALES) * min(height, width)))
            top, left = (int(rng.integers(size - side + 1)) for size in (height, width))
            inside = labels[top : top + side, left : left + side]
            counts = np.bincount(inside.ravel(), minlength=len(self.names) + 1)[: len(self.names)]
            names = [self.names[i] for i in np.flatnonzero(counts >= MIN_SHARE * inside.size)]
        box = (left, top, left + side, top + side)
        crop = self.pictures[index].resize((SIDE, SIDE), Image.Resampling.BILINEAR, box)
        if augment:
            if rng.random() < 0.5:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            crop = self._jitter(crop)
        return np.asarray(crop).transpose(2, 0, 1), names

    def stack(self, rng: np.random.Generator, count: int, augment: bool = True) -> tuple[Tensor, list[list[str]]]:
        """``count`` crops of :meth:`draw`: (count, 3, SIDE, SIDE) uint8, and the names in each."""
        crops = [self.draw(rng, augment) for _ in range(count)]
        return torch.from_numpy(np.stack([crop for crop, _ in crops])), [names for _, names in crops]


def train(args: argparse.Namespace) -> None:
    """Trains and writes weights and record, on the way too."""
    rng = np.random.default_rng(args.seed)
    crops = Crops(args.dataset)
    images, names = Crops(args.held_out).stack(np.random.default_rng(0), HELD_OUT, augment=False)

    def draw() -> Batch:
        return caption_batch(rng, *crops.stack(rng, args.batch))

    def measure(model: torch.nn.Module, normalise: Normalise, tokenizer: Tokenizer) -> dict:
        return {"crop_to_caption_top1": caption_accuracy(model, normalise, tokenizer, images, names)}

    record = {
        "dataset": args.dataset,
        "held_out": args.held_out,
        "held_out_crops": HELD_OUT,
        "start": args.start,
        "threads": torch.get_num_threads(),
    }
    record |= {key: getattr(args, key) for key in ("seed", "steps", "batch", "lr", "patch_dropout", "unmasked")}
    weights = SHIPPED_WEIGHTS["scenes_vit", "scenes"] if args.start == "scenes" else None
    fit(draw, measure, record, args.output, args.save_every, weights, args.patch_dropout, args.unmasked)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(DATASETS), required=True, help="whose pictures are trained on")
    parser.add_argument("--held-out", choices=sorted(DATASETS), default="camvid_val", help="what retrieval is tried on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", choices=("scenes", "random"), default="scenes", help="weights to start from")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--patch-dropout", type=float, default=0.75, help="share of the patches that a step leaves out")
    parser.add_argument("--unmasked", type=float, default=0.1, help="share of the steps, the last, with all patches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0: as many as it takes by itself")
    parser.add_argument("--save-every", type=int, default=200)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
