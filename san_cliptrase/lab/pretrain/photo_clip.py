"""Trains the small CLIP on photographs, from the names of the classes in crops of them.

``python -m san_cliptrase.lab.pretrain.photo_clip --dataset camvid_train --output DIR`` writes a folder for
``MODEL.CLIP.NAME local-dir:DIR``, with a ``record.json`` of what was done and how well names are found.

What supervises it: a square crop of a image, and a caption that names classes with at least :data:`MIN_SHARE` of the
crop's pixels; crops are drawn so that every class is met about as often. A crop is an image of its own, of 2x2 patches
to two thirds of the picture's height, at about the scale at which the configurations show images to CLIP. Of the
label maps only this set of names enters, never a position; but it is a set *per crop*, drawn anew for every crop, which
says more of where a class is than one set per image would. On CamVid sets per image could not be used instead:
nearly every image shows sky, building and road. So this CLIP is a stand-in that makes experiments on real photographs
possible on two cores; it is not a model that has only read captions. It learns the names of all classes, those too that
no mask of SAN's training set shows.

With ``--words photo`` a caption names classes of the whole photograph, and is as true of every view of it as it is of
the photograph: nothing of a label map but the set of its classes enters. ``--tagged`` adds the photographs without
label maps that lie beside the dataset. Several views of a photograph share a caption, which has to fit one of them.
"""

from __future__ import annotations

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
from san_cliptrase.errors import DataError

# isort: split
import argparse
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.transforms import ColorJitter

from san_cliptrase.clip.build import SHIPPED_WEIGHTS
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.data.datasets import DATASETS
from san_cliptrase.data.mapper import record_labels
from san_cliptrase.data.own import OWN, register_own
from san_cliptrase.images import read_image
from san_cliptrase.lab.pretrain.captions import Batch, caption_batch
from san_cliptrase.lab.pretrain.contrastive import Normalise, Tokenizer, architecture, fit
from san_cliptrase.lab.pretrain.tagged import Views, words_of_labels, words_of_tags

SHORT_SIDE = 192
"""Pixels of a whole picture's shorter side as CLIP sees it: INPUT.MIN_SIZE_TEST x RESOLUTION of configs/camvid."""
PATCH = 8
"""Pixels of a patch's side in the architecture ``scenes_vit``."""
WINDOWS = (2, 3, 4, 6, 8, 12, 16)
"""Patches along a crop's side, one of these in each step; a whole image has 24 along its shorter side."""
VIEWS = (8, 12, 16, 24)
"""The same of views with --words photo, which need more of a photograph for its words to hold."""
ZOOM = (0.7, 1.4)
"""A crop is resized by up to these factors, so that the CLIP meets things nearer and farther."""
JITTER = (0.3, 0.3, 0.3)
"""Brightness, contrast, saturation."""
MIN_SHARE = 0.1
"""A class is named if it has this share of the crop's pixels."""
TRIES = 5
"""Pictures that are looked at for a crop with a class chosen at random, so that rare and thin classes are named too."""
TESTED = 512
"""Crops of each of two sizes whose largest class is guessed at each saving, of the training and of another split."""


class Crops:
    """Random square crops of a data set's images, with the names of the classes in each; images stay in memory.

    Args:
        dataset: registered name.
        zoom: least and greatest factor by which a crop is resized.

    Raises:
        FileNotFoundError: if the data set's folders are missing or incomplete.
        DataError: if a file cannot be read, or no pixel of the data set has a label.
    """

    def __init__(self, dataset: str, zoom: tuple[float, float] = ZOOM) -> None:
        self.zoom = zoom
        metadata = MetadataCatalog.get(dataset)
        self.names = tuple(metadata.stuff_classes)
        self.pictures: list[Image.Image] = []
        self.labels: list[np.ndarray] = []
        for record in DatasetCatalog.get(dataset):
            image = read_image(record["file_name"])
            labels = record_labels(record, self.names, metadata.ignore_label, image.shape[:2])
            if (labels != metadata.ignore_label).any():
                height, width = (round(n * SHORT_SIDE / min(labels.shape)) for n in labels.shape)
                # One value behind the last class is what is not labelled: counted, never named.
                known = np.where(labels == metadata.ignore_label, len(self.names), labels).astype(np.int32)
                self.pictures.append(Image.fromarray(image))
                self.labels.append(np.array(Image.fromarray(known).resize((width, height), Image.Resampling.NEAREST)))
        if not self.pictures:
            raise DataError(f"dataset {dataset!r} has no labelled pixel: there is nothing to make captions of")
        shown = [set(np.unique(labels)) for labels in self.labels]
        self._showing = [[i for i, classes in enumerate(shown) if k in classes] for k in range(len(self.names))]
        self._jitter = ColorJitter(*JITTER)

    def draw(self, rng: np.random.Generator, patches: int, augment: bool = True) -> tuple[np.ndarray, list[str]]:
        """A random crop in which at least one class has :data:`MIN_SHARE` of the pixels.

        A class is chosen at random, then one of the places where a crop has that much of it; where :data:`TRIES`
        images have none, any place.

        Args:
            rng: decides image, place, zoom and flip; the colour jitter draws from torch's generator.
            patches: along the crop's side.
            augment: zoom, flip and jitter.

        Returns:
            (3, side, side) uint8 of :data:`PATCH` pixels a patch, and the names of the classes, the largest first.

        Raises:
            DataError: if no class reaches that share in a thousand crops.
        """
        zoom = np.exp(rng.uniform(*np.log(self.zoom))) if augment else 1.0
        side = int(np.clip(round(PATCH * patches / zoom), 1, SHORT_SIDE))
        index, top, left = self._place_with_a_class(rng, side) or self._any_place(rng, side)
        names, tries = self._names_in(index, top, left, side), 1
        while not names:
            if tries == 1000:
                raise DataError(f"no class has {MIN_SHARE:.0%} of a crop in 1000 crops: the labels are too sparse")
            index, top, left = self._any_place(rng, side)
            names, tries = self._names_in(index, top, left, side), tries + 1
        labels = self.labels[index]
        picture = self.pictures[index]
        across, down = picture.width / labels.shape[1], picture.height / labels.shape[0]
        box = (left * across, top * down, (left + side) * across, (top + side) * down)
        crop = picture.resize((PATCH * patches,) * 2, Image.Resampling.BILINEAR, box)
        if augment:
            if rng.random() < 0.5:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            crop = self._jitter(crop)
        return np.asarray(crop).transpose(2, 0, 1), names

    def _any_place(self, rng: np.random.Generator, side: int) -> tuple[int, int, int]:
        """Picture, top and left of a random crop of ``side`` pixels."""
        index = int(rng.integers(len(self.pictures)))
        top, left = (int(rng.integers(size - side + 1)) for size in self.labels[index].shape)
        return index, top, left

    def _place_with_a_class(self, rng: np.random.Generator, side: int) -> tuple[int, int, int] | None:
        """The same of a crop with enough of a class that is chosen at random, if one is found."""
        wanted = int(rng.integers(len(self.names)))
        for _ in range(TRIES if self._showing[wanted] else 0):
            index = int(rng.choice(self._showing[wanted]))
            sums = np.pad((self.labels[index] == wanted).cumsum(0, np.int32).cumsum(1), ((1, 0), (1, 0)))
            inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
            places = np.flatnonzero(inside >= MIN_SHARE * side**2)
            if len(places):
                return index, *map(int, np.unravel_index(rng.choice(places), inside.shape))
        return None

    def _names_in(self, index: int, top: int, left: int, side: int) -> list[str]:
        """Classes with enough of a crop's pixels, the largest first."""
        inside = self.labels[index][top : top + side, left : left + side]
        counts = np.bincount(inside.ravel(), minlength=len(self.names) + 1)[: len(self.names)]
        return [self.names[i] for i in np.argsort(-counts) if counts[i] >= MIN_SHARE * inside.size]

    def stack(
        self, rng: np.random.Generator, count: int, patches: int, augment: bool = True
    ) -> tuple[Tensor, list[list[str]]]:
        """``count`` crops of :meth:`draw`: (count, 3, side, side) uint8, and the names in each."""
        crops = [self.draw(rng, patches, augment) for _ in range(count)]
        return torch.from_numpy(np.stack([crop for crop, _ in crops])), [names for _, names in crops]


def embed_any_size(model: nn.Module, images: Tensor) -> Tensor:
    """(B, E) L2-normalised embeddings of images of any size by a trainable open_clip model's image tower."""
    tower = ClipVisualEncoder(model.visual, trainable=dict(model.visual.named_parameters()))
    tokens = tower(images, (tower.depth,)).tokens[tower.depth]
    return F.normalize(tower.head(tokens[:, 0]), dim=-1)


@torch.no_grad()
def naming_accuracy(
    model: nn.Module, normalise: Normalise, tokenizer: Tokenizer, crops: Tensor, largest: list[str], names: list[str]
) -> float:
    """Share of crops (N, 3, H, W) uint8 for which "a photo of a ..." is found that names their largest class."""
    image = torch.cat([embed_any_size(model, normalise(chunk)) for chunk in crops.split(128)])
    words = model.encode_text(tokenizer([f"a photo of a {n}." for n in names]).to(image.device), normalize=True)
    return float(np.mean([names[i] == name for i, name in zip((image @ words.T).argmax(1), largest, strict=True)]))


def train(args: argparse.Namespace) -> None:
    """Trains and writes weights and record, on the way too."""
    rng = np.random.default_rng(args.seed)
    crops, held_out = Crops(args.dataset, tuple(args.zoom)), Crops(args.held_out)
    tested = {
        f"{split}largest_class_top1_{n}x{n}_patches": of.stack(np.random.default_rng(0), TESTED, n, augment=False)
        for split, of in (("", held_out), ("training_", crops))
        for n in (3, 6)
    }
    views = _views(args, crops.names) if args.words == "photo" else None

    def draw(rng: np.random.Generator) -> Batch:
        patches = int(rng.choice(WINDOWS if views is None else VIEWS))
        count = int(np.clip(args.tokens // (args.views * patches**2), 1, args.batch))
        if views is not None:
            return views.batch(rng, count, args.views, PATCH * patches)
        return caption_batch(rng, *crops.stack(rng, count, patches))

    batches = (draw(rng) for _ in itertools.repeat(None))
    if args.workers:
        batches = _from_workers(draw, args.seed, args.workers)

    def measure(model: nn.Module, normalise: Normalise, tokenizer: Tokenizer) -> dict:
        return {
            name: naming_accuracy(
                model, normalise, tokenizer, images, [shown[0] for shown in names], list(held_out.names)
            )
            for name, (images, names) in tested.items()
        }

    record = {
        "dataset": args.dataset,
        "held_out": args.held_out,
        "held_out_crops": TESTED,
        "start": args.start,
        "threads": torch.get_num_threads(),
        "workers": args.workers,
        "zoom": list(args.zoom),
    }
    if views is not None:
        record |= {"words": args.words, "tagged": args.tagged, "photographs": len(views.words), "views": args.views}
    record |= {key: getattr(args, key) for key in ("seed", "steps", "batch", "tokens", "lr")}
    weights = SHIPPED_WEIGHTS["scenes_vit", "scenes"] if args.start == "scenes" else None
    embed, keep = embed_any_size, args.keep
    fit(
        lambda: next(batches),
        measure,
        record,
        args.output,
        args.save_every,
        architecture(),
        weights,
        embed=embed,
        keep=keep,
    )


class _Batches(IterableDataset):
    """Endless batches; each loading process draws its own."""

    def __init__(self, draw: Callable[[np.random.Generator], Batch], seed: int) -> None:
        self.draw, self.seed = draw, seed

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng((self.seed, get_worker_info().id))
        while True:
            yield self.draw(rng)


def _from_workers(draw: Callable[[np.random.Generator], Batch], seed: int, workers: int) -> Iterator[Batch]:
    """Batches of loading processes, which start with the first of them: after the seed of torch has been set."""
    # Forked: the images are there already, and nothing of this module has to be importable by another name.
    yield from DataLoader(_Batches(draw, seed), None, num_workers=workers, multiprocessing_context="fork")


def _views(args: argparse.Namespace, names: Sequence[str]) -> Views:
    """The photographs of the data set, with --tagged those beside it too, on the device that trains."""
    photographs = [*words_of_labels(args.dataset), *(words_of_tags(args.dataset) if args.tagged else ())]
    return Views(photographs, names, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    register_own()
    known = sorted({*DATASETS, *OWN})
    parser.add_argument("--dataset", choices=known, required=True, help="whose pictures are trained on")
    parser.add_argument("--held-out", choices=known, default="camvid_val", help="what naming is tried on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", choices=("scenes", "random"), default="scenes", help="weights to start from")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=256, help="most crops of a step")
    parser.add_argument("--tokens", type=int, default=4096, help="patches of all crops of a step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0: as many as it takes by itself")
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--keep", action="store_true", help="keep every checkpoint, in DIR/step_00500 and so on")
    parser.add_argument(
        "--words", choices=("crop", "photo"), default="crop", help="of what a caption names classes (default: crop)"
    )
    parser.add_argument("--tagged", action="store_true", help="with --words photo: photographs without label maps too")
    parser.add_argument("--views", type=int, default=1, help="with --words photo: views that share a caption")
    parser.add_argument(
        "--zoom", type=float, nargs=2, default=ZOOM, help="with --words crop: least and greatest factor"
    )
    parser.add_argument("--workers", type=int, default=0, help="with --words crop: processes that cut crops")
    args = parser.parse_args(argv)
    if args.words == "photo" and args.workers:
        parser.error("--workers needs --words crop: views are cut on the device")
    if args.words == "crop" and (args.tagged or args.views != 1):
        parser.error("--tagged and --views need --words photo")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        train(args)
    except (DataError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
