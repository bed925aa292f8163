"""What one training iteration costs: variants take turns in one process, so that what slows one slows the others.

Measured on the first batches of training, in seconds, the share of finding regions, and floating-point operations.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils.events import EventStorage
from torch.utils.flop_counter import FlopCounterMode

from san_cliptrase.data.own import register_own
from san_cliptrase.engine.trainer import Trainer
from san_cliptrase.errors import ConfigError
from san_cliptrase.lab.convergence.experiment import Experiment, flatten
from san_cliptrase.lab.convergence.runner import threads_in_environment
from san_cliptrase.lab.convergence.worker import machine, now, read_json, write_json
from san_cliptrase.pools import end_with_parent

COST = "cost.json"
ROUNDS = 8
WARM_UP = 2
_FLOPS_NOTE = (
    "FLOPs, two per multiply-add, of matrix products (those of correlation and clustering too), convolutions and "
    "attention, forward and backward; not counted: elementwise work, text embeddings that are kept, the optimiser."
)


class _Stepper:
    """One variant's training, a step at a time."""

    def __init__(self, cfg: Any, folder: str) -> None:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS = folder, 0
        cfg.MODEL.CLIP.CACHE_GB = 0.0  # an iteration on images that are new
        cfg.freeze()
        torch.manual_seed(cfg.SEED)
        self.trainer = Trainer(cfg)
        self.trainer.model.train()
        self.trainer.iter = 0
        self.storage = self.trainer.storage = EventStorage(0)
        self.cuda = cfg.MODEL.DEVICE.startswith("cuda")
        self.region_seconds = 0.0
        model = self.trainer.checkpointer.model
        if hasattr(model, "find_regions"):
            model.find_regions = self._timed(model.find_regions)

    def step(self) -> tuple[float, float]:
        """Seconds of the next iteration without loading its data, and those of them spent finding regions."""
        self.region_seconds = 0.0
        with self.storage:
            started = self._clock()
            self.trainer.run_step()
            seconds = self._clock() - started - self.storage.latest()["data_time"][0]
            self.storage.step()
        self.trainer.iter += 1
        return seconds, self.region_seconds

    def flops(self) -> int:
        """Floating-point operations of the next iteration."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        return counter.get_total_flops()

    def _timed(self, function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = self._clock()
            result = function(*args, **kwargs)
            self.region_seconds += self._clock() - started
            return result

        return timed

    def _clock(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(configs: Mapping[str, Any], baseline: str, threads: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Costs of variants, in this process.

    Args:
        configs: variant -> frozen configuration.
        baseline: what ratios are taken to, within each round.
        threads: of torch.
        rounds: how often the variants take turns, after two rounds to warm up.

    Returns:
        Machine, date, and per variant "seconds" and "seconds_ratio" (median and quartiles), "region_seconds" (median),
        "regions_share" (of the iteration) and "flops" of one iteration.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        steppers = {name: _Stepper(cfg, str(Path(folder) / name)) for name, cfg in configs.items()}
        for _ in range(WARM_UP):
            for stepper in steppers.values():
                stepper.step()
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in steppers}
        for turn in range(rounds):
            # Forwards and backwards, so that none always follows the same one.
            for name in list(steppers) if turn % 2 == 0 else reversed(list(steppers)):
                times[name].append(steppers[name].step())
        flops = {name: stepper.flops() for name, stepper in steppers.items()}
    seconds = {name: np.array(pairs).T for name, pairs in times.items()}
    variants = {
        name: {
            "fingerprint": _fingerprint(configs[name]),
            "seconds": _quartiles(whole),
            "seconds_ratio": _quartiles(whole / seconds[baseline][0]),
            "region_seconds": float(np.median(regions)),
            "regions_share": float(regions.sum() / whole.sum()),
            "flops": flops[name],
        }
        for name, (whole, regions) in seconds.items()
    }
    about = {"machine": machine(), "threads": threads, "date": now(), "rounds": rounds, "flops_note": _FLOPS_NOTE}
    return {**about, "baseline": baseline, "variants": variants}


def cost_of(experiment: Experiment, names: Sequence[str], threads: int, again: bool = False) -> dict[str, Any]:
    """The costs of an experiment's variants, measured in a process of its own unless ``cost.json`` has them.

    Args:
        experiment: whose.
        names: variants besides the baseline.
        threads: of torch; costs measured with others are measured again.
        again: measure in any case.

    Raises:
        ConfigError: if the measurement fails.
    """
    names = list(dict.fromkeys([experiment.baseline, *names]))
    configs = {name: experiment.config(name, experiment.variants[name].seeds[0]) for name in names}
    known = cached_cost(experiment)
    if not again and known and known["threads"] == threads and set(names) <= known["variants"].keys():
        return known
    context = multiprocessing.get_context("spawn")
    arguments = (configs, experiment.baseline, threads, experiment.output / COST)
    with threads_in_environment(threads):
        process = context.Process(target=_measure_and_write, args=arguments)
        process.start()
        try:
            process.join()
        finally:
            process.terminate()
    if process.exitcode:
        raise ConfigError(f"the costs could not be measured: exit status {process.exitcode}, see the lines above")
    return read_json(experiment.output / COST)


def cached_cost(experiment: Experiment) -> dict[str, Any] | None:
    """What ``cost.json`` has of variants as they are configured now; None without the baseline."""
    known = read_json(experiment.output / COST)
    if known is None or known.get("baseline") != experiment.baseline:
        return None
    current = {n: _fingerprint(experiment.config(n, v.seeds[0])) for n, v in experiment.variants.items()}
    valid = {n: c for n, c in known["variants"].items() if current.get(n) == c["fingerprint"]}
    return {**known, "variants": valid} if experiment.baseline in valid else None


def _measure_and_write(configs: Mapping[str, Any], baseline: str, threads: int, path: Path) -> None:
    end_with_parent()
    register_own()
    write_json(path, measure(configs, baseline, threads))


def _fingerprint(cfg: Any) -> str:
    """A hash of a configuration without its OUTPUT_DIR: equal for runs that do the same."""
    text = json.dumps({k: v for k, v in flatten(cfg).items() if k != "OUTPUT_DIR"}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _quartiles(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"low": float(low), "median": float(median), "high": float(high)}
