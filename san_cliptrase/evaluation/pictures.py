"""Test images beside their prediction, ground truth and errors, for people to look at."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog
from torch import nn

from san_cliptrase.data.views import build_test_mapper
from san_cliptrase.drawing import draw_comparison
from san_cliptrase.errors import DataError
from san_cliptrase.files import write_atomically
from san_cliptrase.texts import one_line

logger = logging.getLogger(__name__)


@torch.no_grad()
def write_pictures(cfg: Any, model: nn.Module, name: str, records: list[dict], output: Path) -> list[Path]:
    """Writes ``pictures/DATASET/IMAGE.png`` for TEST.PICTURES images, evenly spread over a test set.

    Args:
        cfg: configuration.
        model: a meta-architecture in evaluation mode.
        name: the test set.
        records: its images that were evaluated.
        output: folder.

    Returns:
        The files, see :func:`~san_cliptrase.drawing.draw_comparison`.

    Raises:
        DataError: a file cannot be used, and TEST.SKIP_BAD is off.
        OutputError: a file cannot be written.
    """
    records = sorted(records, key=lambda record: record["file_name"])
    chosen = np.linspace(0, len(records) - 1, min(cfg.TEST.PICTURES, len(records))).round().astype(int)
    names, mapper, files = list(MetadataCatalog.get(name).stuff_classes), build_test_mapper(cfg, name), []
    for place in chosen.tolist():
        file = Path(records[place]["file_name"])
        try:
            entry = mapper(records[place])
        except DataError:
            if cfg.TEST.SKIP_BAD:
                continue  # the evaluation has named it
            raise
        truth = entry["sem_seg"].cpu().numpy()
        picture = draw_comparison(
            shown_image(entry),
            model.label_maps([entry])[0].cpu().numpy(),
            truth,
            names,
            cfg.INPUT.IGNORE_LABEL,
            one_line(f"{name}: {file.name}"),
        )
        # Numbered: images of several folders may share a name, and not every character may be in one.
        path = output / "pictures" / name / f"{place:05d}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', file.stem)[:80]}.png"
        write_atomically(path, lambda written, picture=picture: picture.save(written, "PNG"))
        files.append(path)
    return files


def shown_image(entry: dict) -> np.ndarray:
    """(H, W, 3) uint8: the image of a test entry at the size of its ground truth."""
    image = F.interpolate(entry["image"][None].float(), tuple(entry["sem_seg"].shape), mode="bilinear")[0]
    return image.permute(1, 2, 0).byte().cpu().numpy()
