"""Trains a small ViT of timm on the embedded scenes by self-distillation (DINO): from images alone, without a word.

``python -m san_cliptrase.lab.pretrain.scenes_dino --output output/dino`` writes a folder that timm loads as the model
``local-dir:output/dino``: ``config.json``, ``model.safetensors`` and ``record.json``, what was done. It stands in for
DINO's own weights where CLIPtrase's regions come from another ViT: MODEL.REGIONS.SOURCE timm:local-dir:output/dino.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from timm.data import resolve_data_config
from timm.models import save_for_hf
from torch import Tensor
from torchvision.transforms import v2
from tqdm import tqdm

from san_cliptrase.files import write_text_atomically
from san_cliptrase.lab.pretrain.dino import SelfDistillation
from san_cliptrase.lab.pretrain.scenes_clip import draw_pictures

logger = logging.getLogger(__name__)

BASE = "vit_tiny_patch16_224"
"""timm's entry whose shape is changed to one that a processor can train in minutes."""
PICTURE, GLOBAL, LOCAL, LOCAL_VIEWS = 96, 64, 32, 2
"""Sides in pixels of images and of their views, and how many local views there are beside the two global ones."""
TEACHER_MOMENTUM, WARM_UP = 0.99, 0.15
_SCENE_SEED = 103
"""First word of the pictures' seeds; shared with no split of the demo and not with its CLIP's training."""


def shape(width: int, depth: int) -> dict:
    """Arguments of timm's model: patches of 8 pixels on images of 96, a grid of 12x12."""
    return {
        "img_size": PICTURE,
        "patch_size": 8,
        "embed_dim": width,
        "depth": depth,
        "num_heads": width // 32,
        "num_classes": 0,
        "dynamic_img_size": True,
    }


def crops(side: int, least: float, most: float) -> v2.Transform:
    """A random view: part of the image between two shares of its area, flipped, its colours a little changed."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=(least, most), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.2, 0.02)], p=0.8),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def views(transform: v2.Transform, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """One view of each image (B, 3, H, W) uint8, normalised."""
    return (torch.stack([transform(image) for image in images]) - mean) / std


def train(args: argparse.Namespace) -> None:
    """Trains, and writes the teacher's ViT, which is the better one, on the way too."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    backbone = timm.create_model(BASE, **shape(args.width, args.depth))
    data = resolve_data_config(model=backbone)
    mean, std = (torch.tensor(data[key])[:, None, None] for key in ("mean", "std"))
    model = SelfDistillation(backbone, args.width)
    optimizer = torch.optim.AdamW(
        [p for p in model.student.parameters() if p.requires_grad], args.lr, weight_decay=0.04
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=WARM_UP)
    pictures, _ = draw_pictures(_SCENE_SEED, args.scenes, args.workers)
    whole, part = crops(GLOBAL, 0.4, 1.0), crops(LOCAL, 0.05, 0.4)
    started, progress = time.monotonic(), tqdm(range(1, args.steps + 1), "steps")
    for step in progress:
        images = pictures[rng.integers(len(pictures), size=args.batch)]
        large, small = (
            [views(transform, images, mean, std) for _ in range(count)]
            for transform, count in ((whole, 2), (part, LOCAL_VIEWS))
        )
        loss = model(large, small)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.student.parameters(), 3.0)
        optimizer.step()
        schedule.step()
        # From TEACHER_MOMENTUM to 1 along a cosine, as published.
        model.follow(1 - (1 - TEACHER_MOMENTUM) * (math.cos(math.pi * step / args.steps) + 1) / 2)
        progress.set_postfix(loss=f"{loss.item():.3f}")
        if step % args.save_every == 0 or step == args.steps:
            record = {key: getattr(args, key) for key in ("seed", "batch", "scenes", "lr", "width", "depth")}
            minutes = round((time.monotonic() - started) / 60, 1)
            save(model.teacher[0], {**record, "steps": step, "minutes": minutes, "loss": loss.item()}, args.output)


def save(backbone: torch.nn.Module, record: dict, output: Path) -> None:
    """Writes the folder that timm reads."""
    save_for_hf(backbone, str(output), model_args=shape(record["width"], record["depth"]), safe_serialization=True)
    write_text_atomically(output / "record.json", json.dumps(record, indent=2) + "\n")
    logger.info("wrote %s: %s", output, record)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--scenes", type=int, default=3000, help="scenes to draw")
    parser.add_argument("--width", type=int, default=128, help="of the ViT, a multiple of 32")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the ViT")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--save-every", type=int, default=250)
    args = parser.parse_args(argv)
    for name in ("steps", "batch", "scenes", "depth", "save_every"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)} is less than 1")
    if args.width < 32 or args.width % 32:
        parser.error(f"--width {args.width} is no multiple of 32, the width of a head")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(args)


if __name__ == "__main__":
    main()
