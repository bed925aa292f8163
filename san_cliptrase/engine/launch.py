"""What ``train`` and ``evaluate`` do: one run, on one process or several."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm

from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.checkpoints.files import check_start, has_checkpoint, holds_training
from san_cliptrase.engine.defaults import enter_folder, setup
from san_cliptrase.engine.preemption import Preempted
from san_cliptrase.engine.processes import run_processes
from san_cliptrase.engine.run_folder import RunFolder
from san_cliptrase.engine.trainer import Trainer
from san_cliptrase.errors import ConfigError, SanCliptraseError
from san_cliptrase.evaluation.evaluate import check_test_sets, dataset_records, evaluate_only, forget_records
from san_cliptrase.files import remove_unfinished
from san_cliptrase.terminal import exit_status

logger = logging.getLogger(__name__)
Built = TypeVar("Built")


def run(args: argparse.Namespace) -> None:
    """One process's part of a run."""
    cfg = setup(args)
    trained = cfg.MODEL.META_ARCHITECTURE != "CLIPtrase"
    if not args.eval_only and not (trained and cfg.DATASETS.TRAIN):
        what = "DATASETS.TRAIN is empty" if trained else "CLIPtrase has nothing to train"
        raise ConfigError(f"{what}: add --eval-only to evaluate")
    with RunFolder(Path(cfg.OUTPUT_DIR)) as place:
        enter_folder(cfg, args, place)
        forget_records()
        # Before anything is fetched or built: missing data and checkpoints are found at once.
        for name in () if args.eval_only else cfg.DATASETS.TRAIN:
            dataset_records(name)
        for name in cfg.DATASETS.TEST:
            dataset_records(name, cfg.TEST.MAX_IMAGES)
        # --resume of an evaluation goes on with its counts. It evaluates the run's last checkpoint, as it always did; a
        # run that was given its weights, or has none to train, goes on with those.
        resumes = args.resume and trained and has_checkpoint(place.folder)
        if args.eval_only and args.resume and trained and not resumes and not cfg.MODEL.WEIGHTS:
            raise ConfigError(f"--resume: {cfg.OUTPUT_DIR} has no checkpoint; name one with MODEL.WEIGHTS FILE")
        check_start(place.folder, cfg.MODEL.WEIGHTS, resumes)
        if args.eval_only:
            _evaluate(cfg, args.resume, trained, resumes, place)
            return
        trainer = build(Trainer, cfg, args.resume)
        place.begin(cfg)
        trainer.train()


def _evaluate(cfg: CfgNode, resume_counts: bool, trained: bool, resumes: bool, place: RunFolder) -> None:
    check_test_sets(cfg)
    output = place.folder
    model = build(build_model, cfg)
    if cfg.MODEL.WEIGHTS or resumes:
        SafeCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=resumes)
    elif trained:
        logger.warning("no MODEL.WEIGHTS and no --resume: what is evaluated has not been trained")
    if comm.is_main_process():
        remove_unfinished(output, only_one=True)
    results = output
    if holds_training(output):  # its files say what it trained with, and how its last evaluation ended
        results = output / "eval_only"
        logger.info("%s holds a training: this evaluation writes to %s", output, results)
    place.begin(cfg, results)
    evaluate_only(cfg, model, resume_counts, results=results)
    place.check()


def build(make: Callable[..., Built], *args: Any) -> Built:
    """What a configuration describes, such as its model or trainer; what that refuses are its values."""
    try:
        return make(*args)
    except SanCliptraseError:
        raise
    except (ValueError, KeyError) as error:
        raise ConfigError(str(error.args[0] if error.args else error)) from error
    # Values that no check foresaw: torch refuses them where it computes with them.
    except (TypeError, RuntimeError, ArithmeticError, IndexError, AttributeError, AssertionError) as error:
        raise ConfigError(f"a model cannot be built with these values: {error!r:.500}") from error


def execute(args: argparse.Namespace) -> int:
    """What ``train``, ``evaluate`` and ``train_net.py`` do; returns the exit status."""
    try:
        run_processes(_run_or_exit, args)
    except SystemExit as ending:
        return int(ending.code or 0)
    return 0


def _run_or_exit(args: argparse.Namespace) -> None:
    """:func:`run` in one of the processes of a run, whose exit status tells the others' parent how it ended."""
    try:
        status = exit_status(lambda: run(args))
    except Preempted:
        if comm.is_main_process():
            sys.stderr.write("stopped; the same command with --resume goes on\n")
        raise
    if status:
        raise SystemExit(status)
