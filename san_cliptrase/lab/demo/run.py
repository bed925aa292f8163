"""The whole project once through on the embedded world: ``san-cliptrase demo --output output/demo``.

Evaluates the four attention rules without training, trains plain SAN and SAN from CLIPtrase's regions on the same seed
and data order, and writes a convergence plot, images, and a summary.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from matplotlib.figure import Figure

from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.colors import class_colors
from san_cliptrase.data.views import build_test_mapper
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.engine.logs import setup_logging
from san_cliptrase.engine.panels import region_map, region_panel
from san_cliptrase.engine.run_folder import RunFolder
from san_cliptrase.engine.trainer import Trainer
from san_cliptrase.errors import ConfigError, TrainingError
from san_cliptrase.evaluation.evaluate import dataset_records, evaluate_only
from san_cliptrase.evaluation.pictures import shown_image
from san_cliptrase.evaluation.protocol import protocol_title
from san_cliptrase.evaluation.tables import format_results
from san_cliptrase.files import remove_unfinished, write_text_atomically
from san_cliptrase.lab.convergence.curves import Curve, first_reach, read_curve
from san_cliptrase.lab.convergence.runner import threads_in_environment
from san_cliptrase.lab.convergence.worker import cores
from san_cliptrase.lab.five_seeds import claim
from san_cliptrase.locks import only_run_in
from san_cliptrase.pools import end_with_parent
from san_cliptrase.terminal import exit_status

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "demo"
# Attention rule -> MODEL.CLIPTRASE.CLASSIFY. The peers classify every patch by itself, as their papers do.
RULES = {"clip": "patches", "maskclip": "patches", "sclip": "patches", "cliptrase": "vote"}
RUNS = {"san": "plain SAN", "san_cliptrase": "SAN from CLIPtrase's regions"}
METRICS = ("mIoU", "mIoU seen", "mIoU unseen")
# Of plain SAN's last mIoU; how many iterations each run needs to get there is reported.
SHARES = (0.8, 0.9, 1.0)
PICTURED = 6


def training_free(output: Path, overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Scores the attention rules: rule -> metric -> percent."""
    results = {}
    for rule, classify in RULES.items():
        logger.info("training-free: attention rule %s", rule)
        folder = ["MODEL.CLIPTRASE.ATTENTION", rule, "MODEL.CLIPTRASE.CLASSIFY", classify, "OUTPUT_DIR"]
        cfg = load_config(CONFIGS / "cliptrase.yaml", [*overrides, *folder, str(output / "training_free" / rule)])
        results[rule] = evaluate_only(cfg, build_model(cfg).eval(), show_classes=False)["demo_scenes_val"]
    return results


def train_side_by_side(configs: dict[str, CfgNode]) -> None:
    """Trains :data:`RUNS` from their first iterations, each in a process with its share of the cores.

    Raises:
        TrainingError: one of them failed; it has said why.
    """
    threads, context = max(1, cores() // len(configs)), multiprocessing.get_context("spawn")
    logger.info("training %s side by side, %d threads each", " and ".join(RUNS[name] for name in configs), threads)
    for cfg in configs.values():  # drawn once, here
        for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            dataset_records(dataset)
    processes = {name: context.Process(target=_train, args=(name, cfg, threads)) for name, cfg in configs.items()}
    with threads_in_environment(threads):
        for process in processes.values():
            process.start()
    running = {process.sentinel: name for name, process in processes.items()}
    try:
        while running:
            for sentinel in connection.wait(list(running)):
                name = running.pop(sentinel)
                processes[name].join()
                if processes[name].exitcode:
                    raise TrainingError(f"training {RUNS[name]} failed: see {configs[name].OUTPUT_DIR}/log.txt")
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _train(name: str, cfg: CfgNode, threads: int) -> None:
    """What the process of a run does; the other's lines stand between its own on the screen."""
    end_with_parent()
    make_record = logging.getLogRecordFactory()

    def with_name(*args: Any, **more: Any) -> logging.LogRecord:
        record = make_record(*args, **more)
        record.msg = f"{RUNS[name]}: {record.msg}"
        return record

    logging.setLogRecordFactory(with_name)

    def run() -> None:
        setup_logging(Path(cfg.OUTPUT_DIR))
        torch.set_num_threads(threads)
        torch.manual_seed(cfg.SEED)
        trainer = Trainer(cfg)
        # With it the run can be used like any other: predict --san, evaluate, export.
        RunFolder(Path(cfg.OUTPUT_DIR)).begin(cfg)
        trainer.train()

    try:
        sys.exit(exit_status(run))
    except KeyboardInterrupt:  # the demo's own process says so
        sys.exit(130)


def trained(cfg: CfgNode) -> torch.nn.Module:
    """The model of a run as it was at the end of its training."""
    model = build_model(cfg)
    SafeCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load("", resume=True)
    return model


def plot_convergence(output: Path, curves: dict[str, Curve], base: dict[str, float]) -> Path:
    """Plot mIoU against iterations, one panel each for all, seen and unseen classes."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 3, sharey=True), METRICS, strict=True):
        for name, curve in curves.items():
            axes.plot(curve.iterations, curve.metrics[metric], marker="o", label=RUNS[name])
        axes.axhline(base[metric], color="gray", linestyle=":", label="CLIPtrase, training-free")
        axes.set(title={"mIoU": "mIoU, all classes"}.get(metric, metric), xlabel="iterations")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("percent")
    figure.axes[0].legend(loc="best")
    path = output / "convergence.png"
    figure.savefig(path, dpi=110)
    return path


@torch.no_grad()
def draw_panels(output: Path, cfg: Any, models: dict[str, Any]) -> Path:
    """A table of test images: image, regions, the predictions of the models, and the ground truth."""
    names = list(MetadataCatalog.get("demo_scenes_val").stuff_classes)
    mapper, colours = build_test_mapper(cfg, "demo_scenes_val"), class_colors(len(names))
    columns = ["image", "CLIPtrase's regions", *models, "ground truth"]
    figure = Figure(figsize=(2.1 * len(columns), 2.2 * PICTURED + 0.9), layout="constrained")
    grid = figure.subplots(PICTURED, len(columns))
    shown = set()
    for row, record in zip(grid, dataset_records("demo_scenes_val")[:PICTURED], strict=True):
        entry = mapper(record)
        truth = entry["sem_seg"].numpy()
        labels = [model.label_maps([entry])[0].cpu().numpy() for model in models.values()]
        regions = region_map(models[RUNS["san_cliptrase"]], entry, truth.shape)
        shown.update(np.unique(np.stack([truth, *labels])).tolist())
        photo = shown_image(entry)
        panels = [photo, region_panel(photo, regions, len(names))]
        for axes, panel in zip(row, [*panels, *(colours[x] for x in [*labels, truth])], strict=True):
            axes.imshow(panel, interpolation="nearest")
            axes.set_axis_off()
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title, fontsize=9)
    swatch = figure.axes[0].scatter
    handles = [swatch([], [], marker="s", color=colours[i] / 255, label=names[i]) for i in sorted(shown)]
    figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    path = output / "pictures.png"
    figure.savefig(path, dpi=90)
    return path


def summarise(
    output: Path, rules: dict, curves: dict[str, Curve], minutes: float, files: Sequence[Path], title: str = ""
) -> str:
    """The closing words, also written to ``summary.json``."""
    plain, ours = curves["san"], curves["san_cliptrase"]
    level, last = float(plain.metrics["mIoU"][-1]), plain.schedule
    reached = {
        f"{share:.0%}": {name: first_reach(curve, "mIoU", share * level) for name, curve in curves.items()}
        for share in SHARES
    }
    tables = {name: _rows(curve) for name, curve in curves.items()}
    rows = {f"{name}, iteration {t[i]['iteration']:.0f}": t[i] for name, t in tables.items() for i in (0, -1)}
    report = {
        "training_free": rules,
        "curves": tables,
        "iterations_to_share_of_final_miou_of_plain_san": reached,
        "iterations_of_plain_san": last,
        "minutes": round(minutes, 1),
    }
    write_text_atomically(output / "summary.json", json.dumps(report, indent=2) + "\n")
    table = {f"training-free, {rule}": scores for rule, scores in rules.items()} | rows
    shown = {name: {m: scores[m] for m in ("pAcc", "mAcc", "fwIoU", *METRICS)} for name, scores in table.items()}
    return "\n".join(
        [
            format_results(shown, title),
            "",
            f"Plain SAN ends at mIoU {level:.1f} after {last:.0f} iterations, SAN from CLIPtrase's regions at "
            f"{ours.metrics['mIoU'][-1]:.1f}.",
            *(
                f"{share} of plain SAN's last mIoU: plain after {_count(found['san'])} iterations, from regions after "
                f"{_count(found['san_cliptrase'])}."
                for share, found in reached.items()
            ),
            "One seed: an illustration. docs/convergence.md has five seeds and other budgets "
            "(configs/demo/frontier.yaml), with Student's 95 % intervals; open: 0 lies inside.",
            *claim(METRICS),
            "",
            *(f"Picture: {path}" for path in files),
            f"Numbers: {output / 'summary.json'}",
            f"Curves:  {os.path.relpath(sys.executable)} -m tensorboard.main --logdir {output}",
            f"{minutes:.1f} minutes",
        ]
    )


def _rows(curve: Curve) -> list[dict[str, float]]:
    """A dict with "iteration", "seconds" and the metrics for each evaluation."""
    columns = {"iteration": curve.iterations, "seconds": curve.seconds, **curve.metrics}
    return [dict(zip(columns, map(float, values), strict=True)) for values in zip(*columns.values(), strict=True)]


def _count(iterations: float | None) -> str:
    return "more than all" if iterations is None else f"{iterations:.0f}"


def execute(args: argparse.Namespace) -> None:
    """What ``demo`` does."""
    if not CONFIGS.is_dir():
        raise ConfigError("the demo runs in a clone of the repository, where configs/demo is")
    with only_run_in(args.output, "--output"):
        _demo(args)


def _demo(args: argparse.Namespace) -> None:
    started = time.monotonic()
    remove_unfinished(args.output, only_one=True)
    setup_logging(args.output)
    rules = training_free(args.output, args.overrides)
    configs = {
        name: load_config(CONFIGS / f"{name}.yaml", [*args.overrides, "OUTPUT_DIR", str(args.output / name)])
        for name in RUNS
    }
    train_side_by_side(configs)
    curves = {name: read_curve(args.output / name / "evaluations.csv", "demo_scenes_val") for name in RUNS}
    cfg = load_config(CONFIGS / "cliptrase.yaml", args.overrides)
    models = {"CLIPtrase": build_model(cfg)} | {RUNS[name]: trained(run) for name, run in configs.items()}
    for model in models.values():
        model.eval()
    files = [plot_convergence(args.output, curves, rules["cliptrase"]), draw_panels(args.output, cfg, models)]
    minutes = (time.monotonic() - started) / 60
    sys.stdout.write("\n" + summarise(args.output, rules, curves, minutes, files, protocol_title(cfg)) + "\n")
