"""From what is chosen on the page to what it shows: the one place where the app uses the ``Segmenter``."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from san_cliptrase.app.offers import EMBEDDED
from san_cliptrase.clip.batches import image_batch
from san_cliptrase.clip.vocabulary import check_vocabulary
from san_cliptrase.errors import OptionError
from san_cliptrase.files import write_text_atomically
from san_cliptrase.patches.page import page_data, page_text
from san_cliptrase.patches.view import PatchView, taps, view_patches
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.segmentation import Segmentation
from san_cliptrase.segmenter import Segmenter
from san_cliptrase.segmenter.trained_san import TrainedSan

MOST_PATCHES = 1600
"""Of an image whose patches can be clicked on: the page holds the square of it, four times."""
MOST_SCORES = 2**26
"""Classes times pixels whose probabilities are computed for the confidence: 256 MB, and a few times that on the way."""
KEPT_MODELS = 2

Say = Callable[[float, str], object]
"""Told how far the work is, in [0, 1], and what comes next."""


@dataclass(frozen=True)
class Choice:
    """A model and how it is used; the names are those of ``Segmenter.from_clip``.

    Attributes:
        clip: MODEL@WEIGHTS.
        san: a trained SAN; "": training-free. Of the others, only ``refine`` is for a SAN too.
        size: the shorter side that CLIP sees, in pixels; None: what it was trained at.
    """

    clip: str = EMBEDDED
    attention: str = "cliptrase"
    classify: str = "vote"
    refine: str = "none"
    size: int | None = None
    san: str = ""
    device: str = "auto"


@dataclass(frozen=True)
class Shown:
    """What the page shows of a segmentation.

    Attributes:
        about: classes with their areas.
        html: the image to point and click at, a document of its own.
        overlay: file; so are ``labels`` and ``coco``.
    """

    about: str
    html: str
    overlay: Path
    labels: Path
    coco: Path


@functools.lru_cache(maxsize=KEPT_MODELS)
def load_segmenter(choice: Choice) -> Segmenter:
    """The segmenter of a choice; words are kept in memory only.

    Raises:
        SanCliptraseError: See ``Segmenter.from_clip`` and ``from_san``; or a name is not MODEL@WEIGHTS.
    """
    common = {"refine": choice.refine, "device": choice.device, "text_cache": ""}
    if choice.san:
        return Segmenter.from_san(choice.san, **common)
    model, _, weights = choice.clip.strip().partition("@")
    if not model or not weights:
        raise OptionError(f"{choice.clip!r} is no CLIP: write MODEL@WEIGHTS, such as {EMBEDDED} or ViT-B-16@openai")
    return Segmenter.from_clip(
        model, weights, attention=choice.attention, classify=choice.classify, size=choice.size, **common
    )


def show(image: Path, words: Sequence[str], background: Sequence[str], choice: Choice, folder: Path, say: Say) -> Shown:
    """Segment an image, look at its patches, and write what can be taken away.

    Args:
        image: a file.
        words: see ``Segmenter.__call__``; so is ``background``.
        choice: the model.
        folder: where files go; it is made.
        say: called before each step.

    Raises:
        SanCliptraseError: The image, the words or the model cannot be used.
    """
    check_vocabulary(words)
    say(0.05, "Loading the model")
    segmenter = load_segmenter(choice)
    say(0.25, "Segmenting")
    result = segmenter(image, words, background)
    say(0.5, "Confidence and regions")
    confidence = _confidence(result)
    regions = _regions(segmenter, result)
    say(0.65, "Correlations")
    view, note = _view(segmenter, result)
    if confidence is None:
        note = f"{note} So many classes times pixels are too many for the confidence to be shown.".strip()
    start = tuple(side // 2 for side in view.grid)
    page = page_text(page_data(view, start, regions, confidence, note))
    say(0.8, "Writing files")
    overlay, labels, _ = result.save(folder / image.stem)
    coco = folder / f"{image.stem}_coco.json"
    write_text_atomically(coco, json.dumps(result.to_coco()))
    return Shown(result.describe(limit=len(result.names)), page, overlay, labels, coco)


def _confidence(result: Segmentation) -> np.ndarray | None:
    return result.confidence if len(result.names) * result.labels.size <= MOST_SCORES else None


def _regions(segmenter: Segmenter, result: Segmentation) -> np.ndarray:
    """(h, w): the region whose mask is largest at each place, -1 where all are 0 and where there are no regions."""
    if segmenter.method.is_large(segmenter.method.see(result.image)) or not len(result.regions):
        return np.full((1, 1), -1)
    return np.where(result.regions.max(0) > 0, result.regions.argmax(0), -1)


@torch.no_grad()
def _view(segmenter: Segmenter, result: Segmentation) -> tuple[PatchView, str]:
    """The patches of CLIP, and why there are none to click on where that is so."""
    method = segmenter.method
    visual, seen = method.clip.visual, method.see(result.image)
    resolution = method.model.resolution if isinstance(method, TrainedSan) else 1.0
    batch = image_batch([seen], method.clip, scale=resolution)
    patches = math.prod(-(-side // patch) for side, patch in zip(batch.sizes[0], visual.patch_size, strict=True))
    if patches > MOST_PATCHES:
        note = (
            f"CLIP saw {patches} patches, more than the {MOST_PATCHES} that can be clicked on: choose a smaller size."
        )
        whole = (float(result.labels.shape[0]), float(result.labels.shape[1]))
        nothing = np.full(1, -1)
        return (
            PatchView("", result.image, (1, 1), whole, {}, {}, nothing, result.labels, None, result.names),
            note,
        )
    features = visual(batch.tensor, taps(visual), batch.sizes)
    view = view_patches(
        visual, RegionFinder(visual), features, batch.sizes[0], result.image, result.labels, result.names
    )
    return view, ""
