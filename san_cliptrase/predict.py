"""Segment photographs by words, training-free: ``python -m san_cliptrase.predict IMAGE... --vocabulary "sky, sea"``.

Needs no detectron2. For every image NAME it writes ``NAME_overlay.png`` (colours, outlines, names, legend),
``NAME_labels.png`` (class index of every pixel) and ``NAME.json`` (the names and areas of the classes).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from san_cliptrase.class_lists import read_class_list
from san_cliptrase.clip.attention import ATTENTION_RULES
from san_cliptrase.clip.build import FrozenClip, build_clip
from san_cliptrase.clip.templates import TEMPLATES
from san_cliptrase.clip.text import check_vocabulary
from san_cliptrase.cliptrase import TrainingFreeReader
from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.cliptrase.voting import Background, resize_labels
from san_cliptrase.device import find_device
from san_cliptrase.drawing import draw_overlay
from san_cliptrase.errors import OptionError, WeightsError
from san_cliptrase.images import read_image
from san_cliptrase.regions.build import ONE_IMAGE, build_region_source, check_source

logger = logging.getLogger("san_cliptrase.predict")  # run by -m, __name__ is another

# CLIPtrase's positional embedding is resampled as in DINO's code.
INTERPOLATE_OFFSET = 0.1
BACKGROUND = "background"
# Time and memory of attention and correlation grow with the square of the patches.
MAX_PATCHES = 4096


@dataclass(frozen=True)
class Predictor:
    """A frozen CLIP, a vocabulary, and the way to segment with them.

    Attributes:
        clip: The CLIP.
        reader: The training-free reading of its image tower.
        names: Class names; the last one is "background" if there are background words.
        text_weights: (K + background words, E).
        num_classes: K.
        size: Shorter side, in pixels, to which images are resized for CLIP.
    """

    clip: FrozenClip
    reader: TrainingFreeReader
    names: tuple[str, ...]
    text_weights: Tensor
    num_classes: int
    size: int

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Segment an RGB image, (H, W, 3) uint8: (H, W) int64 indices into ``names``.

        Raises:
            OptionError: The image is so long that CLIP would see more than ``MAX_PATCHES`` patches.
        """
        scale = self.size / min(image.shape[:2])
        height, width = (max(self.size, round(side * scale)) for side in image.shape[:2])
        rows, columns = (-(-side // p) for side, p in zip((height, width), self.clip.visual.patch_size, strict=True))
        if rows * columns > MAX_PATCHES:
            raise OptionError(
                f"{image.shape[1]}x{image.shape[0]} pixels are {columns}x{rows} patches at --size {self.size}"
                f", more than {MAX_PATCHES}: cut it into pieces, or choose a smaller --size"
            )
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized)).to(self.text_weights.device).permute(2, 0, 1) / 255
        features = self.clip.visual(self.clip.normalize(pixels)[None], self.reader.taps)
        images = []
        if self.reader.needs_images:
            images = [torch.from_numpy(image.copy()).to(self.text_weights.device).permute(2, 0, 1) / 255]
        background = Background(self.num_classes)
        labels = self.reader.segment(features, self.text_weights, images, background)[0]
        return resize_labels(labels, image.shape[:2]).cpu().numpy()


def build_predictor(options: argparse.Namespace) -> Predictor:
    """Build what the command line asks for.

    Raises:
        OptionError: Bad vocabulary, unknown model, tag, device or attention rule, size below one patch.
        WeightsError: The weights cannot be fetched or do not fit.
    """
    file, background = options.vocabulary_file, _words(options.background)
    vocabulary = read_class_list(file) if file else _words(options.vocabulary)
    check_vocabulary(vocabulary)
    clip = build_clip(options.model, options.pretrained, INTERPOLATE_OFFSET, synonyms=options.synonyms)
    clip = clip.to(find_device(options.device))
    if options.model == "scenes_vit":
        logger.info("scenes_vit is the demo's small CLIP: it knows the materials of the demo scenes and no photographs")
    size = options.size or min(clip.image_size)
    if size < max(clip.visual.patch_size):
        raise OptionError(
            f"--size {size} is less than one patch of {options.model} ({max(clip.visual.patch_size)} pixels)"
        )
    check_source(options.regions, ONE_IMAGE)
    source = None
    if options.classify != "patches":
        source = build_region_source(
            options.regions,
            clip.visual,
            eps=options.eps,
            min_samples=options.min_samples,
            pretrained=options.regions_pretrained,
            sam_model=options.sam_model,
        )
    reader = TrainingFreeReader(
        clip.visual, source, attention=options.attention, classify=options.classify, cls_layer=options.cls_layer
    )
    if reader.needs_labels:
        raise OptionError(f"--attention {options.attention} looks at the ground truth, which photographs do not have")
    return Predictor(
        clip=clip,
        reader=reader,
        names=(*vocabulary, BACKGROUND) if background else tuple(vocabulary),
        text_weights=clip.text(vocabulary, options.templates, background),
        num_classes=len(vocabulary),
        size=size,
    )


def write_result(stem: Path, image: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """Write the overlay, the label map and the summary of one image; ``stem`` is their path without an ending."""
    draw_overlay(image, labels, names).save(f"{stem}_overlay.png")
    Image.fromarray(labels.astype(np.uint8 if len(names) <= 256 else np.uint16)).save(f"{stem}_labels.png")
    areas = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
    classes = [{"index": i, "name": name, "area": round(float(areas[i]), 6)} for i, name in enumerate(names)]
    summary = {"height": image.shape[0], "width": image.shape[1], "classes": classes}
    Path(f"{stem}.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m san_cliptrase.predict", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="photographs, in any format that Pillow reads")
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--vocabulary", metavar="WORDS", help='class names with commas between: "grass, water, brick"')
    words.add_argument("--vocabulary-file", type=Path, metavar="FILE", help="text file with one class name a line")
    add("--synonyms", action="store_true", help='read a line of the file with commas ("sea, ocean") as synonyms')
    add("--background", default="", metavar="WORDS", help="words that all mean background, with commas between")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the results; made if missing")
    add(
        "--model", default="ViT-B-16", help="any ViT of open_clip, or scenes_vit, the demo's own (default: %(default)s)"
    )
    add("--pretrained", default="openai", help="tag or weights file; scenes for scenes_vit (default: %(default)s)")
    rules = f"{', '.join(ATTENTION_RULES)}, or a combination, as qq+kk-mlp+neighbours (docs/architecture.md)"
    add("--attention", default="cliptrase", metavar="RULE", help=f"rule of CLIP's last block: {rules}")
    ways = "; ".join(f"{name}: {what}" for name, what in CLASSIFY.items())
    add("--classify", default="vote", choices=CLASSIFY, help=f"what decides a region's class. {ways}")
    add("--cls-layer", type=int, default=-6, help="cls: block that a region's [CLS] begins at (default: %(default)s)")
    add(
        "--regions",
        default=ONE_IMAGE[0],
        help=f"where regions come from: {', '.join(ONE_IMAGE)} (default: %(default)s)",
    )
    add("--regions-pretrained", default="default", metavar="FILE", help="weights file of timm:MODEL, or random")
    add("--sam-model", default="facebook/sam-vit-base", help="SAM's id or folder (default: %(default)s)")
    add("--size", type=int, help="shorter side that CLIP sees, in pixels (default: what it was trained at)")
    add("--eps", type=float, help="DBSCAN's radius (default: by the grid for ViT-B-16, else found in each picture)")
    add("--min-samples", type=int, help="DBSCAN's core size (default: from the patch grid; 3 at 14x14)")
    add("--templates", default="imagenet", choices=sorted(TEMPLATES), help="prompts (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, ... (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment every image; one that cannot be read is reported and left out. Returns the exit status."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("san_cliptrase").setLevel(logging.INFO)
    try:
        predictor = build_predictor(options)
        options.output.mkdir(parents=True, exist_ok=True)
    except (ValueError, WeightsError, OSError) as error:
        logger.error("%s", error)
        return 1
    failed = 0
    for path, stem in zip(options.images, _unique_stems(options.images), strict=True):
        try:
            image = read_image(path)
            write_result(options.output / stem, image, predictor(image), predictor.names)
            logger.info("%s -> %s", path, options.output / f"{stem}_overlay.png")
        except (ValueError, OSError) as error:
            logger.error("%s", error)
            failed += 1
    return 1 if failed else 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")] if text.strip() else []


def _unique_stems(paths: Sequence[Path]) -> list[str]:
    """File names without their ending, numbered where two images share one."""
    stems: list[str] = []
    for path in paths:
        stem, number = path.stem, 2
        while stem in stems:
            stem, number = f"{path.stem}_{number}", number + 1
        stems.append(stem)
    return stems


if __name__ == "__main__":
    sys.exit(main())
