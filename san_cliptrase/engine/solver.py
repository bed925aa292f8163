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
    """Trainable parameters with their learning rate and weight decay, one group for each combination.

    Normalisation layers and embeddings (positions, queries; and the strengths of regions) have a weight
    decay of their own, but for the norms of the fusion layers; the CLIP and those strengths have a learning rate of
    their own.
    """
    solver, groups = cfg.SOLVER, {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            rate, decay = solver.BASE_LR, solver.WEIGHT_DECAY
            if isinstance(module, _NORMS) and not module_name.startswith(_DECAYED_NORMS):
                decay = solver.WEIGHT_DECAY_NORM
            elif name.endswith(("embed", "embedding", "strength")):
                decay = solver.WEIGHT_DECAY_EMBED
            if module_name.split(".")[0] == "clip":
                rate *= solver.CLIP_MULTIPLIER
            if name.endswith("strength"):
                rate *= solver.STRENGTH_MULTIPLIER
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over :func:`parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(cfg, model), lr=cfg.SOLVER.BASE_LR)


def build_scheduler(cfg: Any, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """lr(i) = lr(0) (1 - i / MAX_ITER)^POLY_POWER, by the MAX_ITER of this run also where a shorter one is resumed."""
    decay = PolynomialDecayParamScheduler(1.0, cfg.SOLVER.POLY_POWER)
    return LRMultiplier(optimizer, decay, cfg.SOLVER.MAX_ITER)
