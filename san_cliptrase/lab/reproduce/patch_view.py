"""What CLIPtrase sees in one image, patch by patch: attention, correlation, clusters and the segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import Tensor

from san_cliptrase.builders import region_source_from_config
from san_cliptrase.clip.batches import image_batch
from san_cliptrase.data.mapper import ResizeShorterSide
from san_cliptrase.data.views import build_test_mapper
from san_cliptrase.data.vocabularies import replacement_words
from san_cliptrase.engine.launch import build
from san_cliptrase.errors import ConfigError
from san_cliptrase.evaluation.evaluate import dataset_records
from san_cliptrase.images import read_image
from san_cliptrase.lab.global_patches import block_attention
from san_cliptrase.lab.reproduce.request import Request, request_config
from san_cliptrase.meta_arch.cliptrase import CLIPtrase
from san_cliptrase.regions.correlation import suppress_global_patches
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.maps import region_maps, regions_from_maps

BEFORE, AFTER = "[CLS] not subtracted", "[CLS] subtracted"
PLAIN = "plain CLIP"
CORRELATION, SUPPRESSED = "self-correlation", "suppressed correlation"
COLOUR_MAP = "cividis"
"""Of all maps: reads alike for normal and colour-blind eyes (Nuñez et al., 2018)."""


@dataclass(frozen=True)
class PatchView:
    """One image and everything that is known of its L = h w patches.

    Attributes:
        title: which image it is.
        photo: (H, W, 3) uint8.
        grid: (h, w).
        cell: (height, width) of a patch in pixels of ``photo``; the last ones may lie partly outside.
        maps: name -> (L, L), row i is what patch i attends to, in fair shares 1 / L, or correlates with.
        clusters: :data:`BEFORE` and :data:`AFTER` -> (L,) cluster of each patch, -1 for noise.
        regions: (L,) region of each patch, what the clusters become; -1 where there is none.
        labels: (H, W) the segmentation.
        truth: (H, W) ground truth, -1 where there is none; None for a image without.
        names: class names.
    """

    title: str
    photo: np.ndarray
    grid: tuple[int, int]
    cell: tuple[float, float]
    maps: Mapping[str, np.ndarray]
    clusters: Mapping[str, np.ndarray]
    regions: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None
    names: tuple[str, ...]


def unit(name: str) -> str:
    """What the values of a map are."""
    return "fair shares" if name.startswith(PLAIN) else "correlation"


def look(request: Request) -> tuple[Any, CLIPtrase, PatchView]:
    """Configuration, model and the image that FIGURES asks for.

    Returns:
        Of the configuration's data sets the first is kept, as images to measure on; none if FIGURES.IMAGE_FILE names
        a image without ground truth.

    Raises:
        ConfigError: see :func:`request_config`; or the data set has no image of the number asked for.
        DataError, FileNotFoundError: the image, its labels or the data set cannot be used.
        WeightsError: weights cannot be used.
    """
    cfg = request_config(request)
    title, entry = chosen_entry(cfg)  # what is not there is found before the model is built
    cfg.DATASETS.TEST = () if cfg.FIGURES.IMAGE_FILE else cfg.DATASETS.TEST[:1]
    torch.manual_seed(cfg.SEED)  # weights may be random
    model = build(build_model, cfg).eval()
    finder = region_source_from_config(cfg, model.clip, "cliptrase", "none")
    return cfg, model, view_patches(model, finder, title, entry, cfg.INPUT.IGNORE_LABEL)


def chosen_entry(cfg: Any) -> tuple[str, dict]:
    """Title and mapped entry of the image that FIGURES asks for.

    Raises:
        ConfigError: the data set has no image of that number.
        DataError: the image or its labels cannot be used.
    """
    dataset = cfg.DATASETS.TEST[0]
    if cfg.FIGURES.IMAGE_FILE:
        return f"{Path(cfg.FIGURES.IMAGE_FILE).name}, in the words of {dataset}", _file_entry(cfg, dataset)
    index = cfg.FIGURES.IMAGE_INDEX
    records = dataset_records(dataset, index + 1)
    if not 0 <= index < len(records):
        raise ConfigError(f"FIGURES.IMAGE_INDEX is {index}; {dataset} has images 0 to {len(records) - 1}")
    return f"image {index} of {dataset}", build_test_mapper(cfg, dataset)(records[index])


def _file_entry(cfg: Any, dataset: str) -> dict:
    """A image without ground truth, seen whole, with the words of a data set."""
    image, metadata = read_image(cfg.FIGURES.IMAGE_FILE), MetadataCatalog.get(dataset)
    classes = tuple(metadata.stuff_classes)
    resized = T.AugInput(image)
    ResizeShorterSide(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)(resized)
    return {
        "image": torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1))),
        "height": image.shape[0],
        "width": image.shape[1],
        "vocabulary": replacement_words(cfg.TEST.VOCABULARY, dataset, classes) or classes,
        "background_words": tuple(metadata.get("background_words", ())),
    }


@torch.no_grad()
def view_patches(model: CLIPtrase, finder: RegionFinder, title: str, entry: dict, ignore_label: int) -> PatchView:
    """Looks at one image.

    Args:
        model: in evaluation mode.
        finder: CLIPtrase's regions on its CLIP, whatever regions the model takes.
        title: see :class:`PatchView`.
        entry: what the test mapper returns; "sem_seg" may be missing.
        ignore_label: value of pixels without a label.
    """
    visual = model.clip.visual
    batch = image_batch([entry["image"]], model.clip, scale=model.resolution)
    last = visual.depth - 1
    features = visual(batch.tensor, (last - 1, last), batch.sizes)
    correlation = finder.correlate(features)
    rows = {BEFORE: correlation[:, 1:, 1:], AFTER: suppress_global_patches(correlation, features.valid)}
    clusters = {name: finder.cluster(row, features) for name, row in rows.items()}
    maps = {
        f"{PLAIN}, block {index + 1} of {visual.depth}": _in_fair_shares(block_attention(visual, features, index))
        for index in (last - 1, last)
    }
    maps |= {CORRELATION: rows[BEFORE][0], SUPPRESSED: rows[AFTER][0]}
    labels = model.label_maps([entry])[0]
    truth = entry.get("sem_seg")
    height, width = batch.sizes[0]
    return PatchView(
        title=title,
        photo=_resized(entry["image"], labels.shape),
        grid=features.grid,
        cell=(labels.shape[0] * visual.patch_size[0] / height, labels.shape[1] * visual.patch_size[1] / width),
        maps={name: values.float().cpu().numpy() for name, values in maps.items()},
        clusters={name: found[0].cpu().numpy() for name, found in clusters.items()},
        regions=patch_regions(rows[AFTER], clusters[AFTER], features.valid, features.grid),
        labels=labels.cpu().numpy(),
        truth=None if truth is None else np.where(truth == ignore_label, -1, truth),
        names=tuple(entry["vocabulary"]),
    )


def patch_regions(rows: Tensor, labels: Tensor, valid: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """(L,) the region that each patch of one image goes to, noise included; -1 where there is none."""
    masks = regions_from_maps(region_maps(rows, labels), valid, grid).masks[0].flatten(1)
    return (masks.argmax(0) if len(masks) else torch.full((valid.shape[1],), -1)).cpu().numpy()


def _in_fair_shares(attention: Tensor) -> Tensor:
    """(L, L) of (1, T, T): what patches give to patches, 1 where attention is even."""
    return attention[0, 1:, 1:] * (attention.shape[-1] - 1)


def _resized(image: Tensor, size: tuple[int, ...]) -> np.ndarray:
    pixels = torch.nn.functional.interpolate(image[None].float(), tuple(size), mode="bilinear", antialias=True)[0]
    return pixels.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
