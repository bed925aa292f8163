"""What happens besides the steps of training: evaluations and panels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn

from san_cliptrase.data.views import build_test_mapper
from san_cliptrase.engine.logs import append_row, keep_lines, keep_rows
from san_cliptrase.engine.panels import segmentation_panel
from san_cliptrase.engine.preemption import Preempted
from san_cliptrase.engine.run_folder import Kept
from san_cliptrase.errors import DataError, DivergedError, NotFiniteError
from san_cliptrase.evaluation.evaluate import dataset_records, evaluate
from san_cliptrase.texts import exact


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
    """Writes losses every LOG_PERIOD iterations and with every evaluation, each at its own iteration.

    Evaluations and images, which the trainer's second storage holds, are written at the number of iterations done.

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
        self._write_evaluation()

    def after_step(self) -> None:
        if evaluation_due(self.cfg, self.trainer.iter + 1):
            for writer in self._writers:
                writer.write()
            self._write_evaluation()
        else:
            super().after_step()

    def _write_evaluation(self) -> None:
        with self.trainer.evaluations:
            for writer in self._writers:
                # Writers skip what is not newer than what they wrote last; losses of this number are still to come.
                last = writer._last_write
                writer.write()
                writer._last_write = last
        self.trainer.evaluations.latest().clear()


class FolderHook(HookBase):
    """Ends a run whose folder, or the log in it, has been deleted or moved (:class:`Kept`)."""

    def __init__(self, cfg: Any) -> None:
        self.folder, self._kept = Path(cfg.OUTPUT_DIR), Kept()

    def before_train(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._kept.note(self.folder)

    def after_step(self) -> None:
        self.check()

    def check(self) -> None:
        """See :meth:`Kept.check`."""
        self._kept.note(self.folder / "metrics.json")  # made by the writers, after this hook
        self._kept.check()


class EvaluationHook(HookBase):
    """Evaluates on the way; metrics go to the storage of evaluations and, a row each, to ``evaluations.csv``.

    A row holds the number of iterations done, the seconds that they took (evaluations and images not counted), the
    dataset and its metrics. A resumed run drops the rows that lie behind its checkpoint and goes on.
    """

    def __init__(self, cfg: Any, model: nn.Module, check_model: Callable[[], None]) -> None:
        self.cfg, self.model, self._check_model = cfg, model, check_model
        self.path = Path(cfg.OUTPUT_DIR) / "evaluations.csv"
        self.seconds = 0.0
        self._started = 0.0

    def before_train(self) -> None:
        """Takes up the file of a resumed run, and evaluates if the evaluation of this point is not in it."""
        start, missing = self.trainer.start_iter, False
        if comm.is_main_process():
            rows = [row for row in keep_rows(self.path, start or -1) if int(row["iteration"]) == start]
            if rows and not {row["dataset"] for row in rows} >= set(self.cfg.DATASETS.TEST):
                keep_rows(self.path, start - 1)
                rows = []
            # Its lines are behind the checkpoint for the logs, and are written again.
            for row in rows:
                self._store(start, row["dataset"], {name: row[name] for name in list(row)[3:]})
            missing = evaluation_due(self.cfg, start) and not rows
        if comm.all_gather(missing)[0]:
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
        self._check_model()
        with self.trainer.preemption.ending_at_once():
            try:
                results = evaluate(self.cfg, self.model, Path(self.cfg.OUTPUT_DIR))
            except NotFiniteError as error:
                raise DivergedError(
                    f"the model has diverged after {done} iterations: {error} Lower SOLVER.BASE_LR, and --resume from "
                    "the last checkpoint"
                ) from error
        comm.synchronize()
        if not comm.is_main_process():
            return
        # Datasets may differ in their metrics; the file has one set of columns.
        columns = dict.fromkeys(name for metrics in results.values() for name in metrics)
        for dataset, metrics in results.items():
            self._store(done, dataset, metrics)
            row = {name: metrics.get(name, math.nan) for name in columns}
            self._append({"iteration": done, "seconds": round(self.seconds, 3), "dataset": dataset, **row})

    def _store(self, done: int, dataset: str, metrics: Mapping[str, Any]) -> None:
        """For the writers; a metric that no class has is left out: JSON has no NaN."""
        storage = self.trainer.evaluations
        storage.iter = done
        for name, value in metrics.items():
            if math.isfinite(float(value)):
                storage.put_scalar(f"{dataset}/{name}", float(value), smoothing_hint=False)

    def _append(self, row: dict) -> None:
        append_row(self.path, row)


class CheckpointHook(hooks.PeriodicCheckpointer):
    """Checkpoints every SOLVER.CHECKPOINT_PERIOD iterations and at the end; also where a run was killed just before."""

    def before_train(self) -> None:
        super().before_train()
        # A final checkpoint may be there from before the run was extended.
        final, resumed = f"{self.file_prefix}_final", self.checkpointer.resumed_from
        if self.trainer.start_iter >= self.max_iter and (resumed is None or resumed.stem != final):
            self.checkpointer.save(final, iteration=self.max_iter - 1)


class PreemptionHook(HookBase):
    """Ends the run after an iteration in which a process was asked to; before anything that takes long."""

    def after_step(self) -> None:
        if self.trainer.stop_agreed:
            raise Preempted(self.trainer.preemption.status)


class PanelHook(HookBase):
    """At every evaluation, images of regions and predictions of a few test images for TensorBoard."""

    def __init__(self, cfg: Any, model: nn.Module) -> None:
        self.cfg, self.model = cfg, model

    def before_train(self) -> None:
        if evaluation_due(self.cfg, self.trainer.start_iter):
            self._draw(self.trainer.start_iter)

    def after_step(self) -> None:
        if evaluation_due(self.cfg, self.trainer.iter + 1):
            self._draw(self.trainer.iter + 1)

    @torch.no_grad()
    def _draw(self, done: int) -> None:
        self.trainer.evaluations.iter = done
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
                name = f"{dataset}/{exact(Path(record['file_name']).stem)}"
                self.trainer.evaluations.put_image(name, panel.transpose(2, 0, 1))
        self.model.train()
