"""All runs of an experiment, in processes of their own, some beside each other; what is finished is not done again."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path

import torch

from san_cliptrase.evaluation.evaluate import dataset_records
from san_cliptrase.lab.convergence import worker
from san_cliptrase.lab.convergence.curves import read_curve
from san_cliptrase.lab.convergence.experiment import Experiment

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run_all(
    experiment: Experiment, runs: Sequence[tuple[str, int]], jobs: int, threads: int, gpus: int = 1
) -> list[tuple[str, int]]:
    """Does the runs that are not finished and prints a line for each one.

    Args:
        experiment: whose.
        runs: (variant, seed), in the order to start them.
        jobs: how many at a time.
        threads: of torch in each process.
        gpus: of each run, a process each; runs beside each other take turns in the machine's GPUs.

    Returns:
        The runs that failed.

    Raises:
        ConfigError: before anything runs, if a folder holds a run of another configuration.
        FileNotFoundError: before anything runs, if a dataset is missing.
        KeyboardInterrupt: after the running processes have ended.
    """
    configs = {run: experiment.config(*run) for run in runs}
    waiting = [run for run in runs if not worker.is_finished(configs[run])]
    for run in set(runs) - set(waiting):
        if not experiment.keep_checkpoints:
            worker.remove_checkpoints(Path(configs[run].OUTPUT_DIR))
    each = f"{f'{gpus} processes of ' if gpus > 1 else ''}{threads} threads each"
    _say(f"{len(runs)} runs, {len(runs) - len(waiting)} finished; {jobs} at a time with {each}")
    # Once, here: the demo scenes are drawn when first asked for, and the runs would all do so.
    for name in {n for run in waiting for n in (*configs[run].DATASETS.TRAIN, *configs[run].DATASETS.TEST)}:
        dataset_records(name)
    context = multiprocessing.get_context("spawn")
    running: dict[int, tuple[multiprocessing.process.BaseProcess, tuple[str, int], float, int]] = {}
    failed, total, started, free = [], len(waiting), time.monotonic(), list(range(jobs))
    with threads_in_environment(threads):
        try:
            while waiting or running:
                while waiting and free:
                    run, place = waiting.pop(0), free.pop(0)
                    arguments = (configs[run], threads, jobs, experiment.keep_checkpoints, gpus)
                    process = context.Process(
                        target=worker.process_main, args=arguments, name=f"{run[0]} seed {run[1]}"
                    )
                    seen = gpus_of_place(place, gpus, _known_gpus()) if configs[run].MODEL.DEVICE == "cuda" else None
                    with in_environment({} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}):
                        process.start()
                    running[process.sentinel] = (process, run, time.monotonic(), place)
                for sentinel in connection.wait(list(running)):
                    process, run, since, place = running.pop(sentinel)
                    process.join()
                    free.append(place)
                    if process.exitcode:
                        failed.append(run)
                    done = total - len(waiting) - len(running)
                    left = (time.monotonic() - started) / done * (total - done)
                    outcome = _outcome(experiment, run, process.exitcode, time.monotonic() - since)
                    _say(f"[{done}/{total}] {outcome}; {_duration(left)} left")
        finally:
            for process, *_ in running.values():
                process.terminate()
            for process, *_ in running.values():
                process.join()
    return failed


@contextmanager
def threads_in_environment(threads: int) -> Iterator[None]:
    """Processes that are spawned within find the number of threads before they import torch, and no progress bars."""
    with in_environment({**dict.fromkeys(_THREAD_VARIABLES, str(threads)), "TQDM_DISABLE": "1"}):
        yield


@contextmanager
def in_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Processes that are spawned within find these variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def gpus_of_place(place: int, gpus: int, known: Sequence[str]) -> str | None:
    """CUDA_VISIBLE_DEVICES of a run, so that runs beside each other are on different GPUs as far as there are any.

    Args:
        place: among the runs beside each other, from 0.
        gpus: of a run.
        known: the machine's.

    Returns:
        None where there is nothing to choose.
    """
    if len(known) < 2:
        return None
    first = place % max(1, len(known) // gpus) * gpus
    return ",".join(known[first : first + gpus])


def _known_gpus() -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(torch.cuda.device_count())] if given is None else given.split(",")


def _outcome(experiment: Experiment, run: tuple[str, int], exitcode: int | None, seconds: float) -> str:
    folder = experiment.folder(*run)
    if exitcode:
        return f"{run[0]} seed {run[1]} FAILED with exit status {exitcode}: {_last_line(folder / 'log.txt')} ({folder})"
    curve = read_curve(folder / "evaluations.csv", experiment.dataset)
    last = curve.metrics["mIoU"][-1]
    return f"{run[0]} seed {run[1]}: mIoU {last:.1f} at its last evaluation, in {_duration(seconds)}"


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "it left no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
