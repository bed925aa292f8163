"""Evaluation of a model on the registered test sets."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch import Tensor, nn
from tqdm import tqdm

from san_cliptrase.data.datasets import first_records
from san_cliptrase.data.loader import BadSample, build_test_loader, by_shape, process_share
from san_cliptrase.data.mapper import check_labelled
from san_cliptrase.data.views import build_test_mapper
from san_cliptrase.errors import DataError, NotFiniteError, OutputError
from san_cliptrase.evaluation.evaluator import SemanticEvaluator
from san_cliptrase.evaluation.paper import paper_numbers
from san_cliptrase.evaluation.pictures import write_pictures
from san_cliptrase.evaluation.protocol import background_kind, config_value, protocol_title, row_setting
from san_cliptrase.evaluation.results import Evaluated, show, write_scalars, write_table
from san_cliptrase.evaluation.resume import evaluation_states
from san_cliptrase.evaluation.state import StateFile
from san_cliptrase.evaluation.unsupervised import fit_clusters

logger = logging.getLogger(__name__)


@functools.cache
def dataset_records(name: str, count: int = 0) -> list[dict]:
    """The dicts of a registered dataset, or the first ``count`` of them; listed once a run."""
    return first_records(name, count) if count else DatasetCatalog.get(name)


def forget_records() -> None:
    """List datasets anew: in a notebook, they may have been registered again since the last run."""
    dataset_records.cache_clear()
    _ordered_records.cache_clear()


def check_test_sets(cfg: Any) -> None:
    """Refuses test sets in whose images, up to TEST.MAX_IMAGES, no pixel has a label: there would be no metric.

    Raises:
        DataError: names the set.
    """
    for name in cfg.DATASETS.TEST:
        records, classes = dataset_records(name, cfg.TEST.MAX_IMAGES), MetadataCatalog.get(name).stuff_classes
        check_labelled(records, classes, cfg.INPUT.IGNORE_LABEL, f"the test set {name}")


def evaluate(cfg: Any, model: nn.Module, output: Path | None) -> dict[str, dict[str, float]]:
    """Scores a model on every dataset of DATASETS.TEST.

    Args:
        cfg: configuration.
        model: a meta-architecture; its training mode is restored afterwards.
        output: folder for ``metrics_DATASET.json`` and its tables, or None.

    Returns:
        dataset -> metric -> percent; empty on all processes but the main one.

    Raises:
        DataError: a file cannot be used, and TEST.SKIP_BAD is off.
        OutputError: a result cannot be written; after everything has been evaluated and logged.
    """
    evaluated = _evaluate(cfg, model, output, lambda name: None)
    if evaluated.failures:
        raise evaluated.failures[0]
    return evaluated.results


@torch.no_grad()
def _evaluate(
    cfg: Any, model: nn.Module, output: Path | None, state_of: Callable[[str], StateFile | None]
) -> Evaluated:
    was_training, evaluated = model.training, Evaluated()
    model.eval()
    for name in cfg.DATASETS.TEST:
        clusters = _cluster_count(cfg, name)
        details = report_details(cfg, name)
        if cfg.TEST.BACKGROUND != "words" and details["background"] == "none":
            logger.warning(
                "TEST.BACKGROUND %s changes nothing for %s: a class 'background' is looked for, and there is none",
                cfg.TEST.BACKGROUND,
                name,
            )
        evaluator = SemanticEvaluator(
            name, cfg.INPUT.IGNORE_LABEL, output, model.device, clusters, details, cfg.TEST.MASKS
        )
        _count_dataset(cfg, model, evaluator, state_of(name))
        try:
            evaluator.evaluate()
        except OutputError as error:
            logger.error("%s", error)
            evaluated.failures.append(error)
        if evaluator.report:
            evaluated.reports[name] = evaluator.report
    model.train(was_training)
    return evaluated


def evaluated_records(cfg: Any, name: str) -> list[dict]:
    """The records of a test set that are evaluated, of all processes together, in the order of their evaluation."""
    # Squares are of one size as they are; windows slide over one image after the other.
    shaped = cfg.TEST.BATCH_SIZE > 1 and cfg.TEST.PROTOCOL == "whole"
    return _ordered_records(name, cfg.TEST.MAX_IMAGES, shaped)


@functools.cache
def _ordered_records(name: str, count: int, shaped: bool) -> list[dict]:
    """Kept: to order images, the heads of their files are read, and a training evaluates many times."""
    records = dataset_records(name, count)
    return by_shape(records) if shaped else records


def report_details(cfg: Any, name: str) -> dict[str, Any]:
    """What a report says about how its numbers were made."""
    return {
        "protocol": cfg.TEST.PROTOCOL,
        "setting": protocol_title(cfg),
        "row": row_setting(cfg, name),
        "background": background_kind(cfg, name),
        "paper": paper_numbers(name, functools.partial(config_value, cfg)),
    }


def _cluster_count(cfg: Any, name: str) -> int:
    if cfg.TEST.PROTOCOL != "unsupervised":
        return 0
    return cfg.TEST.UNSUPERVISED.CLUSTERS or len(MetadataCatalog.get(name).stuff_classes)


def _count_dataset(cfg: Any, model: nn.Module, evaluator: SemanticEvaluator, state: StateFile | None) -> None:
    """Runs the model over this process's share of a test set."""
    name, batch, workers = evaluator.dataset, cfg.TEST.BATCH_SIZE, cfg.DATALOADER.NUM_WORKERS
    mapper, records = build_test_mapper(cfg, name), evaluated_records(cfg, name)
    label_maps: Callable[[list[dict]], list[Tensor]] = model.label_maps
    if evaluator.clusters:
        label_maps = fit_clusters(cfg, model, build_test_loader(records, mapper, batch, workers), evaluator.clusters)

    def predict(inputs: list[dict]) -> list[dict]:
        if evaluator.masks:
            return [{"labels": labels, "queries": own} for labels, own in model.label_and_query_maps(inputs)]
        return [{"labels": labels} for labels in label_maps(inputs)]

    progress = state.load() if state is not None else None
    done = 0
    if progress is not None:
        evaluator.load_state_dict(progress["counts"])
        done = progress["done"]
        logger.info("%s: goes on after %d images", name, done)
    loader = build_test_loader(records, mapper, batch, workers, done)
    total = len(process_share(records))
    # The main process shows its own share times the number of processes: the images of all, nearly.
    world = comm.get_world_size()
    shown = {"unit": "image", "unit_scale": world > 1 and world, "disable": not comm.is_main_process()}
    # Closed, so that loading processes end here, whatever ends the evaluation.
    with tqdm(desc=name, total=total, initial=done, leave=False, **shown) as bar, closing(iter(loader)) as batches:
        for samples in batches:
            inputs = [sample for sample in samples if not isinstance(sample, BadSample)]
            bad = [sample.message for sample in samples if isinstance(sample, BadSample)]
            if bad and not cfg.TEST.SKIP_BAD:
                state = _save(state, evaluator, done)  # for --resume --skip-bad
                raise DataError(f"{bad[0]} (--skip-bad evaluates without such files)")
            for message in bad:
                evaluator.skip(message)
            if inputs:
                evaluator.process(inputs, _predicted(predict, inputs))
            done += len(samples)
            bar.update(len(samples))
            if state is not None and state.due:
                state = _save(state, evaluator, done)
    _save(state, evaluator, done)


def _write_pictures(cfg: Any, model: nn.Module, evaluated: Evaluated, output: Path) -> None:
    """TEST.PICTURES images of each test set, in a folder; a failure is added to ``evaluated.failures``."""
    was_training = model.training
    model.eval()
    for name in cfg.DATASETS.TEST if cfg.TEST.PICTURES else ():
        try:
            files = write_pictures(cfg, model, name, evaluated_records(cfg, name), output)
        except OutputError as error:
            logger.error("%s", error)
            evaluated.failures.append(error)
            break
        logger.info("%s: %d images beside their prediction in %s", name, len(files), files[0].parent if files else "-")
    model.train(was_training)


def _predicted(predict: Callable[[list[dict]], list[dict]], inputs: list[dict]) -> list[dict]:
    try:
        return predict(inputs)
    except NotFiniteError as error:
        names = ", ".join(str(entry.get("file_name", entry.get("image_id", "?"))) for entry in inputs)
        raise NotFiniteError(f"{names}: {error}") from error


def _save(state: StateFile | None, evaluator: SemanticEvaluator, done: int) -> StateFile | None:
    """Saves the progress; where that fails, warns once and goes on without: the counts are in memory."""
    if state is None:
        return None
    try:
        state.save({"done": done, "counts": evaluator.state_dict()})
    except OutputError as error:
        logger.warning("%s The evaluation goes on, but cannot be resumed.", error)
        return None
    return state


def evaluate_only(
    cfg: Any, model: nn.Module, resume: bool = False, show_classes: bool = True, results: Path | None = None
) -> dict[str, dict[str, float]]:
    """Evaluation as a run of its own: it can be resumed, and shows its numbers as tables and in TensorBoard.

    Args:
        cfg: configuration.
        model: a meta-architecture.
        resume: go on from what a killed evaluation in OUTPUT_DIR has saved; otherwise that is removed.
        show_classes: also tables of classes and confusions.
        results: folder for metrics, tables and images; None: OUTPUT_DIR.

    Raises:
        DataError: a file cannot be used, and TEST.SKIP_BAD is off.
        StateError: what was saved cannot be continued.
        OutputError: a result cannot be written; after the tables have been shown.
    """
    output, started = Path(cfg.OUTPUT_DIR), time.monotonic()
    results = results or output
    states = evaluation_states(cfg, model, {name: evaluated_records(cfg, name) for name in cfg.DATASETS.TEST})
    if not resume:
        for state in states.values():
            state.remove()
    evaluated = _evaluate(cfg, model, results, states.get)
    if comm.is_main_process():
        show(cfg, evaluated, show_classes)
        write_table(cfg, evaluated, results / "results.csv")
        if not evaluated.failures:  # TensorBoard's own thread would meet the same full disk, with a traceback
            write_scalars(output / "eval_only", evaluated, time.monotonic() - started)
            _write_pictures(cfg, model, evaluated, results)
    if any(comm.all_gather(bool(evaluated.failures))):
        if evaluated.failures:
            raise evaluated.failures[0]
    else:
        for state in states.values():
            state.remove()
    return evaluated.results
