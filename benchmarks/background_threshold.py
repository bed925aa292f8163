"""What threshold finds a background? ``python benchmarks/background_threshold.py [--images N]``.

On embedded scenes of the split for tuning, six of the 24 materials count as background and their names are not told to
CLIPtrase. Printed is mIoU with background by each of several probabilities (TEST.BACKGROUND threshold), and, as what
could be had, with the six names as background words. It shows what a threshold does with one CLIP, one vocabulary and
one world, and is no recommendation for others.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)

# isort: split
from detectron2.modeling import build_model

from san_cliptrase.data.datasets import load_pairs, register
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.evaluation.evaluate import evaluate
from san_cliptrase.meta_arch.inputs import BackgroundReader
from san_cliptrase.scenes import SEEN_CLASSES, UNSEEN_CLASSES, make_scene
from san_cliptrase.scenes.write import SPLITS

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "demo" / "cliptrase.yaml"
DATASET = "scenes_with_background"


def write_scenes(folder: Path, count: int) -> None:
    """Registers the scenes with every unseen material as background."""
    seed, _ = SPLITS["tune"]
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for index in range(count):
        scene = make_scene((seed, index))
        labels = np.minimum(scene.labels, len(SEEN_CLASSES)).astype(np.uint8)
        Image.fromarray(scene.image).save(folder / "images" / f"{index:04}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{index:04}.png")
    pairs = (DATASET, folder / "images", folder / "labels")
    register(DATASET, lambda: load_pairs(*pairs), [*SEEN_CLASSES, "background"], background=UNSEEN_CLASSES)


def configuration(kind: str, threshold: float = 0.5) -> Any:
    """The demo's CLIPtrase with background found this way."""
    chosen = ["TEST.BACKGROUND", kind, "TEST.BACKGROUND_THRESHOLD", str(threshold)]
    return load_config(CONFIG, [*chosen, "DATASETS.TEST", f"('{DATASET}',)", "TEST.BATCH_SIZE", "8"])


def score(model: nn.Module, cfg: Any) -> dict[str, float]:
    """The metrics of a model, of which a configuration changes the background alone."""
    model.background = BackgroundReader.from_config(cfg)
    return evaluate(cfg, model, None)[DATASET]


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    args = parser.parse_args(argv)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), args.images)
        model = build_model(configuration("words"))
        for threshold in args.thresholds:
            metrics = score(model, configuration("threshold", threshold))
            print(f"threshold {threshold:.2f}  mIoU {metrics['mIoU']:5.1f}  pAcc {metrics['pAcc']:5.1f}")
        metrics = score(model, configuration("words"))
        print(f"words           mIoU {metrics['mIoU']:5.1f}  pAcc {metrics['pAcc']:5.1f}")


if __name__ == "__main__":
    main()
