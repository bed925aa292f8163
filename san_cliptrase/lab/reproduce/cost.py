"""What one image costs under a row of a table, beside plain CLIP's own embedding of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from san_cliptrase.clip.batches import image_batch
from san_cliptrase.clip.positions import interpolate_positions
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.data.loader import BadSample, build_test_loader
from san_cliptrase.data.views import build_test_mapper
from san_cliptrase.lab.reproduce.request import evaluated_records
from san_cliptrase.lab.turns import turns
from san_cliptrase.meta_arch import CLIPtrase

IMAGES, ROUNDS = 4, 9


def cost_beside_clip(cfg: Any, model: CLIPtrase) -> list[float]:
    """How many times as long an image takes from pixels to labels as its embedding by plain CLIP.

    Measured on the first images of the first test set; model and plain CLIP take turns, on a CPU with one thread. Plain
    CLIP sees each image whole, at the size at which the model is given it, and gives the joint embedding of [CLS].

    Args:
        cfg: of the model.
        model: on its device, in evaluation mode.

    Returns:
        Median, least and largest ratio over the rounds; [] where none of the images can be read.
    """
    name, clip = cfg.DATASETS.TEST[0], model.clip
    loader = build_test_loader(evaluated_records(cfg, name)[:IMAGES], build_test_mapper(cfg, name), 1, 0)
    entries = [entry for batch in loader for entry in batch if not isinstance(entry, BadSample)]
    if not entries:
        return []
    patch = max(clip.visual.patch_size)
    seen = [image_batch([entry["image"]], clip, patch, model.resolution).tensor for entry in entries]
    functions = {
        "plain": partial(_all, [partial(embed_image, clip.visual, image) for image in seen]),
        "row": partial(_all, [partial(model.label_maps, [entry]) for entry in entries]),
    }
    with torch.inference_mode(), _one_thread():  # words are encoded in the round that warms up
        seconds = turns(functions, model.device.type, ROUNDS, "cost")
    ratios = [row / plain for row, plain in zip(seconds["row"], seconds["plain"], strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def embed_image(visual: ClipVisualEncoder, image: Tensor) -> Tensor:
    """open_clip's own embedding (1, E) of an image (1, 3, H, W) of any whole number of patches."""
    grid = tuple(side // patch for side, patch in zip(image.shape[-2:], visual.patch_size, strict=True))
    cls, patches = visual.vision.positional_embedding[:1], visual.vision.positional_embedding[1:]
    resampled = interpolate_positions(patches, visual.grid, grid, visual.interpolate_offset).flatten(1).T
    return functional_call(visual.vision, {"positional_embedding": torch.cat([cls, resampled])}, (image,))


def _all(functions: Sequence[Callable[[], Any]]) -> None:
    for function in functions:
        function()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
