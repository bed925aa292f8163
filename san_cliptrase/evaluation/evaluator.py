"""The evaluator: predictions in; metrics, and a report with files, out."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from san_cliptrase.evaluation.metrics import (
    class_iou,
    class_table,
    confused_pairs,
    confusion_matrix,
    match_clusters,
    script_metrics,
    segmentation_metrics,
)
from san_cliptrase.files import named_file, write_text_atomically
from san_cliptrase.regions.pixels import perfect_names
from san_cliptrase.texts import csv_cell

logger = logging.getLogger(__name__)


class SemanticEvaluator(DatasetEvaluator):
    """Scores predictions against the ground truth that came with the inputs, in constant memory.

    Args:
        dataset: registered name; its metadata gives the classes and which are unseen.
        ignore_label: value of pixels that are not scored.
        output: folder for the files of :meth:`write`, or None.
        device: where to count; that of the model.
        clusters: predictions are so many clusters, matched to classes at the end; 0: they are classes.
        details: what the report says besides: protocol, background, published numbers.
        masks: score masks apart from their names too: every query gets the class that most of its pixels have.

    Attributes:
        report: after :meth:`evaluate`, on the main process: everything that :meth:`write` writes.
    """

    def __init__(
        self,
        dataset: str,
        ignore_label: int,
        output: Path | None,
        device: torch.device | str = "cpu",
        clusters: int = 0,
        details: Mapping[str, Any] | None = None,
        masks: bool = False,
    ) -> None:
        metadata = MetadataCatalog.get(dataset)
        self.dataset, self.names = dataset, list(metadata.stuff_classes)
        self.ignore_label, self.output = ignore_label, output
        self.device, self.clusters, self.details, self.masks = device, clusters, dict(details or {}), masks
        unseen = [self.names.index(name) for name in metadata.get("unseen_classes", ())]
        seen = sorted(set(range(len(self.names))) - set(unseen))
        self.groups = {"seen": seen, "unseen": unseen} if unseen else {}
        self.report: dict = {}
        self.reset()

    def reset(self) -> None:
        """Forgets what was counted."""
        columns = self.clusters or len(self.names)
        self.confusion = torch.zeros(len(self.names), columns, dtype=torch.int64, device=self.device)
        self.masks_confusion = torch.zeros(len(self.names), len(self.names), dtype=torch.int64, device=self.device)
        self.images, self.bad = 0, []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Counts a batch.

        Args:
            inputs: ``inputs[i]["sem_seg"]`` is the ground truth (H, W).
            outputs: ``outputs[i]["labels"]`` (H, W) classes or clusters, or "sem_seg" (K, H, W) scores; with ``masks``
                also "queries" (H, W), the query that each pixel belongs to.
        """
        for entry, output in zip(inputs, outputs, strict=True):
            # argmax is four times slower on a CPU than max.
            labels = output["labels"] if "labels" in output else output["sem_seg"].max(0).indices
            counts = confusion_matrix(labels, entry["sem_seg"], len(self.names), self.ignore_label, self.clusters)
            self.confusion += counts.to(self.confusion.device)
            if self.masks:
                self._count_masks(output["queries"], entry["sem_seg"])
            self.images += 1

    def _count_masks(self, queries: torch.Tensor, truth: torch.Tensor) -> None:
        truth = truth.to(queries.device)
        # A label that is ignored is no class, whatever its value.
        named = perfect_names(queries, truth.long().where(truth != self.ignore_label, len(self.names)), len(self.names))
        counts = confusion_matrix(named, truth, len(self.names), self.ignore_label)
        self.masks_confusion += counts.to(self.masks_confusion.device)

    def skip(self, message: str) -> None:
        """Takes down an image that is left out."""
        self.bad.append(message)

    def state_dict(self) -> dict[str, Any]:
        """What this process has counted."""
        counts = {"confusion": self.confusion.cpu(), "masks_confusion": self.masks_confusion.cpu()}
        return {**counts, "images": self.images, "bad": list(self.bad)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what was counted before."""
        self.confusion.copy_(state["confusion"])
        self.masks_confusion.copy_(state["masks_confusion"])
        self.images, self.bad = state["images"], list(state["bad"])

    def evaluate(self) -> OrderedDict | None:
        """Metrics of all processes together, on the main one: {"sem_seg": {metric: percent}}.

        Raises:
            OutputError: see :meth:`write`; the metrics have been logged by then, and ``report`` holds them.
        """
        totals = [self.confusion, self.masks_confusion]
        if comm.get_world_size() > 1:
            totals = [counts.clone() for counts in totals]
            for counts in totals:
                torch.distributed.all_reduce(counts)  # sums of integers: exact
        parts = comm.gather((self.images, self.bad))
        if not comm.is_main_process():
            return None
        confusion, masks = (counts.cpu().numpy() for counts in totals)
        if self.clusters:
            confusion = match_clusters(confusion)
        metrics = segmentation_metrics(confusion, self.groups)
        if self.details.get("protocol") == "cliptrase":
            metrics |= script_metrics(confusion)
        if self.masks:
            of_masks = segmentation_metrics(masks, self.groups)
            metrics |= {f"{name} of masks": of_masks[name] for name in ("mIoU", *(f"mIoU {g}" for g in self.groups))}
        bad = [message for _, messages in parts for message in messages]
        self.report = {
            "dataset": self.dataset,
            **self.details,
            "images": sum(images for images, _ in parts),
            "skipped": bad,
            "metrics": metrics,
            "CLIPtrase script": script_metrics(confusion),
            "iou": class_iou(confusion, self.names),
            "classes": class_table(confusion, self.names),
            "confusions": confused_pairs(confusion, self.names),
        }
        logger.info("%s: %s", self.dataset, "  ".join(f"{name} {value:.2f}" for name, value in metrics.items()))
        if bad:
            logger.warning("%s: %d image(s) left out:\n%s", self.dataset, len(bad), "\n".join(bad))
        if self.output is not None:
            self.write(self.output)
        return OrderedDict(sem_seg=metrics)

    def write(self, output: Path) -> None:
        """Writes ``metrics_``, ``classes_`` and ``confusions_DATASET``: the report as JSON, its tables as CSV.

        Raises:
            OutputError: a file cannot be written.
        """
        report = dict(self.report)
        for key in ("metrics", "CLIPtrase script"):
            # JSON has no NaN; a metric of classes that do not occur is null.
            report[key] = {k: None if math.isnan(v) else v for k, v in report[key].items()}
        path = named_file(output, "metrics", self.dataset, ".json")
        write_text_atomically(path, json.dumps(report, indent=2) + "\n")
        for name in ("classes", "confusions"):
            write_text_atomically(named_file(output, name, self.dataset, ".csv"), csv_text(self.report[name]))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, the columns in the order in which they first occur; "" without rows. No cell is a formula."""
    text = io.StringIO()
    if rows:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: csv_cell(value) for column, value in row.items()} for row in rows)
    return text.getvalue()
