"""What holds a training-free segmenter back, its partition or its names: each is scored with the other perfect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, resize
from tqdm import tqdm
from yacs.config import CfgNode

from san_cliptrase.builders import clip_from_config, region_source_from_config
from san_cliptrase.clip.batches import image_batch, images_for_source
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.cliptrase.voting import decide_pixels, pixel_logits, resize_labels
from san_cliptrase.data.views import build_test_mapper
from san_cliptrase.engine.launch import build
from san_cliptrase.evaluation.metrics import confusion_matrix, segmentation_metrics
from san_cliptrase.lab.reproduce.exhibit import Exhibit, Row
from san_cliptrase.lab.reproduce.request import Request, evaluated_records, request_config
from san_cliptrase.lab.reproduce.scoring import METRICS, about, score_rows
from san_cliptrase.lab.reproduce.sources import SOURCE
from san_cliptrase.lab.reproduce.tables import CLASSIFY, RULE
from san_cliptrase.refine import REFINEMENTS, Refinement, refinement
from san_cliptrase.regions.controls import canvas_labels, patch_classes
from san_cliptrase.regions.maps import own_maps
from san_cliptrase.regions.pixels import perfect_names, pixel_partition
from san_cliptrase.regions.refined import refined_partition
from san_cliptrase.structures import ClipFeatures, Size

logger = logging.getLogger(__name__)

NAMES: dict[str, tuple[str, ...]] = {
    "true regions, named by cls": (SOURCE, "truth", CLASSIFY, "cls"),
    "true regions, named by cls under clip_surgery": (SOURCE, "truth", CLASSIFY, "cls", RULE, "clip_surgery"),
}
"""Row -> configuration of the names; the regions are the ground truth's classes."""


def ceilings(request: Request) -> Exhibit:
    """Scores true names on regions that were found, true classes on CLIP's patches, and names on true regions.

    Args:
        request: Its configuration says which CLIP, regions and images.

    Raises:
        ConfigError, DataError, WeightsError: See :func:`score_rows`.
    """
    cfg = request_config(request)
    rows = [*_grid_rows(cfg)]
    for refine in REFINEMENTS:
        name = "true names, regions that were found" + (f", maps by {refine}" if refine != "none" else "")
        logger.info("%s", name)
        rows += _partition_rows(name, cfg, refinement(refine))
    rows += score_rows(request, NAMES)
    return Exhibit(
        "ceilings",
        "Ceilings: perfect names, and perfect regions",
        rows,
        about=about(request),
        notes=[
            "True names: every region gets the class that most of its labelled pixels have. Hard patches: every patch "
            "the class that covers most of it. Shares of patches: the share of each class in each patch, bilinearly to "
            "pixels. These rows are scored at the size of the image that is shown, without words.",
            "Maps by a refinement: in place of the published smoothing, the regions' maps are resized bilinearly and "
            "refined by the image; each pixel is of the region whose map is largest.",
            "True regions: those of the ground truth, one for each class, whatever its place.",
        ],
    )


def class_shares(labels: Tensor, grid: Size, classes: int) -> Tensor:
    """The share of each class in each patch of a grid that divides the label map: (h, w, K); -1 is no class."""
    masks = F.one_hot(labels.clamp(min=-1) + 1, classes + 1)[..., 1:].permute(2, 0, 1).float()
    return F.adaptive_avg_pool2d(masks, grid).permute(1, 2, 0)


def _grid_rows(cfg: CfgNode) -> list[Row]:
    """True classes on CLIP's own patches."""

    def hard(features: ClipFeatures, image: Tensor, labels: Tensor, classes: int) -> Tensor:
        seen = _seen_labels(features, labels, cfg.INPUT.IGNORE_LABEL)
        found = patch_classes(features, [seen])[0].clamp(min=0).unflatten(0, features.grid)
        pixels = found.repeat_interleave(features.patch_size[0], 0).repeat_interleave(features.patch_size[1], 1)
        height, width = features.sizes[0]
        return resize_labels(pixels[:height, :width], tuple(labels.shape))

    def soft(features: ClipFeatures, image: Tensor, labels: Tensor, classes: int) -> Tensor:
        seen = _seen_labels(features, labels, cfg.INPUT.IGNORE_LABEL)
        shares = class_shares(seen, features.grid, classes)
        return decide_pixels(pixel_logits(shares, tuple(seen.shape), features.sizes[0]), tuple(labels.shape))

    clip = _clip(cfg)
    return [
        Row(f"true classes, {name}", dataset, metrics)
        for name, predict in (("hard patches", hard), ("shares of patches", soft))
        for dataset, metrics in _scores(cfg, clip, (-1,), predict).items()
    ]


def _partition_rows(name: str, cfg: CfgNode, refine: Refinement | None) -> list[Row]:
    clip = _clip(cfg)
    source = region_source_from_config(cfg, clip)
    patch = round(min(clip.visual.patch_size) / cfg.MODEL.CLIP.RESOLUTION)

    def predict(features: ClipFeatures, image: Tensor, labels: Tensor, classes: int) -> Tensor:
        images = images_for_source(image, clip.logit_scale.device) if source.needs_images else []
        regions = source(images, features)
        if refine is None or regions.maps is None:
            (found,) = pixel_partition(regions, features)
        else:
            (maps,) = own_maps(regions.maps, features.valid, features.grid)
            shown = image[0].to(maps.device) / 255
            canvas = tuple(n * patch for n in maps.shape[1:])
            found = refined_partition(maps, canvas, shown, patch, refine) if len(maps) else None
        if found is None:
            found = labels.new_zeros(features.sizes[0])
        return perfect_names(resize_labels(found, tuple(labels.shape)), labels, classes)

    return [Row(name, dataset, metrics) for dataset, metrics in _scores(cfg, clip, source.taps, predict).items()]


def _clip(cfg: CfgNode) -> FrozenClip:
    torch.manual_seed(cfg.SEED)  # weights may be random
    return build(clip_from_config, cfg).to(cfg.MODEL.DEVICE).eval()


def _scores(
    cfg: CfgNode, clip: FrozenClip, taps: Sequence[int], predict: Callable[..., Tensor]
) -> Mapping[str, dict[str, float]]:
    """Data set -> metrics of what ``predict`` makes of features, image, label map and the number of classes."""
    return {dataset: _metrics(cfg, clip, taps, predict, dataset) for dataset in cfg.DATASETS.TEST}


@torch.no_grad()
def _metrics(
    cfg: CfgNode, clip: FrozenClip, taps: Sequence[int], predict: Callable[..., Tensor], dataset: str
) -> dict[str, float]:
    classes, ignore = len(MetadataCatalog.get(dataset).stuff_classes), cfg.INPUT.IGNORE_LABEL
    total = 0
    for image, labels in _images(cfg, dataset):
        labels = labels.to(clip.logit_scale.device)
        batch = image_batch(image, clip, scale=cfg.MODEL.CLIP.RESOLUTION)
        found = predict(clip.visual(batch.tensor, taps, batch.sizes), image, labels, classes)
        total = total + confusion_matrix(found, labels, classes, ignore)
    metrics = segmentation_metrics(total.cpu().numpy())
    return {name: metrics[name] for name in METRICS}


def _images(cfg: CfgNode, dataset: str) -> Iterator[tuple[Tensor, Tensor]]:
    mapper = build_test_mapper(cfg, dataset)
    for record in tqdm(evaluated_records(cfg, dataset), dataset, leave=False):
        entry = mapper(record)
        yield entry["image"][None], entry["sem_seg"].long()


def _seen_labels(features: ClipFeatures, labels: Tensor, ignore: int) -> Tensor:
    """The label map at the size that CLIP sees, on its canvas, see ``canvas_labels``."""
    canvas = tuple(n * p for n, p in zip(features.grid, features.patch_size, strict=True))
    seen = resize(labels[None], list(features.sizes[0]), InterpolationMode.NEAREST)[0]
    return canvas_labels(seen, canvas, ignore)
