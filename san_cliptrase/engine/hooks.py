"""What happens besides the steps of training: evaluations and pictures."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn

from san_cliptrase.data.views import build_test_mapper
from san_cliptrase.engine.logs import keep_lines, keep_rows
from san_cliptrase.engine.pictures import segmentation_panel
from san_cliptrase.engine.preemption import Preempted
from san_cliptrase.errors import DataError
from san_cliptrase.evaluation.evaluate import dataset_records, evaluate


def evaluation_due(cfg: Any, done: int) -> bool:
    """Whether to evaluate after ``done`` iterations: before the first, every TEST.EVAL_PERIOD, after the last."""
    period, last = cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER
    return done == last or (period > 0 and done % period == 0)


class PrinterHook(hooks.PeriodicWriter):
    """detectron2's lines on the screen, without a last one where a run ends early.

    The last iteration is printed in any case; printed twice, its time left is a division by zero, which would hide the
    error that ended the run.
    """

    def after_train(self) -> None:
        for writer in self._writers:
            writer.close()


class WriterHook(hooks.PeriodicWriter):
    """Writes every LOG_PERIOD iterations and after every evaluation: writers see only the latest value of a scalar.

    Args:
        cfg: configuration.
        build_writers: makes the writers when training begins, which is when a resumed run knows where.
    """

    def __init__(self, cfg: Any, build_writers: Callable[[], list]) -> None:
        super().__init__([], cfg.LOG_PERIOD)
        self.cfg, self._build_writers = cfg, build_writers

    def before_train(self) -> None:
        keep_lines(Path(self.cfg.OUTPUT_DIR) / "metrics.json", self.trainer.start_iter)
        self._writers = self._build_writers()
        if self.trainer.start_iter == 0 and evaluation_due(self.cfg, 0):
            self._write()

    def after_step(self) -> None:
        if evaluation_due(self.cfg, self.trainer.iter + 1):
            self._write()
        else:
            super().after_step()

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()


class EvaluationHook(HookBase):
    """Evaluates on the way; metrics go to the event storage and, a row each, to ``evaluations.csv``.

    A row holds the number of iterations done, the seconds that they took (evaluations and pictures not counted), the
    dataset and its metrics. A resumed run drops the rows that lie behind its checkpoint and goes on.
    """

    def __init__(self, cfg: Any, model: nn.Module) -> None:
        self.cfg, self.model = cfg, model
        self.path = Path(cfg.OUTPUT_DIR) / "evaluations.csv"
        self.seconds = 0.0
        self._started = 0.0

    def before_train(self) -> None:
        """Takes up the file of a resumed run, and evaluates if the evaluation of this point is not in it."""
        start, missing = self.trainer.start_iter, False
        if comm.is_main_process():
            rows = keep_rows(self.path, start or -1)
            there = sum(int(row["iteration"]) == start for row in rows)
            missing = evaluation_due(self.cfg, start) and there < len(self.cfg.DATASETS.TEST)
            if missing and there:
                keep_rows(self.path, start - 1)
        if comm.all_gather(missing)[0]:
            self.trainer.storage.iter = max(start - 1, 0)  # the step at which the unbroken run has it
            self._evaluate(start)

    def before_step(self) -> None:
        self._started = time.perf_counter()

    def after_step(self) -> None:
        self.seconds += time.perf_counter() - self._started
        done = self.trainer.iter + 1
        if evaluation_due(self.cfg, done):
            self._evaluate(done)

    def state_dict(self) -> dict:
        """Training time so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes up the training time of a checkpoint."""
        self.seconds = state_dict["seconds"]

    def _evaluate(self, done: int) -> None:
        with self.trainer.preemption.ending_at_once():
            results = evaluate(self.cfg, self.model, Path(self.cfg.OUTPUT_DIR))
        comm.synchronize()
        if not comm.is_main_process():
            return
        # Datasets may differ in their metrics; the file has one set of columns.
        columns = dict.fromkeys(name for metrics in results.values() for name in metrics)
        for dataset, metrics in results.items():
            scalars = {f"{dataset}/{name}": value for name, value in metrics.items()}
            self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
            row = {name: metrics.get(name, math.nan) for name in columns}
            self._append({"iteration": done, "seconds": round(self.seconds, 3), "dataset": dataset, **row})

    def _append(self, row: dict) -> None:
        fresh = not self.path.exists()
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)


class CheckpointHook(hooks.PeriodicCheckpointer):
    """Checkpoints every SOLVER.CHECKPOINT_PERIOD iterations and at the end; also where a run was killed just before."""

    def before_train(self) -> None:
        super().before_train()
        final = Path(self.checkpointer.save_dir) / f"{self.file_prefix}_final.pth"
        if self.trainer.start_iter >= self.max_iter and not final.exists():
            self.checkpointer.save(final.stem, iteration=self.max_iter - 1)


class PreemptionHook(HookBase):
    """Ends the run after an iteration in which a process was asked to; before anything that takes long."""

    def after_step(self) -> None:
        if self.trainer.stop_agreed:
            raise Preempted


class PictureHook(HookBase):
    """At every evaluation, pictures of regions and predictions of a few test images for TensorBoard."""

    def __init__(self, cfg: Any, model: nn.Module) -> None:
        self.cfg, self.model = cfg, model

    def before_train(self) -> None:
        if self.trainer.start_iter == 0 and evaluation_due(self.cfg, 0):
            self._draw()

    def after_step(self) -> None:
        if evaluation_due(self.cfg, self.trainer.iter + 1):
            self._draw()

    @torch.no_grad()
    def _draw(self) -> None:
        self.model.eval()
        for dataset in self.cfg.DATASETS.TEST[:1]:
            mapper = build_test_mapper(self.cfg, dataset)
            for record in dataset_records(dataset)[: self.cfg.VIS_IMAGES]:
                try:
                    entry = mapper(record)
                except DataError:
                    if self.cfg.TEST.SKIP_BAD:
                        continue  # the evaluation has named it
                    raise
                panel = segmentation_panel(self.model, entry, self.cfg.INPUT.IGNORE_LABEL)
                self.trainer.storage.put_image(f"{dataset}/{Path(record['file_name']).stem}", panel.transpose(2, 0, 1))
        self.model.train()
