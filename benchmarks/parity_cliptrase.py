"""Deviations of this package's CLIPtrase from the numbers that the published script made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor

from benchmarks.parity_weights import Row, draw_weights
from san_cliptrase.clip.blocks import project_qkv
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.cliptrase import RegionFinder, TrainingFreeReader
from san_cliptrase.cliptrase.voting import Background
from san_cliptrase.regions.correlation import self_correlation, suppress_global_patches
from san_cliptrase.structures import ClipFeatures

# What the published positional embedding was resampled with.
INTERPOLATE_OFFSET = 0.1
FLOAT_TOLERANCE = 1e-4
PIXEL_TOLERANCE = 1e-3
TOLERANCES = {"labels": 0.0, "pred": PIXEL_TOLERANCE}
# Kind of prediction -> (background words appended, [CLS] prior).
PREDICTIONS = {"ADE150": (False, False), "VOC20": (False, True), "VOC21": (True, False)}


def build_parity_clip(config: Mapping[str, object], seed: int) -> FrozenClip:
    """The random CLIP that the fixtures were made with; ``config`` are keyword arguments of ``open_clip.CLIP``."""
    model = open_clip.CLIP(**config)
    shapes = {key: value.shape for key, value in model.state_dict().items() if not key.endswith("attn_mask")}
    # Older releases of open_clip keep the mask among the weights.
    model.load_state_dict(draw_weights(shapes, seed), strict=False)
    return FrozenClip(model, open_clip.SimpleTokenizer(), INTERPOLATE_OFFSET)


def cliptrase_deviations(fixtures: Path) -> list[Row]:
    """Compare CLIPtrase with the published script's numbers.

    Args:
        fixtures: Folder with a ``meta.json`` that has an entry "cliptrase".

    Returns:
        One row per quantity and image size, the worst image of each.
    """
    meta = json.loads((fixtures / "meta.json").read_text())
    settings = meta["cliptrase"]
    clip = build_parity_clip(json.loads((fixtures / meta["clip_config"]).read_text()), settings["weights_seed"])
    reference = np.load(fixtures / settings["file"])
    numbers = reference_quantities(clip, reference, range(settings["images"]), settings)
    return compare(numbers, reference)


def reference_quantities(
    clip: FrozenClip, reference: Mapping[str, np.ndarray], images: Sequence[int], settings: Mapping[str, list]
) -> Iterator[tuple[str, np.ndarray]]:
    """Our value of everything in the fixtures: pairs of the fixtures' key and an array.

    Args:
        clip: See ``build_parity_clip``.
        reference: The fixtures; only the images are read.
        images: Which of them.
        settings: ``labels``, ``background`` and ``settings``, as in ``meta.json``.
    """
    labels, background = settings["labels"], settings["background"]
    with_background = clip.text(labels, background=background).numpy()
    yield "logit_scale", clip.logit_scale.numpy()
    yield "text/labels", with_background[: len(labels)]
    yield "text/background", with_background[len(labels) :]
    for size, eps, min_samples in settings["settings"]:
        for index in images:
            pixels = clip.normalize(preprocess(reference[f"image_{index}"], size))[None]
            finder = RegionFinder(clip.visual, eps, min_samples)
            features = clip.visual(pixels, (*TrainingFreeReader(clip.visual, finder).taps, clip.visual.depth))
            for name, value in intermediate_quantities(clip, finder, features).items():
                yield f"{name}/{size}/{index}", value[0].numpy()
            for kind, (add_background, cls_prior) in PREDICTIONS.items():
                text_weights = clip.text(labels, background=background if add_background else ())
                reader = TrainingFreeReader(clip.visual, finder, cls_prior=cls_prior)
                prediction = reader.segment(features, text_weights, background=Background(len(labels)))[0]
                yield f"pred/{kind}/{size}/{index}", prediction.numpy()


@torch.no_grad()
def intermediate_quantities(clip: FrozenClip, finder: RegionFinder, features: ClipFeatures) -> dict[str, Tensor]:
    """What lies between an image and its prediction, by the names of the fixtures; a batch of each."""
    visual = clip.visual
    correlation = finder.correlate(features)
    last = visual.depth - 1
    return {
        "features": TrainingFreeReader(visual, finder).dense(features),
        "vanilla_features": visual.head(features.tokens[visual.depth]),
        "correlation": correlation,
        "attn_last": self_correlation(*project_qkv(visual.blocks[last], features.tokens[last])),
        "labels": finder.cluster(suppress_global_patches(correlation, features.valid), features),
    }


def compare(numbers: Iterable[tuple[str, np.ndarray]], reference: Mapping[str, np.ndarray]) -> list[Row]:
    """One row per quantity and size: the largest difference, or the largest share of entries that differ."""
    worst: dict[str, list[float]] = {}
    for key, ours in numbers:
        kind = key.split("/")[0]
        theirs = reference[key]
        exact = kind in TOLERANCES
        # An array of another shape is as wrong as can be, not something to broadcast.
        same_shape = ours.shape == theirs.shape
        deviation = np.inf if not same_shape else np.mean(ours != theirs) if exact else np.abs(ours - theirs).max()
        name = key.rpartition("/")[0] if key.count("/") > 1 else key
        worst.setdefault(f"CLIPtrase {name}{', share that differs' if exact else ''}", []).append(float(deviation))
    # np.max, because a NaN must not be lost.
    return [
        Row(name, float(np.max(values)), TOLERANCES.get(_kind(name), FLOAT_TOLERANCE)) for name, values in worst.items()
    ]


def _kind(name: str) -> str:
    return name.removeprefix("CLIPtrase ").split("/")[0]


def preprocess(image: np.ndarray, size: int) -> Tensor:
    """(3, size, size) in [0, 1] of an (H, W, 3) uint8 image, as the published scripts resize and crop it."""
    steps = Compose([Resize(size, InterpolationMode.BICUBIC), CenterCrop(size), ToTensor()])
    return steps(Image.fromarray(image))
