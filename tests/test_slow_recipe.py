"""The full COCO-Stuff recipe with ViT-B/16, at full size, on data of its layout."""

import json
import logging
import resource
import time

import numpy as np
import pytest
from PIL import Image

from san_cliptrase.commands.main import train_net as main
from san_cliptrase.data.datasets import DATASETS
from tests.conftest import ROOT

SIZES = ((480, 640), (640, 480), (427, 640), (640, 640))


def write_coco(root, split):
    """Four images in the layout of COCO and of detectron2's stuff annotations."""
    rng, spec = np.random.RandomState(0), DATASETS[split]
    (root / spec.images).mkdir(parents=True)
    (root / spec.labels).mkdir(parents=True)
    for index, (height, width) in enumerate(SIZES):
        coarse = rng.randint(171, size=(4, 5)).astype(np.uint8)
        coarse[0, 0] = 255
        labels = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
        colours = rng.randint(256, size=(256, 3))[np.asarray(labels)] + rng.normal(0, 20, (height, width, 3))
        image = Image.fromarray(colours.clip(0, 255).astype(np.uint8))
        image.save(root / spec.images / f"{index:012d}.jpg", quality=95)
        labels.save(root / spec.labels / f"{index:012d}.png")


@pytest.mark.slow
def test_two_iterations_of_the_full_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split in ("coco_stuff171_train", "coco_stuff171_val"):
        write_coco(tmp_path, split)
    changes = {
        "MODEL.CLIP.PRETRAINED": "",  # random weights; all else as in the recipe
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "DATALOADER.NUM_WORKERS": 0,
        "LOG_PERIOD": 1,
        "OUTPUT_DIR": tmp_path / "run",
    }
    started = time.monotonic()
    overrides = [str(part) for pair in changes.items() for part in pair]
    assert main(["--config", str(ROOT / "configs" / "san_cliptrase.yaml"), *overrides]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert all(np.isfinite(line["total_loss"]) for line in lines if "total_loss" in line)
    assert any("regions/mean_count" in line for line in lines)
    report = json.loads((tmp_path / "run" / "metrics_coco_stuff171_val.json").read_text())
    assert 0 <= report["metrics"]["mIoU"] <= 100
    assert (tmp_path / "run" / "model_final.pth").is_file()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    logging.getLogger(__name__).warning("%.0f s, peak %.1f GiB", time.monotonic() - started, peak)
