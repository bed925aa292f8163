"""SAN's optimiser: AdamW with parameter groups, and a polynomial schedule."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch import nn

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
# SAN wrote these layer norms itself, so its solver took them for ordinary weights: the table of parameters at the top
# of its published logs (resources/san_vit_b_16.log) lists them with weight decay 0.0001, all other norms with 0.
_DECAYED_NORMS = "network.adapter.fusion."


def parameter_groups(cfg: Any, model: nn.Module) -> list[dict]:
    """Trainable parameters with their learning rate and weight decay, one group for each kind of parameter.

    Normalisation layers and embeddings (positions, queries; and the strengths of regions) have a weight
    decay of their own, but for the norms of the fusion layers; the CLIP and those strengths have a learning rate of
    their own. The groups depend on the model alone, so that a run can be resumed with other rates and decays.
    """
    solver, groups = cfg.SOLVER, {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            rate, decay = solver.BASE_LR, solver.WEIGHT_DECAY
            clip, strength = module_name.split(".")[0] == "clip", name.endswith("strength")
            norm = isinstance(module, _NORMS) and not module_name.startswith(_DECAYED_NORMS)
            embed = name.endswith(("embed", "embedding", "strength"))
            if norm:
                decay = solver.WEIGHT_DECAY_NORM
            elif embed:
                decay = solver.WEIGHT_DECAY_EMBED
            if clip:
                rate *= solver.CLIP_MULTIPLIER
            if strength:
                rate *= solver.STRENGTH_MULTIPLIER
            group = groups.setdefault((clip, strength, norm, embed), {"params": [], "lr": rate, "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over :func:`parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(cfg, model), lr=cfg.SOLVER.BASE_LR)


class PolynomialSchedule(LRMultiplier):
    """lr(i) = lr(0) (1 - i / MAX_ITER)^POLY_POWER: a function of i and the configuration, whatever ran before."""

    def __init__(self, optimizer: torch.optim.Optimizer, power: float, length: int) -> None:
        super().__init__(optimizer, PolynomialDecayParamScheduler(1.0, power), length)

    def go_to(self, iteration: int) -> None:
        """Sets the rates of an iteration."""
        self.last_epoch = iteration
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict:
        """Nothing: see :meth:`go_to`."""
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes nothing from a checkpoint: its rates may be those of another schedule."""


def build_scheduler(cfg: Any, optimizer: torch.optim.Optimizer) -> PolynomialSchedule:
    """The schedule of this run, also where one with other rates or a shorter one is resumed."""
    return PolynomialSchedule(optimizer, cfg.SOLVER.POLY_POWER, cfg.SOLVER.MAX_ITER)


def load_moments(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Takes AdamW's moments and steps from a saved state, and nothing else: rates and decays stay those of this run.

    Raises:
        ValueError: the state is of other groups of parameters.
    """
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
