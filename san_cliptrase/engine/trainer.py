"""Training: detectron2's loop and hooks around one step that can be paired between variants and resumed exactly."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import TrainerBase, create_ddp_model, hooks
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventStorage, JSONWriter, TensorboardXWriter
from torch import nn
from torch.utils.data import DataLoader

from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.checkpoints.files import CHECKPOINTS, RUN_FILES, named_tensors, not_finite, set_aside, shortened
from san_cliptrase.data.loader import TrainStream, build_train_loader
from san_cliptrase.data.mapper import SemanticMapper, check_labelled
from san_cliptrase.engine.divergence import diverged
from san_cliptrase.engine.hooks import (
    CheckpointHook,
    EvaluationHook,
    FolderHook,
    PanelHook,
    PreemptionHook,
    PrinterHook,
    WriterHook,
)
from san_cliptrase.engine.logs import move_earlier_log, writer_failures
from san_cliptrase.engine.preemption import Preempted, Preemption
from san_cliptrase.engine.prototypes import initialise_prototypes
from san_cliptrase.engine.solver import build_optimizer, build_scheduler, load_moments
from san_cliptrase.errors import CheckpointError, ConfigError, DamagedCheckpoint, OutputError, SanCliptraseError
from san_cliptrase.evaluation.evaluate import check_test_sets, dataset_records
from san_cliptrase.files import remove_unfinished

logger = logging.getLogger(__name__)


class Trainer(TrainerBase):
    """Trains the model of a configuration, evaluates on the way, checkpoints and logs.

    Args:
        cfg: configuration.
        resume: go on from OUTPUT_DIR's last checkpoint if there is one.
    """

    def __init__(self, cfg: Any, resume: bool = False) -> None:
        super().__init__()
        self.cfg = cfg
        self.preemption, self.stop_agreed, self._done = Preemption(), False, 0
        # Apart from the losses' storage: what is known after an iteration belongs to the number of those done.
        self.evaluations = EventStorage(0)
        name = cfg.DATASETS.TRAIN[0]
        classes = MetadataCatalog.get(name).stuff_classes
        check_labelled(dataset_records(name), classes, cfg.INPUT.IGNORE_LABEL, "the training set")
        check_test_sets(cfg)
        model = build_model(cfg)
        self.optimizer = build_optimizer(cfg, model)
        self.scheduler = build_scheduler(cfg, self.optimizer)
        self.amp = cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE.startswith("cuda")
        self.grad_scaler = torch.amp.GradScaler(enabled=self.amp)
        # Every trainable parameter is part of every loss, so there is no search for unused ones (DDP's default).
        devices = [comm.get_local_rank()] if cfg.MODEL.DEVICE.startswith("cuda") else None
        self.model = create_ddp_model(model, broadcast_buffers=False, device_ids=devices)
        self.checkpointer = SafeCheckpointer(
            model, cfg.OUTPUT_DIR, save_to_disk=comm.is_main_process(), trainer=weakref.proxy(self)
        )
        self.register_hooks(self._build_hooks(model))
        if comm.is_main_process():
            remove_unfinished(Path(cfg.OUTPUT_DIR), only_one=True)
        state = self.checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            if "iteration" not in state:
                raise CheckpointError(
                    f"--resume: the last checkpoint in {cfg.OUTPUT_DIR} holds weights and no state of training; to "
                    "begin with these weights, name the file with MODEL.WEIGHTS"
                )
            self.start_iter = self._done = self.iter + 1
            if self.start_iter > cfg.SOLVER.MAX_ITER:
                raise ConfigError(
                    f"--resume: SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}, but the run in {cfg.OUTPUT_DIR} has done "
                    f"{self.start_iter} iterations"
                )
        else:
            self._begin_anew(model, RUN_FILES if not resume else CHECKPOINTS)
        self._stream = TrainStream(self._build_loader, cfg.SOLVER.ACCUMULATE, self.start_iter)
        _log_sizes(model)

    def _build_hooks(self, model: nn.Module) -> list:
        cfg = self.cfg
        self._folder = FolderHook(cfg) if comm.is_main_process() else None
        built = [
            *([self._folder] if self._folder else []),
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            PreemptionHook(),
            EvaluationHook(cfg, model, self.checkpointer.check_finite),
        ]
        if comm.is_main_process():
            built += [
                PanelHook(cfg, model),
                PrinterHook([CommonMetricPrinter(cfg.SOLVER.MAX_ITER)], cfg.LOG_PERIOD),
                WriterHook(cfg, self._build_writers),
                # Last: what a checkpoint has behind it has been written.
                CheckpointHook(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_ITER),
            ]
        return built

    def _build_writers(self) -> list:
        output = Path(self.cfg.OUTPUT_DIR)
        output.mkdir(parents=True, exist_ok=True)
        return [JSONWriter(str(output / "metrics.json")), TensorboardXWriter(str(output), purge_step=self.start_iter)]

    def train(self) -> None:
        """Trains from where the run is to MAX_ITER.

        Raises:
            Preempted: SIGTERM or Ctrl-C came; a checkpoint has been written if there was something new to save.
            KeyboardInterrupt: a second Ctrl-C came.
            DivergedError: a loss, gradient or weight is NaN or infinite; the names of the batch's files have been
                written where it was found in a step.
            DataError, LoaderError, OutputError: a file cannot be used, loading processes die, a disk is full, or
                OUTPUT_DIR has been deleted.
        """
        self.model.train()
        with self.preemption.listening(), writer_failures() as failures:
            try:
                super().train(self.start_iter, self.cfg.SOLVER.MAX_ITER)
                if self._folder:
                    self._folder.check()
                if failures:  # of the last lines, which no further one has told
                    raise failures[0]
            except SanCliptraseError:
                raise
            except OSError as error:  # images raise DataError: these are the files that the run appends to
                if self._folder:
                    self._folder.check()
                raise OutputError(
                    f"cannot write to OUTPUT_DIR {self.cfg.OUTPUT_DIR}: {error}. Check free disk space and write "
                    "permission"
                ) from error
            except Preempted:
                if self._done > self.start_iter:
                    self.iter = self._done - 1  # where the next batch never came, no step was made
                    self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
                if self.stop_agreed:  # nobody leaves before the checkpoint is there: launchers end the others then
                    comm.synchronize()
                raise
            finally:
                self._stream.close()

    def _build_loader(self, start_iter: int) -> DataLoader:
        cfg, name = self.cfg, self.cfg.DATASETS.TRAIN[0]
        mapper = SemanticMapper(cfg, MetadataCatalog.get(name).stuff_classes, is_train=True)
        return build_train_loader(
            dataset_records(name),
            mapper,
            cfg.SOLVER.IMS_PER_BATCH,
            cfg.SEED,
            start_iter,
            cfg.DATALOADER.NUM_WORKERS,
            cfg.DATALOADER.SKIP_BAD,
            cfg.SOLVER.ACCUMULATE,
        )

    def _begin_anew(self, model: nn.Module, old: Sequence[str]) -> None:
        if _begins_at_prototypes(self.cfg):
            self._initialise_prototypes(model)
        comm.synchronize()  # all have loaded their weights, which may lie in OUTPUT_DIR
        place = set_aside(Path(self.cfg.OUTPUT_DIR), old) if comm.is_main_process() else None
        place = comm.all_gather(place)[0]
        if place and old is RUN_FILES:
            move_earlier_log(Path(self.cfg.OUTPUT_DIR), place)

    def _initialise_prototypes(self, model: nn.Module) -> None:
        cfg, name = self.cfg, self.cfg.DATASETS.TRAIN[0]
        mapper = SemanticMapper(cfg, MetadataCatalog.get(name).stuff_classes, is_train=False)
        images = cfg.MODEL.SAN.QUERY_INIT.PROTOTYPE_IMAGES
        initialise_prototypes(model, dataset_records(name), mapper, images, cfg.SEED)
        if comm.get_world_size() > 1:  # the processes' k-means may differ in the last digit
            torch.distributed.broadcast(model.network.adapter.query_embed.data, 0)

    def run_step(self) -> None:
        """One iteration. Its random draws follow from (SEED, iteration) alone: see docs/architecture.md."""
        started = time.perf_counter()
        with self.preemption.waiting():
            parts, skipped = self._stream.next()
        data_time = time.perf_counter() - started
        for message in skipped:
            logger.warning("left out, the stream's next image takes its place: %s", message)
        torch.manual_seed((self.cfg.SEED * 1_000_003 + self.iter) * 1_009 + comm.get_rank())
        self.optimizer.zero_grad()
        try:
            self._log_losses(self._backward(parts), data_time)
            self._clip_gradients()
        except FloatingPointError as error:
            batch = [entry for part in parts for entry in part]
            raise diverged(Path(self.cfg.OUTPUT_DIR), self.iter, batch, error) from error
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self._done = self.iter + 1

    def _backward(self, parts: list[list[dict]]) -> dict[str, float]:
        """Gradients of the whole batch, part by part; its losses, of which each part has its share."""
        counts = [len(entry["instances"]) for part in parts for entry in part]
        counts = [count for worker in comm.all_gather(counts) for count in worker]
        losses: dict[str, torch.Tensor] = {}
        for number, part in enumerate(parts, 1):
            with self._synchronised(number == len(parts)):
                with torch.autocast(self.cfg.MODEL.DEVICE.split(":")[0], enabled=self.amp):
                    share = self.model(part, counts)
                self.grad_scaler.scale(sum(share.values())).backward()
            for name, loss in share.items():
                losses[name] = losses.get(name, 0) + loss.detach()
        return {name: loss.item() for name, loss in losses.items()}

    def _synchronised(self, last: bool) -> AbstractContextManager:
        """Processes exchange gradients once an iteration, with its last part."""
        return nullcontext() if last or self.model is self.checkpointer.model else self.model.no_sync()

    def _log_losses(self, mine: dict[str, float], data_time: float) -> None:
        mine = {**mine, "total_loss": sum(mine.values()), "data_time": data_time}
        gathered = comm.all_gather((mine, self.preemption.requested))
        self.stop_agreed = any(asked for _, asked in gathered)
        means = {name: sum(worker[name] for worker, _ in gathered) / len(gathered) for name in mine}
        if not math.isfinite(means["total_loss"]):
            raise FloatingPointError(f"the loss is not finite: {means}")
        if comm.is_main_process():
            # Not smoothed: a resumed run would begin with an empty window, and write other numbers.
            self.storage.put_scalars(**means, smoothing_hint=False)

    def _clip_gradients(self) -> None:
        clipping = self.cfg.SOLVER.CLIP_GRADIENTS
        if not clipping.ENABLED:
            return
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, clipping.CLIP_VALUE, clipping.NORM_TYPE)
        # Under a loss scale it is infinite where the scale was too large: the step will be skipped.
        if math.isfinite(norm):
            self.storage.put_scalar("grad_norm", norm.item(), smoothing_hint=False)
        elif not self.amp:
            raise FloatingPointError(f"the gradient is not finite: its norm is {norm.item()}")

    def state_dict(self) -> dict:
        """What a resumed run needs besides the weights."""
        state = super().state_dict()
        state["iteration"] = min(self.iter, self.cfg.SOLVER.MAX_ITER - 1)  # of a finished run, iter is one more
        state["optimizer"] = self.optimizer.state_dict()
        state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes up a saved state; learning rates and weight decays are those of this run's configuration.

        Raises:
            DamagedCheckpoint: a moment of the optimiser is NaN or infinite.
            CheckpointError: the optimiser had other groups of parameters.
        """
        super().load_state_dict(state_dict)
        if wrong := not_finite(dict(named_tensors(state_dict["optimizer"]))):
            raise DamagedCheckpoint(
                f"the optimiser's state in the checkpoint has NaN or infinity in {shortened(wrong)}. It is of a "
                "run that diverged."
            )
        try:
            load_moments(self.optimizer, state_dict["optimizer"])
        except ValueError as error:
            raise CheckpointError(
                "the optimiser's state in the checkpoint is of another model, or of an earlier version of this "
                f"package: {error}. To begin with its weights, name the file with MODEL.WEIGHTS"
            ) from error
        self.scheduler.go_to(self.iter + 1)
        # Empty where the run so far had no loss scaling: on a CPU.
        if self.amp and state_dict["grad_scaler"]:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _begins_at_prototypes(cfg: Any) -> bool:
    """Whether prototypes replace the learned queries; those of loaded weights are kept."""
    named = cfg.MODEL.META_ARCHITECTURE == "SAN" and cfg.MODEL.SAN.QUERY_INIT.NAME.endswith("prototypes")
    return named and not cfg.MODEL.WEIGHTS


def _log_sizes(model: nn.Module) -> None:
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info("%.2f M parameters, %.2f M of them trained", total / 1e6, trained / 1e6)
