"""Taking time side by side: functions take turns in one process, so that what disturbs one disturbs all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from tqdm import tqdm


def clock(device: str) -> float:
    """Seconds: on a GPU those that pass, on a CPU those that this process computes, whatever else the machine does.

    On a CPU it needs one thread: the seconds of several would hold what they wait for each other.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def turns(functions: Mapping[str, Callable], device: str, rounds: int, title: str) -> dict[str, list[float]]:
    """Seconds of each function in each round; a round before the first warms up."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for turn in tqdm(range(-1, rounds), title, leave=False):
        for name, function in functions.items():
            started = clock(device)
            function()
            if turn >= 0:
                found[name].append(clock(device) - started)
    return found
