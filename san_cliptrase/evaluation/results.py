"""What evaluations gave, shown as tables and written for other programs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from san_cliptrase.errors import OutputError
from san_cliptrase.evaluation.evaluator import csv_text
from san_cliptrase.evaluation.paper import paper_source
from san_cliptrase.evaluation.protocol import one_protocol, protocol_title, row_name
from san_cliptrase.evaluation.tables import format_classes, format_confusions, format_results
from san_cliptrase.files import write_text_atomically

logger = logging.getLogger(__name__)

COLUMN = "; table 3 (224 pixels) and table 4 (336 pixels), columns CLIPtrase"
"""Where in the paper the numbers beside ours are printed."""


@dataclass
class Evaluated:
    """What evaluations gave, dataset by dataset; only on the main process.

    Attributes:
        reports: dataset -> the evaluator's report.
        failures: files that could not be written; the numbers are there all the same.
    """

    reports: dict[str, dict] = field(default_factory=dict)
    failures: list[OutputError] = field(default_factory=list)

    @property
    def results(self) -> dict[str, dict[str, float]]:
        """Percent by dataset and metric."""
        return {name: dict(report["metrics"]) for name, report in self.reports.items()}


def show(cfg: Any, evaluated: Evaluated, show_classes: bool) -> None:
    """Logs one table of all datasets, under the name of the protocol, and before it those of their classes."""
    rows, settings = {}, {}
    for name, metrics in evaluated.results.items():
        report, shown = evaluated.reports[name], row_name(cfg, name)
        rows[shown], settings[shown] = metrics, report["row"]
        if (paper := report["paper"]) and not report["skipped"]:
            published = f"  {name}, the paper's"
            rows[published], settings[published] = paper, report["row"]  # shown where all of it agrees
    one_protocol((setting["protocol"] for setting in settings.values()), "results")
    for name, report in evaluated.reports.items() if show_classes else ():
        logger.info("%s, classes\n%s", name, format_classes(report["classes"]))
        logger.info("%s, most frequent confusions\n%s", name, format_confusions(report["confusions"]))
    source = f"\nthe paper's: {paper_source()}{COLUMN}" if any(r["paper"] for r in evaluated.reports.values()) else ""
    logger.info("results\n%s%s", format_results(rows, protocol_title(cfg), settings), source)


def write_table(cfg: Any, evaluated: Evaluated, path: Path) -> None:
    """The table of all datasets as a CSV file; a failure is added to ``evaluated.failures``."""
    rows = []
    for name, report in evaluated.reports.items():
        about = {"dataset": name, "protocol": protocol_title(cfg).removeprefix("protocol ")}
        about |= {key: report["row"][key] for key in ("words", "thresholds")}
        about |= {"background": report["background"], "images": report["images"], "left out": len(report["skipped"])}
        rows.append({**about, "numbers": "measured", **report["metrics"]})
        if report["paper"] and not report["skipped"]:
            rows.append({"dataset": name, "numbers": f"the paper's: {paper_source()}{COLUMN}", **report["paper"]})
    try:
        write_text_atomically(path, csv_text(rows))
    except OutputError as error:
        logger.error("%s", error)
        evaluated.failures.append(error)


def write_scalars(folder: Path, evaluated: Evaluated, seconds: float) -> None:
    """TensorBoard, in a folder of its own: the step 0 of a training beside it is another point."""
    try:
        with SummaryWriter(str(folder)) as writer:
            for dataset, report in evaluated.reports.items():
                for metric, value in report["metrics"].items():
                    writer.add_scalar(f"{dataset}/{metric}", value, 0)
                for name, value in report["iou"].items():
                    writer.add_scalar(f"{dataset}/IoU/{name}", value, 0)
                writer.add_text(f"{dataset}/confusions", f"    {format_confusions(report['confusions'])}", 0)
            writer.add_scalar("evaluation/seconds", seconds, 0)
    except OSError as error:
        evaluated.failures.append(OutputError(f"cannot write TensorBoard's files in {folder}: {error}"))
