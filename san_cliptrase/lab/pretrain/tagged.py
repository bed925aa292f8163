"""Photographs with words about the whole of each, and batches of random views of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from san_cliptrase.data.datasets import datasets_root
from san_cliptrase.data.mapper import record_labels
from san_cliptrase.data.reductions import IGNORED, REDUCTIONS
from san_cliptrase.data.table import DATASETS
from san_cliptrase.errors import DataError, MissingFilesError
from san_cliptrase.images import read_image
from san_cliptrase.lab.pretrain.captions import Batch, caption_batch

SIDES = (0.3, 1.0)
"""Least and greatest side of a view, as shares of the photograph's shorter side; logarithms are uniform."""
JITTER = 0.3
"""Brightness, contrast and saturation change by up to this share."""


@dataclass(frozen=True)
class Tagged:
    """A photograph.

    Attributes:
        image: (H, W, 3) uint8.
        names: of the classes that it shows somewhere, without order.
    """

    image: np.ndarray
    names: tuple[str, ...]


def words_of_labels(dataset: str) -> Iterator[Tagged]:
    """The photographs of a registered dataset; of each label map only the set of its classes is kept.

    Raises:
        FileNotFoundError, DataError: the dataset is missing, or a file cannot be used.
    """
    metadata = MetadataCatalog.get(dataset)
    names = tuple(metadata.stuff_classes)
    for record in DatasetCatalog.get(dataset):
        image = read_image(record["file_name"])
        labels = record_labels(record, names, metadata.ignore_label, image.shape[:2])
        yield Tagged(image, tuple(names[i] for i in np.unique(labels) if i != metadata.ignore_label))


def words_of_tags(dataset: str) -> Iterator[Tagged]:
    """Photographs without label maps that lie beside those of a dataset, as ``images/tagged`` and ``tags.json``.

    The file names for each stem the values of the classes that the photograph shows, which mean what they mean in the
    dataset's label files.

    Args:
        dataset: a name of the table, whose folder of images is ``FOLDER/images/SPLIT``.

    Raises:
        FileNotFoundError: there is no such file, or a photograph is missing.
        DataError: the file is no such table, or a photograph cannot be read.
    """
    spec = DATASETS[dataset]
    names = MetadataCatalog.get(dataset).stuff_classes
    classes = REDUCTIONS[spec.reduction].classes if spec.reduction else tuple(range(len(names)))
    folder = datasets_root() / Path(spec.images).parts[0]
    path = folder / "tags.json"
    if not path.is_file():
        raise MissingFilesError(f"dataset {dataset!r} has no tagged photographs: there is no {path}")
    try:
        tags = json.loads(path.read_text(encoding="utf-8"))
        found = {str(stem): {classes[value] for value in values} - {IGNORED} for stem, values in tags.items()}
    except (ValueError, AttributeError, TypeError, IndexError) as error:
        raise DataError(f"{path} is not a table of stems and the values of their classes: {error}") from error
    for stem, present in found.items():
        if Path(stem).name != stem:
            raise DataError(f"{path} has the stem {stem!r}, which is not a file name")
        yield Tagged(
            read_image(str(folder / "images" / "tagged" / f"{stem}.jpg")), tuple(names[i] for i in sorted(present))
        )


class Views:
    """Random square views of tagged photographs, all of which carry all words of their photograph.

    Photographs stay on the device as one tensor. Every class is met about as often, and a caption tells a word that few
    photographs have sooner than one that nearly all have.

    Args:
        photographs: with at least one word each, or they are left out.
        names: the classes.
        device: where views are cut.

    Raises:
        DataError: no photograph has a word.
    """

    def __init__(self, photographs: Sequence[Tagged], names: Sequence[str], device: torch.device) -> None:
        kept = [photograph for photograph in photographs if photograph.names]
        if not kept:
            raise DataError("no photograph has a word: there is nothing to make captions of")
        self.words = [photograph.names for photograph in kept]
        self.sizes = np.array([photograph.image.shape[:2] for photograph in kept])
        height, width = self.sizes.max(0)
        self.images = torch.zeros(len(kept), 3, height, width, dtype=torch.uint8, device=device)
        for place, photograph in zip(self.images, kept, strict=True):
            h, w = photograph.image.shape[:2]
            place[:, :h, :w] = torch.from_numpy(photograph.image).permute(2, 0, 1)
        showing = {name: [i for i, words in enumerate(self.words) if name in words] for name in names}
        self.showing = {name: places for name, places in showing.items() if places}
        self.weights = {name: len(kept) / len(places) for name, places in self.showing.items()}

    def batch(self, rng: np.random.Generator, count: int, views: int, side: int) -> Batch:
        """Views of photographs, and captions.

        Args:
            rng: decides everything.
            count: photographs.
            views: of each.
            side: of a view in pixels.
        """
        wanted = rng.choice(list(self.showing), count)
        chosen = np.array([rng.choice(self.showing[name]) for name in wanted])
        images = self.cut(rng, chosen, views, side)
        return caption_batch(rng, images, [self.words[i] for i in chosen], self.weights)

    def cut(self, rng: np.random.Generator, chosen: np.ndarray, views: int, side: int) -> Tensor:
        """(len(chosen), views, 3, side, side) float32 views, zoomed, flipped and jittered at random."""
        sizes = self.sizes[chosen][:, None]
        shape = (len(chosen), views)
        sides = np.exp(rng.uniform(*np.log(SIDES), shape)) * sizes.min(2)
        # Centre in pixels: anywhere where the square lies inside.
        centres = sides[..., None] / 2 + rng.random((*shape, 2)) * (sizes - sides[..., None])
        full = np.array(self.images.shape[2:])
        scale, shift = sides[..., None] / full, 2 * centres / full - 1
        flip = rng.choice([-1.0, 1.0], shape)
        theta = np.zeros((*shape, 2, 3), np.float32)
        theta[..., 0, 0], theta[..., 0, 2] = flip * scale[..., 1], shift[..., 1]
        theta[..., 1, 1], theta[..., 1, 2] = scale[..., 0], shift[..., 0]
        # Twice the size and then means of 2x2, against aliasing. The views of a photograph lie below each other.
        affine = torch.from_numpy(theta).to(self.images.device).flatten(0, 1)
        grid = F.affine_grid(affine, [len(affine), 3, 2 * side, 2 * side], align_corners=False)
        grid = grid.view(len(chosen), views * 2 * side, 2 * side, 2)
        images = self.images[torch.from_numpy(chosen).to(self.images.device)].float()
        cut = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        cut = F.avg_pool2d(cut, 2).view(len(chosen), 3, views, side, side).transpose(1, 2)
        return jitter(rng, cut.contiguous())


def jitter(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Random brightness, contrast and saturation of each of (..., 3, H, W) images with values from 0 to 255."""
    shape = (*images.shape[:-3], 1, 1, 1)
    brightness, contrast, saturation = (
        torch.from_numpy(rng.uniform(1 - JITTER, 1 + JITTER, shape).astype(np.float32)).to(images.device)
        for _ in range(3)
    )
    images = images * brightness
    grey = images.mean(-3, keepdim=True)
    mean = grey.mean((-2, -1), keepdim=True)
    images = mean + contrast * (grey + saturation * (images - grey) - mean)
    return images.clamp(0, 255)
