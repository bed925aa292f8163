"""Where the time goes, and how far from the floor it is: ``python benchmarks/where_time_goes.py [--rounds 5]``.

Shares of the parts of CLIPtrase (336 pixels) and of a training iteration of SAN (640 pixels), ViT-B/16 with random
weights; and the floor: the time that the counted multiplications would take at the rate of one large matrix product on
this machine, as a share of the time that was taken. Clock and threads as in ``benchmarks/speed.py``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed import TrainingFree
from benchmarks.timing import add_device, clock
from benchmarks.training_cost import Iteration, synthetic
from san_cliptrase.cliptrase import reader
from san_cliptrase.regions import pixels


class Parts:
    """Sums up the seconds of functions that it wraps in place."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, {}

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Times ``owner.attribute`` from now on."""
        function = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = clock(self.device)
            result = function(*args, **kwargs)
            self.seconds[name] = self.seconds.get(name, 0.0) + clock(self.device) - started
            return result

        setattr(owner, attribute, timed)


def matmul_rate(device: str) -> float:
    """FLOP/s of a large matrix product, in the precision that the device computes in here."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    side = 8192 if device == "cuda" else 1536
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(5):
        started = clock(device)
        left @ right
        times.append(clock(device) - started)
    return 2 * side**3 / min(times)


def report(title: str, run: Callable[[], Any], parts: Parts, rate: float, rounds: int) -> None:
    """Prints shares of the parts, the rest, and the floor's share."""
    run()  # words are embedded the first time
    with FlopCounterMode(display=False) as counter:
        run()
    totals, shares = [], []
    for _ in range(rounds):
        parts.seconds.clear()
        started = clock(parts.device)
        run()
        totals.append(clock(parts.device) - started)
        shares.append({name: seconds / totals[-1] for name, seconds in parts.seconds.items()})
    print(f"\n{title}: {counter.get_total_flops() / 1e9:.0f} GFLOP, {len(totals)} rounds")
    means = {name: statistics.median(share[name] for share in shares) for name in shares[0]}
    for name, share in {**means, "everything else": 1 - sum(means.values())}.items():
        print(f"  {name:<52}{share:6.1%}")
    floor = counter.get_total_flops() / rate / statistics.median(totals)
    print(f"  floor: its products at the rate of a large one are    {floor:6.1%} of the time")


def cliptrase(device: str, rate: float, rounds: int) -> None:
    """From an image to its label map."""
    pair, parts = TrainingFree(device, 336, 1), Parts(device)
    parts.watch(pair.clip.visual, "forward", "CLIP's blocks but the last")
    parts.watch(pair.reader, "dense", "last block under the attention rule")
    parts.watch(pair.reader.source, "maps", "self-correlation, clustering, region maps")
    for module, attribute, name in (
        (pixels, "smooth_maps", "smoothing of the region maps"),
        (pixels, "partition_pixels", "regions of the pixels"),
        (reader, "pixel_logits", "logits of the pixels"),
        (reader, "decide_pixels", "class of each pixel"),
        (reader, "majority_vote", "vote"),
    ):
        parts.watch(module, attribute, name)
    report("CLIPtrase, 336 px, batch 1", pair.segment, parts, rate, rounds)


def san(device: str, rate: float, rounds: int) -> None:
    """A training iteration from regions."""
    iteration, parts = Iteration("from regions", device), Parts(device)
    model, inputs = iteration.model, synthetic(1, iteration.vocabulary)
    parts.watch(model, "clip_features", "CLIP's blocks")
    parts.watch(model, "find_regions", "regions")
    parts.watch(model.network.adapter, "forward", "side adapter")
    parts.watch(model.network.decoder, "forward", "masks and attention bias")
    parts.watch(model, "classify", "recognition by [SOS] tokens")
    parts.watch(model.criterion, "forward", "matching and losses")
    parts.watch(iteration.scaler, "step", "step of the optimiser")

    def run() -> None:
        found = iteration(inputs)
        parts.seconds["backward"] = found["backward"]

    report("SAN from regions, training iteration, 640 px, batch 1", run, parts, rate, rounds)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    add_device(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rate = matmul_rate(args.device)
    cliptrase(args.device, rate, args.rounds)
    san(args.device, rate, args.rounds)


if __name__ == "__main__":
    main()
