"""What a training iteration costs at full size: ``python benchmarks/training_cost.py [--batch 4 16] [--json FILE]``.

Plain SAN and SAN from regions, configs/san.yaml and configs/san_cliptrase.yaml, with random weights, on synthetic
pictures of 640 pixels; no data set and no download. They take turns on the GPU if there is one, else on the CPU. Random
weights cost what trained ones do, but for the number of regions that clustering finds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)

# isort: split
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from benchmarks.published_structure import use_published_structure
from benchmarks.timing import add_device, clock
from san_cliptrase.data.datasets import class_names
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.engine.solver import build_optimizer
from san_cliptrase.scenes import make_scene

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"plain SAN": "san.yaml", "from regions": "san_cliptrase.yaml"}
SIDE = 640


class Iteration:
    """One variant's forward and backward pass and step of the optimiser, each timed.

    Args:
        name: of ``CONFIGS``.
        device: cpu or cuda.
        published: compute in the structure in which SAN was published.
        overrides: further keys of the configuration and their values.
    """

    def __init__(self, name: str, device: str, published: bool = False, overrides: Sequence[Any] = ()) -> None:
        # Without templates: words are embedded once in a training, not in an iteration.
        untrained = ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEMPLATES", "none", "MODEL.DEVICE", device]
        cfg = load_config(ROOT / "configs" / CONFIGS[name], [*untrained, *overrides])
        torch.manual_seed(0)
        self.model = build_model(cfg).train()
        if published:
            use_published_structure(self.model)
        self.optimizer = build_optimizer(cfg, self.model)
        self.device = cfg.MODEL.DEVICE.split(":")[0]
        self.amp = cfg.SOLVER.AMP.ENABLED and self.device == "cuda"
        self.scaler = torch.amp.GradScaler(enabled=self.amp)
        self.regions = 0.0
        self.model.find_regions = self._timed(self.model.find_regions)

    def __call__(self, inputs: list[dict]) -> dict[str, float]:
        """Seconds of the parts, and GiB of GPU memory at the peak (0 on a CPU)."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.regions, times = 0.0, [self._clock()]
        with EventStorage(), torch.autocast(self.device, enabled=self.amp):
            total = sum(self.model(inputs).values())
        times.append(self._clock())
        self.optimizer.zero_grad()
        self.scaler.scale(total).backward()
        times.append(self._clock())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        times.append(self._clock())
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else 0.0
        parts = [after - before for before, after in zip(times, times[1:], strict=False)]
        named = dict(zip(("forward", "backward", "step"), parts, strict=True))
        return {"iteration": times[-1] - times[0], **named, "regions": self.regions, "peak_gib": peak}

    def _timed(self, function: Callable) -> Callable:
        def timed(*args: Any) -> Any:
            started = self._clock()
            found = function(*args)
            self.regions += self._clock() - started
            return found

        return timed

    def _clock(self) -> float:
        return clock(self.device)


def synthetic(batch: int) -> list[dict]:
    """Scenes of SIDE pixels whose materials stand for classes of COCO-Stuff."""
    inputs, names = [], tuple(class_names("coco_stuff171"))
    for index in range(batch):
        scene = make_scene((75, index), size=SIDE)
        labels = torch.from_numpy(scene.labels.astype("int64"))
        instances = Instances((SIDE, SIDE))
        instances.gt_classes = labels.unique()
        instances.gt_masks = BitMasks(labels[None] == instances.gt_classes[:, None, None])
        image = torch.from_numpy(scene.image).permute(2, 0, 1)
        inputs.append({"image": image, "vocabulary": names, "instances": instances})
    return inputs


def measure(batch: int, device: str, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of the variants' parts, and of the ratio to plain SAN's iteration of the same round."""
    inputs = synthetic(batch)
    iterations = {name: Iteration(name, device) for name in CONFIGS}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONFIGS}
    for turn in tqdm(range(-1, rounds), f"batch {batch}"):
        for name, run in iterations.items():
            parts = run(inputs)
            if turn >= 0:  # the first warms up
                found[name].append(parts)
    table = {}
    for name, rows in found.items():
        table[name] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        pairs = zip(rows, found["plain SAN"], strict=True)
        table[name]["ratio"] = statistics.median(row["iteration"] / plain["iteration"] for row, plain in pairs)
    return table


def main() -> None:
    """Measures, prints, and writes if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16], help="pictures of an iteration")
    add_device(parser)
    parser.add_argument("--rounds", type=int, default=5, help="iterations of each that count")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else ""
    print(f"ViT-B/16, {SIDE} pixels, {gpu or 'one thread of a CPU'}, torch {torch.__version__}")
    results = {batch: measure(batch, args.device, args.rounds) for batch in args.batch}
    for batch, table in results.items():
        for name, row in table.items():
            parts = "  ".join(f"{key} {row[key]:.3f}" for key in ("forward", "backward", "step", "regions"))
            share = row["regions"] / row["iteration"]
            print(
                f"batch {batch:2}  {name:12}  {row['iteration']:.3f} s, {row['ratio']:.2f} x  ({parts}; {share:.1%})"
                f"  {row['peak_gib']:.1f} GiB"
            )
    if args.json:
        args.json.write_text(json.dumps({"gpu": gpu, "torch": torch.__version__, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
