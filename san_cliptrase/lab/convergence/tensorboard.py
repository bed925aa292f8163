"""What the lab adds to TensorBoard: charts of all runs, each run's settings and results, and means over seeds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from san_cliptrase.lab.convergence.experiment import Experiment
from san_cliptrase.lab.convergence.statistics import band
from san_cliptrase.lab.convergence.study import Study

_SUFFIX = ".lab"


def write_layout(output: Path, dataset: str, metrics: Iterable[str]) -> None:
    """Custom scalars of the lab's folder: for each metric all runs over each other, and means with their bands."""
    curves = {metric: ["Multiline", [f"^{re.escape(f'{dataset}/{metric}')}$"]] for metric in metrics}
    bands = {metric: ["Margin", [f"{dataset}/{metric}", *_band_tags(metric)]] for metric in metrics}
    _remove_old(output)
    with SummaryWriter(str(output), filename_suffix=_SUFFIX) as writer:
        writer.add_custom_scalars({dataset: curves, f"{dataset}, mean with Student's 95 % band": bands})


def write_summary(output: Path, study: Study) -> None:
    """A run for each variant: means over seeds, under the tags of the single runs, and their bands."""
    for name, runs in study.runs.items():
        folder = output / name
        _remove_old(folder)
        curves = [run.curve for run in runs.values()]
        with SummaryWriter(str(folder), filename_suffix=_SUFFIX) as writer:
            for metric in study.metrics:
                mean, width = band([curve.metrics[metric] for curve in curves])
                half = np.zeros_like(mean) if width is None else width
                tags = (f"{study.dataset}/{metric}", *_band_tags(metric))
                for tag, values in zip(tags, (mean, mean - half, mean + half), strict=True):
                    for iteration, value in zip(curves[0].iterations, values, strict=True):
                        writer.add_scalar(tag, value, int(iteration))


def _band_tags(metric: str) -> tuple[str, str]:
    return f"band/{metric}, low", f"band/{metric}, high"


def write_runs(experiment: Experiment, report: Mapping[str, Any]) -> None:
    """Into the folder of every finished run: a text panel with title and overrides, and its hyperparameters."""
    for name, variant in report["variants"].items():
        for seed in variant["seeds"]:
            folder = experiment.folder(name, seed)
            _remove_old(folder)
            overrides = {**report["overrides"], **variant["overrides"]}
            lines = [f"**{variant['title']}**, seed {seed}", "", *(f"- `{k} {v}`" for k, v in overrides.items())]
            settings = {
                "variant": name,
                "seed": seed,
                "learning_rate": variant["learning_rate"],
                "query_init": variant["query_init"],
            }
            results = _results(report, name, seed)
            with SummaryWriter(str(folder), filename_suffix=_SUFFIX) as writer:
                writer.add_text("run", "\n".join(lines))
                # SummaryWriter.add_hparams would make each of them a run of its own, in a subfolder.
                for summary in hparams({**settings, **variant["overrides"]}, results):
                    writer.file_writer.add_summary(summary)
                for tag, value in results.items():
                    writer.add_scalar(tag, value, int(variant["iterations"]))


def _results(report: Mapping[str, Any], name: str, seed: int) -> dict[str, float]:
    results = {}
    # A frontier is a matter of budgets: its report has no results of single runs.
    metrics = report["variants"][name].get("metrics", {})
    for metric, scores in metrics.items():
        results[f"lab/final {metric}"] = scores["final_by_seed"][str(seed)]
        results[f"lab/area {metric}"] = scores["area_by_seed"][str(seed)]
    for entry in metrics["mIoU"]["levels"] if metrics else []:
        reached = entry["first"]["by_seed"].get(str(seed))
        if entry["level"] == "100%" and reached is not None:
            results["lab/iterations to the baseline's final mIoU"] = reached
    return results


def _remove_old(folder: Path) -> None:
    for path in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
        path.unlink()
