"""Trains the project's own small CLIP on the embedded scenes, from images and captions only.

``python -m san_cliptrase.lab.pretrain.scenes_clip --output DIR`` writes a folder that open_clip loads as the model
``local-dir:DIR``: its configuration and weights (half precision), and ``record.json``, what was done and the retrieval
accuracy. The files ``scenes_vit*`` in ``clip/models/`` were made by it. Pixel labels never enter: of a scene only the
names of the materials in it are read.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from san_cliptrase.lab.pretrain.captions import Batch, caption_batch
from san_cliptrase.lab.pretrain.contrastive import Normalise, Tokenizer, architecture, encode_image, fit
from san_cliptrase.pools import process_pool
from san_cliptrase.scenes import CLASS_NAMES, make_scene, make_swatch

PATCH_DROPOUT = 0.5
"""Half of the patches are dropped, which halves the time of a step, but for the last part of the training."""

_SCENE_SEED, _SWATCH_SEED, _TEST_SEED = 100, 101, 102
"""First words of the pictures' seeds; the demo's train and val splits use 1 and 2, so nothing is shared with them."""


def _draw(task: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    kind, index = task
    if kind == _SWATCH_SEED:
        name = CLASS_NAMES[index % len(CLASS_NAMES)]
        return _halve(make_swatch((kind, index), name)), [name]
    scene = make_scene((kind, index))
    return _halve(scene.image), scene.names


def _halve(image: np.ndarray) -> np.ndarray:
    """2x2 means, which is what SAN's half-resolution CLIP input is."""
    h, w, _ = image.shape
    return image.reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3)).round().astype(np.uint8)


def draw_pictures(kind: int, count: int, workers: int) -> tuple[Tensor, list[list[str]]]:
    """``count`` images at CLIP's size, (count, 3, 96, 96) uint8, and the names of the materials in each."""
    with process_pool(workers) as pool:
        drawn = list(tqdm(pool.map(_draw, [(kind, i) for i in range(count)], chunksize=32), "pictures", count))
    return torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2), [names for _, names in drawn]


@torch.no_grad()
def embed_images(model: torch.nn.Module, normalise: Normalise, images: Tensor) -> Tensor:
    """(N, E) L2-normalised embeddings of (N, 3, H, W) uint8 images, in the model's evaluation mode."""
    model.eval()
    return torch.cat([encode_image(model, normalise(chunk)) for chunk in images.split(64)])


@torch.no_grad()
def caption_accuracy(
    model: torch.nn.Module, normalise: Normalise, tokenizer: Tokenizer, images: Tensor, names: list[list[str]]
) -> float:
    """Top-1 accuracy of finding a picture's caption, which tells all its names, among those of all pictures."""
    sentences = ["a photo of " + ", ".join(sorted(n)) for n in names]
    image = embed_images(model, normalise, images)
    text = model.encode_text(tokenizer(sentences).to(image.device), normalize=True)
    found = (image @ text.T).argmax(1).tolist()
    return float(np.mean([sentences[i] == sentences[j] for i, j in enumerate(found)]))


@torch.no_grad()
def retrieval_accuracy(model: torch.nn.Module, normalise: Normalise, tokenizer: Tokenizer, workers: int) -> dict:
    """Top-1 accuracy on held-out images: which of 256 captions belongs to a scene, and which material a swatch is."""
    pictures, (swatches, truth) = _held_out(workers)
    scenes = caption_accuracy(model, normalise, tokenizer, *pictures)
    image = embed_images(model, normalise, swatches)
    words = model.encode_text(tokenizer([f"a photo of {n}." for n in CLASS_NAMES]).to(image.device), normalize=True)
    named = [CLASS_NAMES[i] == t[0] for i, t in zip((image @ words.T).argmax(1).tolist(), truth, strict=True)]
    return {"scene_to_caption_top1_of_256": scenes, "swatch_top1_of_24": float(np.mean(named))}


@functools.cache
def _held_out(workers: int) -> tuple[tuple[Tensor, list[list[str]]], tuple[Tensor, list[list[str]]]]:
    """Scenes and swatches with their names, drawn once a process."""
    return draw_pictures(_TEST_SEED, 256, workers), draw_pictures(_SWATCH_SEED, 10 * len(CLASS_NAMES), workers)


def train(args: argparse.Namespace, shape: dict) -> None:
    """Trains on the embedded scenes."""
    rng = np.random.default_rng(args.seed)
    scenes, scene_names = draw_pictures(_SCENE_SEED, args.scenes, args.workers)
    # Held-out swatches are the first of their seed; training draws the ones behind them.
    swatches, swatch_names = draw_pictures(_SWATCH_SEED, args.scenes // 3 + 10 * len(CLASS_NAMES), args.workers)
    held_out = 10 * len(CLASS_NAMES)
    images, names = torch.cat([scenes, swatches[held_out:]]), scene_names + swatch_names[held_out:]

    def draw() -> Batch:
        chosen = rng.integers(len(images), size=args.batch)
        batch = images[chosen]
        for axis in (2, 3):
            turn = torch.from_numpy(rng.random(args.batch) < 0.5)
            batch = torch.where(turn[:, None, None, None], batch.flip(axis), batch)
        return caption_batch(rng, batch, [names[i] for i in chosen])

    record = {key: getattr(args, key) for key in ("seed", "steps", "batch", "scenes", "lr")}
    record |= {key: shape["vision_cfg"][key] for key in ("layers", "width")}
    measure = functools.partial(retrieval_accuracy, workers=args.workers)
    fit(draw, measure, record, args.output, args.save_every, shape, patch_dropout=PATCH_DROPOUT, keep=args.keep)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--layers", type=int, help="blocks of the image tower (default: those of scenes_vit)")
    parser.add_argument("--width", type=int, help="of the image tower (default: that of scenes_vit)")
    parser.add_argument("--scenes", type=int, default=8000, help="scenes to draw; a third as many swatches on top")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--save-every", type=int, default=300)
    parser.add_argument("--keep", action="store_true", help="keep every checkpoint, in DIR/step_00300 and so on")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        shape = architecture(args.layers, args.width)
    except ValueError as error:
        parser.error(str(error))
    train(args, shape)


if __name__ == "__main__":
    main()
