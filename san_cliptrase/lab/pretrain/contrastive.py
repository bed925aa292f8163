"""How a small CLIP is trained on any images with captions, and written as a folder that open_clip loads.

What the images show is the caller's: the embedded scenes (``lab/pretrain/scenes_clip.py``), or photographs
(``lab/pretrain/photo_clip.py``).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import shutil
import time
from collections.abc import Callable
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
from san_cliptrase.files import write_text_atomically, write_whole
from san_cliptrase.lab.pretrain.captions import Batch

logger = logging.getLogger(__name__)

UNMASKED = 0.15
"""The last share of the steps, in which no patch is dropped (Li et al., "FLIP", 2023: masked, then unmasked)."""

SHOWN_EVERY = 20
"""Steps between losses in the progress bar: to read one, the host waits for the device."""

Tokenizer = Callable[[list[str]], Tensor]


def contrastive_loss(image: Tensor, text: Tensor, truth: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE whose targets are spread over all pairs that are true, as several images fit one caption.

    Of several views of a image, a caption has to fit one: their logits are pooled by ``log mean exp``, as in
    learning from bags of instances (Pinheiro and Collobert, "From image-level to pixel-level labeling", CVPR 2015).

    Args:
        image: (B, E) L2-normalised image embeddings, or (B, V, E) of V views.
        text: (B, E) L2-normalised caption embeddings.
        truth: (B, B) bool, [i, j]: caption j is true of image i; the diagonal is True.
        logit_scale: () inverse temperature.
    """
    views = image[:, None] if image.dim() == 2 else image
    logits = (logit_scale * views @ text.T).logsumexp(1) - math.log(views.shape[1])
    target = truth.float()
    rows = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, target.T / target.T.sum(1, keepdim=True))
    return (rows + columns) / 2


class Normalise:
    """Values from 0 to 255, (..., 3, H, W) -> CLIP's normalised float32, (B, 3, H, W)."""

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self.mean = 255 * torch.tensor(model.visual.image_mean, device=device)[:, None, None]
        self.std = 255 * torch.tensor(model.visual.image_std, device=device)[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        """Images as the model expects them, on its device; all views of a image behind each other."""
        return (images.to(self.mean.device).flatten(0, -4) - self.mean) / self.std


def encode_image(model: torch.nn.Module, images: Tensor) -> Tensor:
    """(B, E) L2-normalised embeddings of normalised images of the model's own size."""
    return model.encode_image(images, normalize=True)


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
    keep: bool = False,
) -> None:
    """Trains a CLIP; writes the checkpoint on the way too: a killed run leaves a whole one.

    Args:
        draw: makes the next batch.
        measure: what is measured on held-out images before weights are written.
        record: what is written beside the weights; "seed", "steps" and "lr" (the highest learning rate) are used.
        output: folder.
        save_every: steps.
        shape: see :func:`architecture`.
        weights: file to start from; without, weights are random.
        patch_dropout: share of the patches that is dropped, but for the last :data:`UNMASKED` of the steps.
        embed: model and normalised images (B, 3, H, W) -> (B, E) embeddings, L2-normalised.
        keep: write each checkpoint into a folder of its own too, ``step_00120`` and so on in ``output``.
    """
    torch.manual_seed(record["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = _build(output, shape, weights, patch_dropout)
    normalise = Normalise(model.to(device), device)
    tokens = functools.lru_cache(100_000)(lambda sentence: tokenizer([sentence])[0])
    steps, lr = record["steps"], record["lr"]
    optimizer = _optimizer(model, lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.08)
    started, progress = time.monotonic(), tqdm(range(1, steps + 1), "steps")
    for step in progress:
        model.train()
        if patch_dropout and step > (1 - UNMASKED) * steps:
            model.visual.patch_dropout.prob = 0.0
        images, captions, truth = draw()
        # On processors without bfloat16 instructions it is ten times slower than single precision.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            image = embed(model, normalise(images)).float().unflatten(0, images.shape[:-3])
            text = model.encode_text(torch.stack([tokens(c) for c in captions]).to(device), normalize=True).float()
        loss = contrastive_loss(image, text, truth.to(device), model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(100))
        if step % SHOWN_EVERY == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
        if step % save_every == 0 or step == steps:
            minutes = round((time.monotonic() - started) / 60, 1)
            now = {**record, "steps": step, "device": str(device), "minutes": minutes, "loss": loss.item()}
            now |= measure(model, normalise, tokenizer)
            save(model, now, output)
            if keep:
                others = shutil.ignore_patterns("step_*")
                shutil.copytree(output, output / f"step_{step:05d}", ignore=others, dirs_exist_ok=True)


def _build(output: Path, shape: dict, weights: Path | None, patch_dropout: float) -> tuple[torch.nn.Module, Tokenizer]:
    """Model and tokenizer of the configuration, which is written into the folder first."""
    name = f"local-dir:{output}"
    described = {
        "model_cfg": shape,
        "preprocess_cfg": dataclasses.asdict(PreprocessCfg(shape["vision_cfg"]["image_size"])),
    }
    write_text_atomically(output / HF_CONFIG_NAME, json.dumps(described, indent=2) + "\n")
    model = open_clip.create_model(name, load_weights=False, force_patch_dropout=patch_dropout or None)
    if weights:
        open_clip.load_checkpoint(model, str(weights))
    return model, open_clip.get_tokenizer(name)


def _optimizer(model: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
        fused=decayed[0].is_cuda,
    )


def save(model: torch.nn.Module, record: dict, output: Path) -> None:
    """Writes weights and record, each whole or not at all."""
    weights = {name: value.detach().half().contiguous().cpu() for name, value in model.state_dict().items()}
    write_whole(output / HF_SAFE_WEIGHTS_NAME, functools.partial(safetensors.torch.save_file, weights))
    write_text_atomically(output / "record.json", json.dumps(record, indent=2) + "\n")
    logger.info("wrote %s: %s", output, record)
