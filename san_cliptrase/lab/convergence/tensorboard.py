"""What the lab adds to TensorBoard: a chart of all runs, and each run's settings and results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from san_cliptrase.lab.convergence.experiment import Experiment

_SUFFIX = ".lab"


def write_layout(output: Path, dataset: str, metrics: list[str]) -> None:
    """Custom scalars of the lab's folder: one chart per metric with all runs laid over each other."""
    charts = {metric: ["Multiline", [f"^{re.escape(f'{dataset}/{metric}')}$"]] for metric in metrics}
    _remove_old(output)
    with SummaryWriter(str(output), filename_suffix=_SUFFIX) as writer:
        writer.add_custom_scalars({dataset: charts})


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
                    writer.add_scalar(tag, value, int(report["schedule"]["iterations"]))


def _results(report: Mapping[str, Any], name: str, seed: int) -> dict[str, float]:
    results = {}
    for metric, scores in report["variants"][name]["metrics"].items():
        results[f"lab/final {metric}"] = scores["final_by_seed"][str(seed)]
        results[f"lab/area {metric}"] = scores["area_by_seed"][str(seed)]
    for entry in report["variants"][name]["metrics"]["mIoU"]["levels"]:
        reached = entry["first"]["by_seed"].get(str(seed))
        if entry["level"] == 1 and reached is not None:
            results["lab/iterations to the baseline's final mIoU"] = reached
    return results


def _remove_old(folder: Path) -> None:
    for path in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
        path.unlink()
