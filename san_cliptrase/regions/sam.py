"""Regions from SAM (Kirillov et al., "Segment anything", 2023), in transformers: ``pip install 'san_cliptrase[sam]'``.

SAM finds masks without names; CLIPtrase's features name them. Pixels that no mask covers stay in CLIPtrase's regions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from san_cliptrase.clip.hub import without_retries
from san_cliptrase.errors import WeightsError
from san_cliptrase.files import check_regular_files
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.maps import own_maps
from san_cliptrase.regions.pixels import pixel_partition, regions_from_pixels
from san_cliptrase.regions.source import RegionSource
from san_cliptrase.structures import ClipFeatures, Regions, Size
from san_cliptrase.texts import reason
from san_cliptrase.weights_files import refuse_not_finite


def load_sam(name: str) -> tuple[nn.Module, Any]:
    """A frozen SAM and its processor.

    Args:
        name: A model id of the Hugging Face hub ("facebook/sam-vit-base"), or a folder with its files.

    Raises:
        WeightsError: transformers is not installed, or the files cannot be fetched or do not fit.
    """
    try:
        from transformers import SamModel, SamProcessor  # an extra of the package
    except ImportError as error:
        raise WeightsError(
            "regions from SAM need the package transformers: pip install 'san_cliptrase[sam]' (in a clone: '.[sam]')"
        ) from error
    folder = Path(name).is_dir()
    local = {"local_files_only": True} if folder else {}
    with contextlib.nullcontext() if folder else without_retries() as trouble:
        try:
            if folder:
                check_regular_files(name)
            model = SamModel.from_pretrained(name, use_safetensors=True, **local)
            processor = SamProcessor.from_pretrained(name, **local)
        except Exception as error:  # transformers, huggingface_hub and safetensors share no narrower base
            raise WeightsError(
                f"SAM {name!r} could not be loaded: {trouble or reason(error)}. Without a network, download "
                "config.json, preprocessor_config.json and model.safetensors from "
                "https://huggingface.co/facebook/sam-vit-base into a folder, and name it as MODEL.REGIONS.SAM_MODEL "
                "(predict: --sam-model)"
            ) from error
    refuse_not_finite(model.state_dict(), name)
    return model.eval().requires_grad_(False), processor


def paint(masks: Tensor, scores: Tensor, below: Tensor, labels: Tensor) -> Tensor:
    """One region per pixel from masks that overlap: the mask with the highest score wins.

    Args:
        masks: (N, H, W) bool.
        scores: (N,), such as the IoU that SAM predicts for them.
        below: (H, W) int64, the region of pixels that no mask covers.
        labels: (N,) int64, the region that each mask stands for.

    Returns:
        (H, W) int64
    """
    painted = below.clone()
    for index in scores.argsort(stable=True).tolist():
        painted[masks[index]] = labels[index]
    return painted


def central_points(maps: Tensor, canvas: Size) -> tuple[Tensor, Tensor]:
    """A point in each region: the centre of the patch that correlates most with it, among those that it wins.

    Args:
        maps: (N, h, w), see ``region_maps``; N >= 1.
        canvas: (height, width) in pixels that the maps cover.

    Returns:
        Regions (P,) that win a patch, and their points (P, 2) as (x, y) in pixels.
    """
    flat = maps.flatten(1)
    won = flat.argmax(0) == torch.arange(len(maps), device=maps.device)[:, None]
    present = won.any(1).nonzero()[:, 0]
    place = flat.masked_fill(~won, -torch.inf)[present].argmax(1)
    row, column = place // maps.shape[2], place % maps.shape[2]
    scale = torch.tensor([canvas[1] / maps.shape[2], canvas[0] / maps.shape[1]], device=maps.device)
    return present, (torch.stack([column, row], dim=1) + 0.5) * scale


class SamMasks(RegionSource):
    """The source ``sam``: the masks that SAM finds by itself, from a grid of points.

    Args:
        model: See ``load_sam``, and ``processor``.
        finder: Gives the regions of pixels that no mask covers; where it has none either, these are one region.
        grid: Points along each side of the image.
    """

    needs_images = True

    def __init__(self, model: nn.Module, processor: Any, finder: RegionFinder, grid: int = 32) -> None:
        self.model, self.processor, self.finder, self.grid = model, processor, finder, grid
        self.taps = finder.taps

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """One image at a time, SAM at the image's own size and in full precision."""
        with torch.autocast(features.valid.device.type, enabled=False):
            below = pixel_partition(self.finder(images, features), features)
            found = [self._regions(*one) for one in zip(images, features.sizes, below, strict=True)]
        return regions_from_pixels(found, features)

    def _regions(self, image: Tensor, size: Size, below: Tensor | None) -> Tensor | None:
        from transformers import pipeline

        generate = pipeline(
            "mask-generation",
            points_per_batch=self.grid,  # a whole number of batches: transformers before 5.10 finds no end otherwise
            model=self.model.to(image.device),
            image_processor=self.processor.image_processor,
            device=image.device,
        )
        found = generate(_pil_image(image), points_per_crop=self.grid)
        if not len(found["masks"]):
            return below
        masks = torch.stack([torch.as_tensor(np.asarray(mask)) for mask in found["masks"]]).to(image.device)
        rest = torch.zeros(size, dtype=torch.int64, device=image.device) if below is None else below
        labels = torch.arange(len(masks), device=image.device) + int(rest.max()) + 1
        return paint(_resized(masks, size), torch.as_tensor(found["scores"]), rest, labels)


class SamPoints(RegionSource):
    """The source ``sam_points``: CLIPtrase's regions with SAM's boundaries.

    Each region's most central patch is a point that SAM is asked about. A region becomes the mask of its point, of
    SAM's three the one with the highest predicted IoU, and what no mask takes of its own pixels.

    Args:
        model: See ``load_sam``, and ``processor``.
        finder: Whose regions they are.
    """

    needs_images = True

    def __init__(self, model: nn.Module, processor: Any, finder: RegionFinder) -> None:
        self.model, self.processor, self.finder = model, processor, finder
        self.taps = finder.taps

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Tensor], features: ClipFeatures, labels: Sequence[Tensor | None] = ()
    ) -> Regions:
        """One image at a time, SAM at the image's own size and in full precision."""
        with torch.autocast(features.valid.device.type, enabled=False):
            own = self.finder(images, features)
            below, maps = pixel_partition(own, features), own_maps(own.maps, features.valid, features.grid)
            found = [self._regions(*one) for one in zip(images, features.sizes, below, maps, strict=True)]
        return regions_from_pixels(found, features)

    def _regions(self, image: Tensor, size: Size, below: Tensor | None, maps: Tensor) -> Tensor | None:
        if below is None:
            return None
        present, points = central_points(maps, tuple(image.shape[-2:]))
        inputs = self.processor(_pil_image(image), input_points=[points[:, None].tolist()], return_tensors="pt")
        shapes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        moved = {key: value.to(image.device, _float32(value)) for key, value in inputs.items()}
        output = self.model.to(image.device)(
            **moved, input_labels=torch.ones_like(moved["input_points"][..., 0], dtype=torch.int64)
        )
        scores, best = output.iou_scores[0].max(1)
        logits = output.pred_masks[0][torch.arange(len(best)), best][None, :, None].float()
        (masks,) = self.processor.post_process_masks(logits, *(shape.tolist() for shape in shapes))
        return paint(_resized(masks[:, 0], size), scores, below, present)


def _float32(value: Tensor) -> torch.dtype:
    return torch.float32 if value.is_floating_point() else value.dtype


def _pil_image(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _resized(masks: Tensor, size: Size) -> Tensor:
    """(N, H, W) bool masks at another size."""
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks.bool()
    return F.interpolate(masks[None].float(), size, mode="bilinear", antialias=True)[0] > 0.5
