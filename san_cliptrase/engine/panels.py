"""Panels that show what a model does with an image."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from san_cliptrase.clip.batches import image_batch
from san_cliptrase.colors import class_colors
from san_cliptrase.drawing import outlines
from san_cliptrase.evaluation.pictures import shown_image
from san_cliptrase.meta_arch.san import SAN
from san_cliptrase.san.model import DIVISIBILITY


def segmentation_panel(model: nn.Module, entry: dict, ignore_label: int) -> np.ndarray:
    """Image, its regions if the model starts from any, prediction and ground truth, side by side.

    Args:
        model: a meta-architecture in evaluation mode.
        entry: what the test mapper returns.
        ignore_label: drawn black.

    Returns:
        (H, n * W, 3) uint8.
    """
    truth = entry["sem_seg"].numpy()
    size = truth.shape
    photo = shown_image(entry)
    panels = [photo]
    if isinstance(model, SAN) and model.network.query_init.needs_regions:
        panels.append(region_panel(photo, region_map(model, entry, size), len(entry["vocabulary"])))
    prediction = model.label_maps([entry])[0].cpu().numpy()
    colours = np.concatenate([class_colors(len(entry["vocabulary"])), np.zeros((1, 3), np.uint8)])
    panels.append(colours[prediction])
    panels.append(colours[np.where(truth == ignore_label, len(colours) - 1, truth)])
    return np.concatenate(panels, axis=1)


def region_map(model: SAN, entry: dict, size: tuple[int, int]) -> np.ndarray:
    """(H, W) int64: which of CLIPtrase's regions each pixel of an image lies in; 0 is none."""
    batch = image_batch([entry["image"]], model.clip, DIVISIBILITY)
    features = model.clip_features(batch)
    masks = model.find_regions(features, [entry["image"]], batch, [entry["sem_seg"]]).masks
    if not masks.shape[1]:
        return np.zeros(size, np.int64)
    height, width = batch.sizes[0]
    masks = torch.nn.functional.interpolate(masks, batch.canvas, mode="nearest")[..., :height, :width]
    masks = torch.nn.functional.interpolate(masks, size, mode="nearest")[0]
    empty = masks.new_full((1, *size), 1e-6)  # regions may share a patch
    return torch.cat([empty, masks]).argmax(0).cpu().numpy()


def region_panel(photo: np.ndarray, regions: np.ndarray, classes: int) -> np.ndarray:
    """An image under its regions, in colours that no class has: a region is of no class yet.

    Args:
        photo: (H, W, 3) uint8.
        regions: (H, W) int64, see :func:`region_map`.
        classes: how many there are.

    Returns:
        (H, W, 3) uint8.
    """
    colours = class_colors(classes + int(regions.max()) + 1)[classes:]
    mixed = (0.5 * photo + 0.5 * colours[regions]).astype(np.uint8)
    mixed[outlines(regions)] = 255
    return mixed
