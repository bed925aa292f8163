"""Do batches and loading processes make evaluation faster? ``python benchmarks/throughput.py [--json FILE]``.

Times whole evaluations, from image files to counted pixels, at several batch sizes, and with and without a loading
process. All settings take turns, round after round, and each is compared with batch 1 without a loading process of the
same round; shown are the medians of these ratios, and the least and the most of them. By default CLIPtrase and SAN from
regions (random weights, which cost what trained ones do) evaluate embedded scenes of one size and of mixed sizes;
--config evaluates any configuration on its own test sets. On the GPU if there is one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)

# isort: split
from detectron2.modeling import build_model

from san_cliptrase.data.datasets import load_pairs, register
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.evaluation.evaluate import evaluate
from san_cliptrase.scenes import CLASS_NAMES, make_scene

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "demo"
DEFAULTS = ("cliptrase", "san_cliptrase")
# Aspect ratios about as frequent as in photographs: (height, width) of ten pictures, short side 192.
SHAPES = ((192, 256),) * 4 + ((256, 192),) * 2 + ((192, 288),) * 2 + ((288, 192), (192, 192))
Setting = tuple[int, int]  # batch, loading processes
BASE: Setting = (1, 0)


@dataclass
class Case:
    """A model and a test set."""

    name: str
    cfg: Any
    model: torch.nn.Module

    def run(self, setting: Setting) -> tuple[float, dict[str, float]]:
        """Seconds of one evaluation, and its metrics."""
        cfg = self.cfg.clone()
        cfg.TEST.BATCH_SIZE, cfg.DATALOADER.NUM_WORKERS = setting
        started = time.perf_counter()
        (metrics,) = evaluate(cfg, self.model, None).values()
        return time.perf_counter() - started, metrics


def write_scenes(folder: Path, count: int) -> None:
    """Registers ``scenes_one_size`` and ``scenes_mixed_sizes``, scenes cut to their sizes."""
    for name, shapes in (("scenes_one_size", ((192, 192),)), ("scenes_mixed_sizes", SHAPES)):
        images, labels = folder / name / "images", folder / name / "labels"
        for place in (images, labels):
            place.mkdir(parents=True)
        shapes = [shapes[index % len(shapes)] for index in range(count)]
        random.Random(0).shuffle(shapes)
        for index, (height, width) in enumerate(shapes):
            scene = make_scene((76, index), size=max(height, width))
            Image.fromarray(scene.image[:height, :width]).save(images / f"{index:04}.png")
            Image.fromarray(scene.labels[:height, :width]).save(labels / f"{index:04}.png")
        register(name, lambda n=name, i=images, m=labels: load_pairs(n, i, m), CLASS_NAMES)


def cases(args: argparse.Namespace) -> list[Case]:
    """A case for each configuration and test set."""
    paths = [args.config] if args.config else [CONFIGS / f"{name}.yaml" for name in DEFAULTS]
    # No kept features: every round evaluates the same pictures.
    fixed = ["MODEL.DEVICE", args.device, "MODEL.CLIP.CACHE_GB", "0.0", "TEST.MAX_IMAGES", str(args.images)]
    if not args.config:
        fixed += ["DATASETS.TEST", "('scenes_one_size', 'scenes_mixed_sizes')"]
    found = []
    for path in paths:
        cfg = load_config(path, [*fixed, *args.overrides])
        torch.manual_seed(0)
        model, names = build_model(cfg).eval(), cfg.DATASETS.TEST
        for name in names:
            cfg.DATASETS.TEST = (name,)
            found.append(Case(f"{path.stem}, {name}", cfg.clone(), model))
    return found


def measure(case: Case, settings: list[Setting], rounds: int) -> dict[Setting, dict[str, Any]]:
    """How many times as fast as ``BASE`` each setting is, and how far its metrics are from those of ``BASE``."""
    _, expected = case.run(BASE)  # warms up: files, words, allocator
    seconds: dict[Setting, list[float]] = {setting: [] for setting in settings}
    differs = dict.fromkeys(settings, 0.0)
    for turn in tqdm(range(rounds), case.name):
        for setting in settings[turn % len(settings) :] + settings[: turn % len(settings)]:
            took, metrics = case.run(setting)
            seconds[setting].append(took)
            gaps = [abs(metrics[key] - expected[key]) for key in metrics]
            differs[setting] = max(differs[setting], *(gap for gap in gaps if gap == gap))
    table = {}
    for setting, own in seconds.items():
        ratios = [base / took for base, took in zip(seconds[BASE], own, strict=True)]
        spread = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        table[setting] = {"times as fast": spread, "metrics differ by": differs[setting]}
    return table


def main(argv: list[str] | None = None) -> None:
    """Measures, prints, and writes if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="evaluate this instead of the embedded scenes")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8], help="pictures of a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="loading processes")
    parser.add_argument("--images", type=int, default=40, help="pictures of an evaluation")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="of the configuration, after --")
    args = parser.parse_args(argv)
    logging.disable(logging.INFO)
    settings = list(dict.fromkeys([BASE, *((batch, workers) for workers in args.workers for batch in args.batch)]))
    with tempfile.TemporaryDirectory() as folder:
        if not args.config:
            write_scenes(Path(folder), args.images)
        results = {case.name: measure(case, settings, args.rounds) for case in cases(args)}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() and args.device != "cpu" else ""
    machine = f"{gpu or 'CPU'}, {torch.get_num_threads()} of {os.cpu_count()} CPU threads, torch {torch.__version__}"
    print(f"{machine}, {args.images} pictures, {args.rounds} rounds; times as fast as one by one without a process")
    for name, table in results.items():
        for (batch, workers), row in table.items():
            speed = row["times as fast"]
            shown = "{median:.2f} [{least:.2f}, {most:.2f}]".format(**speed)
            gap = row["metrics differ by"]
            print(f"{name:34}  batch {batch}  workers {workers}  {shown}  metrics differ by {gap:.3f}")
    if args.json:
        rows = {
            name: [{"batch": batch, "workers": workers, **row} for (batch, workers), row in table.items()]
            for name, table in results.items()
        }
        args.json.write_text(json.dumps({"machine": machine, "rounds": args.rounds, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
