"""Evaluation of a model on the registered test sets."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from san_cliptrase.data.loader import build_test_loader
from san_cliptrase.data.mapper import SemanticMapper
from san_cliptrase.evaluation.evaluator import SemanticEvaluator


@functools.cache
def dataset_records(name: str) -> list[dict]:
    """The dicts of a registered dataset, listed once per process."""
    return DatasetCatalog.get(name)


@torch.no_grad()
def evaluate(cfg: Any, model: nn.Module, output: Path | None) -> dict[str, dict[str, float]]:
    """Scores a model on every dataset of DATASETS.TEST.

    Args:
        cfg: configuration.
        model: a meta-architecture; its training mode is restored afterwards.
        output: folder for ``metrics_DATASET.json``, or None.

    Returns:
        dataset -> metric -> percent; empty on all processes but the main one.
    """
    was_training = model.training
    model.eval()
    results = {}
    for name in cfg.DATASETS.TEST:
        mapper = SemanticMapper(cfg, MetadataCatalog.get(name).stuff_classes, is_train=False)
        records = dataset_records(name)[: cfg.TEST.MAX_IMAGES or None]
        loader = build_test_loader(records, mapper, cfg.TEST.BATCH_SIZE, cfg.DATALOADER.NUM_WORKERS)
        evaluator = SemanticEvaluator(name, cfg.INPUT.IGNORE_LABEL, output)
        for inputs in tqdm(loader, name, leave=False, disable=not comm.is_main_process()):
            evaluator.process(inputs, model(inputs))
        scores = evaluator.evaluate()
        if scores is not None:
            results[name] = dict(scores["sem_seg"])
    model.train(was_training)
    return results


def evaluate_only(cfg: Any, model: nn.Module) -> dict[str, dict[str, float]]:
    """Evaluation as a run of its own: metrics also to TensorBoard, and on the screen as a table."""
    output, started = Path(cfg.OUTPUT_DIR), time.monotonic()
    results = evaluate(cfg, model, output)
    if comm.is_main_process():
        # A folder of its own: the step 0 of a training in this folder is another point.
        with SummaryWriter(str(output / "eval_only")) as writer:
            for dataset, metrics in results.items():
                for metric, value in metrics.items():
                    writer.add_scalar(f"{dataset}/{metric}", value, 0)
            writer.add_scalar("evaluation/seconds", time.monotonic() - started, 0)
    return results


def format_results(results: dict[str, dict[str, float]]) -> str:
    """A plain-text table of :func:`evaluate`'s results, datasets in rows."""
    metrics = list(dict.fromkeys(metric for scores in results.values() for metric in scores))
    width = max((len(name) for name in results), default=0)
    lines = [" ".join([" " * width, *(f"{metric:>{max(7, len(metric))}}" for metric in metrics)])]
    for name, scores in results.items():
        cells = (f"{scores.get(metric, float('nan')):>{max(7, len(metric))}.2f}" for metric in metrics)
        lines.append(" ".join([f"{name:<{width}}", *cells]))
    return "\n".join(lines)
