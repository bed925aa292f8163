"""Training: detectron2's loop and hooks around one step that can be paired between variants and resumed exactly."""

from __future__ import annotations

import logging
import math
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import TrainerBase, create_ddp_model, hooks
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from torch import nn
from torch.utils.data import DataLoader

from san_cliptrase.data.loader import build_train_loader
from san_cliptrase.data.mapper import SemanticMapper
from san_cliptrase.engine.checkpoint import SafeCheckpointer
from san_cliptrase.engine.evaluate import dataset_records
from san_cliptrase.engine.hooks import EvaluationHook, PictureHook, WriterHook
from san_cliptrase.engine.prototypes import initialise_prototypes
from san_cliptrase.engine.solver import build_optimizer, build_scheduler

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
        model = build_model(cfg)
        self.optimizer = build_optimizer(cfg, model)
        self.scheduler = build_scheduler(cfg, self.optimizer)
        self.amp = cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE.startswith("cuda")
        self.grad_scaler = torch.amp.GradScaler(enabled=self.amp)
        self.model = create_ddp_model(model, broadcast_buffers=False)
        self.checkpointer = SafeCheckpointer(
            model, cfg.OUTPUT_DIR, save_to_disk=comm.is_main_process(), trainer=weakref.proxy(self)
        )
        self.register_hooks(self._build_hooks(model))
        self.checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1
        elif _begins_at_prototypes(cfg):
            self._initialise_prototypes(model)
        self._data = iter(self._build_loader())
        _log_sizes(model)

    def _build_hooks(self, model: nn.Module) -> list:
        cfg = self.cfg
        built = [
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            EvaluationHook(cfg, model),
        ]
        if comm.is_main_process():
            built += [
                PictureHook(cfg, model),
                hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_ITER),
                hooks.PeriodicWriter([CommonMetricPrinter(cfg.SOLVER.MAX_ITER)], cfg.LOG_PERIOD),
                WriterHook(cfg, self._build_writers),
            ]
        return built

    def _build_writers(self) -> list:
        output = Path(self.cfg.OUTPUT_DIR)
        output.mkdir(parents=True, exist_ok=True)
        return [JSONWriter(str(output / "metrics.json")), TensorboardXWriter(str(output), purge_step=self.start_iter)]

    def train(self) -> None:
        """Trains from where the run is to MAX_ITER."""
        self.model.train()
        super().train(self.start_iter, self.cfg.SOLVER.MAX_ITER)

    def _build_loader(self) -> DataLoader:
        cfg, name = self.cfg, self.cfg.DATASETS.TRAIN[0]
        mapper = SemanticMapper(cfg, MetadataCatalog.get(name).stuff_classes, is_train=True)
        batch, workers = cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS
        return build_train_loader(dataset_records(name), mapper, batch, cfg.SEED, self.start_iter, workers)

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
        data = next(self._data)
        data_time = time.perf_counter() - started
        torch.manual_seed((self.cfg.SEED * 1_000_003 + self.iter) * 1_009 + comm.get_rank())
        with torch.autocast(self.cfg.MODEL.DEVICE.split(":")[0], enabled=self.amp):
            losses = self.model(data)
        total = sum(losses.values())
        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        self._log_losses(losses, data_time)
        self._clip_gradients()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _log_losses(self, losses: dict[str, torch.Tensor], data_time: float) -> None:
        mine = {name: loss.item() for name, loss in losses.items()}
        gathered = comm.gather({**mine, "total_loss": sum(mine.values()), "data_time": data_time})
        if not comm.is_main_process():
            return
        means = {name: sum(worker[name] for worker in gathered) / len(gathered) for name in gathered[0]}
        if not math.isfinite(means["total_loss"]):
            raise FloatingPointError(f"the loss is not finite in iteration {self.iter}: {means}")
        self.storage.put_scalars(**means)

    def _clip_gradients(self) -> None:
        clipping = self.cfg.SOLVER.CLIP_GRADIENTS
        if not clipping.ENABLED:
            return
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, clipping.CLIP_VALUE, clipping.NORM_TYPE)
        # Infinite where the loss scale was too large and the step will be skipped; JSON has no such number.
        if math.isfinite(norm):
            self.storage.put_scalar("grad_norm", norm.item())

    def state_dict(self) -> dict:
        """What a resumed run needs besides the weights."""
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes up a saved state."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        # Empty where the run so far had no loss scaling: on a CPU.
        if self.amp and state_dict["grad_scaler"]:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _begins_at_prototypes(cfg: Any) -> bool:
    """Whether prototypes replace the learned queries; those of loaded weights are kept."""
    named = cfg.MODEL.META_ARCHITECTURE == "SAN" and cfg.MODEL.SAN.QUERY_INIT.NAME == "prototypes"
    return named and not cfg.MODEL.WEIGHTS


def _log_sizes(model: nn.Module) -> None:
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info("%.2f M parameters, %.2f M of them trained", total / 1e6, trained / 1e6)
