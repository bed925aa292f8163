"""Trains the project's own small CLIP on the embedded scenes, from images and captions only.

``python -m san_cliptrase.clip.pretrain --output DIR`` writes a folder that open_clip loads as the model
``local-dir:DIR``: its configuration and weights (half precision), and ``record.json``, what was done and the retrieval
accuracy. The files ``scenes_vit*`` in ``clip/models/`` were made by it. Pixel labels never enter: of a scene only the
names of the materials in it are read.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.transform import PreprocessCfg
from torch import Tensor
from tqdm import tqdm

from san_cliptrase.clip.build import register_shipped_models
from san_cliptrase.clip.templates import load_templates
from san_cliptrase.files import write_text_atomically, write_whole
from san_cliptrase.scenes import CLASS_NAMES, make_scene, make_swatch

logger = logging.getLogger(__name__)

# Half of the patches are dropped, which halves the time of a step, but for the last part of the training (Li et al.,
# "FLIP", 2023: masked training, unmasked tuning).
PATCH_DROPOUT, UNMASKED = 0.5, 0.15

Tokenizer = Callable[[list[str]], Tensor]
Batch = tuple[Tensor, list[str], Tensor]
"""(B, 3, H, W) uint8 pictures, B captions, and (B, B) bool: [i, j], caption j is true of picture i."""

_SCENE_SEED, _SWATCH_SEED, _TEST_SEED = 100, 101, 102
"""First words of the pictures' seeds; the demo's train and val splits use 1 and 2, so nothing is shared with them."""


def contrastive_loss(image: Tensor, text: Tensor, truth: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE whose targets are spread over all pairs that are true, as several pictures fit one caption.

    Args:
        image: (B, E) L2-normalised image embeddings.
        text: (B, E) L2-normalised caption embeddings.
        truth: (B, B) bool, [i, j]: caption j is true of image i; the diagonal is True.
        logit_scale: () inverse temperature.
    """
    logits = logit_scale * image @ text.T
    target = truth.float()
    rows = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, target.T / target.T.sum(1, keepdim=True))
    return (rows + columns) / 2


def caption(rng: np.random.Generator, names: Sequence[str]) -> tuple[str, frozenset[str]]:
    """A true sentence about an image that shows ``names``: mostly about one of them, else about more or all."""
    count = 1 if rng.random() < 0.6 else int(rng.integers(1, len(names) + 1))
    told = [names[i] for i in rng.permutation(len(names))[:count]]
    phrase = told[0] if count == 1 else ", ".join(told[:-1]) + " and " + told[-1]
    pool = load_templates(("imagenet", "vild", "none")[rng.integers(3)])
    return pool[rng.integers(len(pool))].replace("{}", phrase), frozenset(told)


def caption_batch(rng: np.random.Generator, images: Tensor, names: Sequence[Sequence[str]]) -> Batch:
    """Draws a caption for each picture.

    Args:
        rng: decides the captions.
        images: (B, 3, H, W) uint8.
        names: for each picture, what it shows.
    """
    captions = [caption(rng, shown) for shown in names]
    truth = torch.tensor([[told <= set(shown) for _, told in captions] for shown in names])
    return images, [sentence for sentence, _ in captions], truth


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
    """``count`` pictures at CLIP's size, (count, 3, 96, 96) uint8, and the names of the materials in each."""
    with ProcessPoolExecutor(workers) as pool:
        drawn = list(tqdm(pool.map(_draw, [(kind, i) for i in range(count)], chunksize=32), "pictures", count))
    return torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2), [names for _, names in drawn]


class Normalise:
    """uint8 (B, 3, H, W) -> CLIP's normalised float32."""

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self.mean = 255 * torch.tensor(model.visual.image_mean, device=device)[:, None, None]
        self.std = 255 * torch.tensor(model.visual.image_std, device=device)[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        """Images as the model expects them, on its device."""
        return (images.to(self.mean.device) - self.mean) / self.std


def encode_image(model: torch.nn.Module, images: Tensor) -> Tensor:
    """(B, E) L2-normalised embeddings of normalised images of the model's own size."""
    return model.encode_image(images, normalize=True)


@torch.no_grad()
def embed_images(model: torch.nn.Module, normalise: Normalise, images: Tensor) -> Tensor:
    """(N, E) L2-normalised embeddings of (N, 3, H, W) uint8 pictures, in the model's evaluation mode."""
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
    """Top-1 accuracy on held-out pictures: which of 256 captions belongs to a scene, and which material a swatch is."""
    scenes = caption_accuracy(model, normalise, tokenizer, *draw_pictures(_TEST_SEED, 256, workers))
    swatches, truth = draw_pictures(_SWATCH_SEED, 10 * len(CLASS_NAMES), workers)
    image = embed_images(model, normalise, swatches)
    words = model.encode_text(tokenizer([f"a photo of {n}." for n in CLASS_NAMES]).to(image.device), normalize=True)
    named = [CLASS_NAMES[i] == t[0] for i, t in zip((image @ words.T).argmax(1).tolist(), truth, strict=True)]
    return {"scene_to_caption_top1_of_256": scenes, "swatch_top1_of_24": float(np.mean(named))}


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
    fit(draw, measure, record, args.output, args.save_every, shape, patch_dropout=PATCH_DROPOUT)


def architecture(layers: int | None = None, width: int | None = None) -> dict:
    """open_clip's configuration of ``scenes_vit``, with another depth or width of the image tower.

    Args:
        layers: Blocks; None: its own.
        width: A multiple of the width of a head; None: its own.

    Raises:
        ValueError: There would be no block, or the width is no such multiple.
    """
    register_shipped_models()
    shape = open_clip.get_model_config("scenes_vit")
    vision = shape["vision_cfg"]
    vision["layers"] = vision["layers"] if layers is None else layers
    vision["width"] = vision["width"] if width is None else width
    if vision["layers"] < 1:
        raise ValueError(f"--layers {layers}: a tower has at least one block")
    if vision["width"] < 1 or vision["width"] % vision["head_width"]:
        raise ValueError(f"--width {width} is no multiple of {vision['head_width']}, the width of a head")
    return shape


def fit(
    draw: Callable[[], Batch],
    measure: Callable[[torch.nn.Module, Normalise, Tokenizer], dict],
    record: dict,
    output: Path,
    save_every: int,
    shape: dict,
    weights: Path | None = None,
    patch_dropout: float = 0.0,
    embed: Callable[[torch.nn.Module, Tensor], Tensor] = encode_image,
) -> None:
    """Trains a CLIP; writes the checkpoint on the way too: a killed run leaves a whole one.

    Args:
        draw: makes the next batch.
        measure: what is measured on held-out pictures before weights are written.
        record: what is written beside the weights; "seed", "steps" and "lr" (the highest learning rate) are used.
        output: folder.
        save_every: steps.
        shape: see :func:`architecture`.
        weights: file to start from; without, weights are random.
        patch_dropout: share of the patches that is dropped, but for the last :data:`UNMASKED` of the steps.
        embed: model and normalised images (B, 3, H, W) -> (B, E) embeddings, L2-normalised.
    """
    torch.manual_seed(record["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"local-dir:{output}"
    described = {
        "model_cfg": shape,
        "preprocess_cfg": dataclasses.asdict(PreprocessCfg(shape["vision_cfg"]["image_size"])),
    }
    write_text_atomically(output / HF_CONFIG_NAME, json.dumps(described, indent=2) + "\n")
    model = open_clip.create_model(name, load_weights=False, force_patch_dropout=patch_dropout or None).to(device)
    if weights:
        open_clip.load_checkpoint(model, str(weights))
    tokenizer, normalise = open_clip.get_tokenizer(name), Normalise(model, device)
    steps, lr = record["steps"], record["lr"]
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.08)
    started, progress = time.monotonic(), tqdm(range(1, steps + 1), "steps")
    for step in progress:
        model.train()
        if patch_dropout and step > (1 - UNMASKED) * steps:
            model.visual.patch_dropout.prob = 0.0
        images, captions, truth = draw()
        # On processors without bfloat16 instructions it is ten times slower than single precision.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            image = embed(model, normalise(images)).float()
            text = model.encode_text(tokenizer(captions).to(device), normalize=True).float()
        loss = contrastive_loss(image, text, truth.to(device), model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(100))
        progress.set_postfix(loss=f"{loss.item():.3f}")
        if step % save_every == 0 or step == steps:
            minutes = round((time.monotonic() - started) / 60, 1)
            now = {**record, "steps": step, "device": str(device), "minutes": minutes, "loss": loss.item()}
            save(model, {**now, **measure(model, normalise, tokenizer)}, output)


def save(model: torch.nn.Module, record: dict, output: Path) -> None:
    """Writes weights and record, each whole or not at all."""
    weights = {name: value.detach().half().contiguous().cpu() for name, value in model.state_dict().items()}
    write_whole(output / HF_SAFE_WEIGHTS_NAME, functools.partial(safetensors.torch.save_file, weights))
    write_text_atomically(output / "record.json", json.dumps(record, indent=2) + "\n")
    logger.info("wrote %s: %s", output, record)


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
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        shape = architecture(args.layers, args.width)
    except ValueError as error:
        parser.error(str(error))
    train(args, shape)


if __name__ == "__main__":
    main()
