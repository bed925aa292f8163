"""What the methods cost beside what they are built on: ``python benchmarks/speed.py [--rounds 7] [--json FILE]``.

Each row is a ratio of two computations that take turns in one process, on the GPU if there is one, else on a CPU; its
median over the rounds is printed with the least and the largest, beside the goal. Weights are random: ViT-B/16 costs
the same with trained ones, but for the number of regions, which is printed. Peak memory is measured in a process of its
own. On a CPU, seconds are those that the process computes, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)

# isort: split
import open_clip

from benchmarks.timing import add_device, turns
from benchmarks.training_cost import Iteration, synthetic
from san_cliptrase.clip.build import build_clip
from san_cliptrase.cliptrase import RegionFinder, TrainingFreeReader
from san_cliptrase.scenes import make_scene

CLASSES = 171
"""Words that pixels choose from: those of COCO-Stuff."""
EPS, MIN_SAMPLES = 0.3, 3
"""Under random weights these find about ten regions; how many trained weights give is not known here."""


class Row(NamedTuple):
    """One ratio: what is compared, its goal (at most), and its value in each round."""

    name: str
    goal: float
    ratios: list[float]

    def __str__(self) -> str:
        median = statistics.median(self.ratios)
        spread = f"[{min(self.ratios):.2f}, {max(self.ratios):.2f}]" if len(self.ratios) > 1 else ""
        met = "met" if median <= self.goal else "NOT met"
        return f"{self.name:<78} {median:5.2f} x {spread:<14} goal {self.goal:.2f}: {met}"


def compare(name: str, goal: float, ours: Callable, other: Callable, device: str, rounds: int) -> Row:
    """The cost of ``ours`` over that of ``other`` in each round."""
    seconds = turns({"other": other, "ours": ours}, device, rounds, name[:40])
    return Row(name, goal, [a / b for a, b in zip(seconds["ours"], seconds["other"], strict=True)])


class TrainingFree:
    """CLIPtrase beside open_clip's own image embedding by the same tower.

    Args:
        device: of torch.
        size: side of the pictures in pixels.
        batch: pictures.
        classes: words that pixels choose from.
        clip: of open_clip.
        dtype: of weights and pictures; None: bfloat16 on a GPU, float32 on a CPU.
    """

    def __init__(
        self,
        device: str,
        size: int,
        batch: int,
        classes: int = CLASSES,
        clip: str = "ViT-B-16",
        dtype: torch.dtype | None = None,
    ) -> None:
        torch.manual_seed(0)
        dtype = dtype or (torch.bfloat16 if device == "cuda" else torch.float32)
        self.clip = build_clip(clip, None).to(device, dtype).eval()
        self.plain = open_clip.create_model(clip, force_image_size=size).to(device, dtype).eval()
        self.reader = TrainingFreeReader(self.clip.visual, RegionFinder(self.clip.visual, EPS, MIN_SAMPLES))
        self.text = F.normalize(torch.randn(classes, self.clip.visual.embed_dim), dim=-1).to(device, dtype)
        pictures = [torch.from_numpy(make_scene((76, i), size=size).image).permute(2, 0, 1) for i in range(batch)]
        self.images = self.clip.normalize(torch.stack(pictures).to(device, dtype) / 255)

    @torch.inference_mode()
    def segment(self) -> list[Tensor]:
        """From images to label maps."""
        return self.reader.segment(self.clip.visual(self.images, self.reader.taps), self.text)

    @torch.inference_mode()
    def embed(self) -> Tensor:
        """From images to one embedding each."""
        return self.plain.encode_image(self.images)

    @torch.inference_mode()
    def regions(self) -> float:
        """How many an image has in the mean."""
        found = self.reader.source([], self.clip.visual(self.images, self.reader.taps))
        return found.valid.sum(1).float().mean().item()


def training_free(device: str, rounds: int) -> Iterator[Row]:
    """CLIPtrase, image to label map, against the embedding alone."""
    goal = 1.25
    for size, batch in ((224, 1), (224, 8), (336, 1), (336, 8)):
        pair = TrainingFree(device, size, batch)
        name = f"CLIPtrase to labels / encode_image, {size} px, batch {batch} ({pair.regions():.0f} regions)"
        yield compare(name, goal, pair.segment, pair.embed, device, rounds)


def training(device: str, rounds: int, batch: int) -> Iterator[Row]:
    """Iterations of training, and evaluations, of SAN at 640 pixels."""
    plain = Iteration("plain SAN", device)
    inputs = synthetic(batch, plain.vocabulary)

    def against(name: str, goal: float, ours: Iteration, other: Iteration) -> Row:
        return compare(name, goal, lambda: ours(inputs), lambda: other(inputs), device, rounds)

    yield against(
        f"SAN from regions / plain SAN, training, batch {batch}", 1.05, Iteration("from regions", device), plain
    )
    published = Iteration("published structure", device)
    yield against(f"plain SAN / its published structure, training, batch {batch}", 0.85, plain, published)
    models = [iteration.model.eval() for iteration in (plain, published)]
    ours, other = (lambda model=model: model.label_maps(inputs) for model in models)
    yield compare(f"plain SAN / its published structure, evaluation, batch {batch}", 0.85, ours, other, device, rounds)


def peak_memory(published: bool, device: str, batch: int) -> float:
    """Bytes that an iteration needs on top of model and pictures; to be called once in a process. A CPU needs Linux."""
    iteration = Iteration("published structure" if published else "plain SAN", device)
    inputs = synthetic(batch, iteration.vocabulary)
    iteration.model.clip.text(inputs[0]["vocabulary"], "none")  # once in a training
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        iteration(inputs)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    iteration(inputs)
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024.0 * int(lines[field].split()[0])


def memory(device: str, batch: int, pairs: int = 3) -> Row:
    """Peak memory of a training iteration against the published structure."""
    command = [sys.executable, __file__, "--device", device, "--batch", str(batch), "--peak"]
    # Freed tensors go back to the system at once, so that the peak is that of tensors in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}

    def measure(which: str) -> float:
        done = subprocess.run([*command, which], check=True, capture_output=True, text=True, env=environment)
        return float(done.stdout.split()[-1])

    ratios = [measure("ours") / measure("published") for _ in range(pairs)]
    return Row(f"plain SAN / its published structure, peak memory, batch {batch}", 0.8, ratios)


def main() -> None:
    """Measures, prints, and writes if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns that count")
    parser.add_argument("--batch", type=int, help="pictures of SAN's iterations (default: 8 on a GPU, 1 on a CPU)")
    add_device(parser)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", choices=("ours", "published"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    batch = args.batch or (8 if args.device == "cuda" else 1)
    if args.peak:
        print(peak_memory(args.peak == "published", args.device, batch))
        return
    where = torch.cuda.get_device_name() if args.device == "cuda" else "one thread of a CPU"
    print(
        f"ViT-B/16, random weights, {where}, torch {torch.__version__}; median of {args.rounds} rounds [least, largest]"
    )
    rows = []
    for row in chain(training_free(args.device, args.rounds), training(args.device, args.rounds, batch)):
        rows.append(row)
        print(row, flush=True)
    rows.append(memory(args.device, batch))
    print(rows[-1])
    if args.json:
        described = {"where": where, "torch": torch.__version__, "rows": [row._asdict() for row in rows]}
        args.json.write_text(json.dumps(described, indent=2) + "\n")


if __name__ == "__main__":
    main()
