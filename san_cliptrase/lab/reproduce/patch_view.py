"""The image that figures 2 and 3 show: which one, and what is seen in it."""

from __future__ import annotations

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
from san_cliptrase.lab.reproduce.request import Request, request_config
from san_cliptrase.meta_arch.cliptrase import CLIPtrase
from san_cliptrase.patches.view import PatchView, taps, view_patches
from san_cliptrase.regions.finder import RegionFinder


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
    return cfg, model, view_entry(model, finder, title, entry, cfg.INPUT.IGNORE_LABEL)


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
def view_entry(model: CLIPtrase, finder: RegionFinder, title: str, entry: dict, ignore_label: int) -> PatchView:
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
    labels, truth = model.label_maps([entry])[0], entry.get("sem_seg")
    return view_patches(
        visual,
        finder,
        visual(batch.tensor, taps(visual), batch.sizes),
        batch.sizes[0],
        _resized(entry["image"], labels.shape),
        labels.cpu().numpy(),
        tuple(entry["vocabulary"]),
        title,
        None if truth is None else np.where(truth == ignore_label, -1, truth),
    )


def _resized(image: Tensor, size: tuple[int, ...]) -> np.ndarray:
    pixels = torch.nn.functional.interpolate(image[None].float(), tuple(size), mode="bilinear", antialias=True)[0]
    return pixels.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
