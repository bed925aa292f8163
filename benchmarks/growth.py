"""How cost grows with image size, batch, classes and queries: ``python benchmarks/growth.py --output FOLDER``.

ViT-B/16 with random weights. Writes ``growth.png``, one panel each, and ``growth.json``: medians over the rounds,
relative to what is written at each panel's axis. Clock and threads as in ``benchmarks/speed.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed import TrainingFree
from benchmarks.timing import add_device, turns
from benchmarks.training_cost import Iteration, synthetic

SIZES, BATCHES, CLASSES, QUERIES = (224, 336, 448, 560), (1, 2, 4, 8), (21, 171, 847), (25, 50, 100, 200)
COLOURS = ("black", "#0072B2", "#D55E00")
Curves = dict[str, dict[int, float]]


def grow(
    values: tuple[int, ...], build: Callable[[int], Mapping[str, Callable]], device: str, rounds: int, title: str
) -> Curves:
    """Median seconds of the functions that ``build`` makes for each value."""
    curves: Curves = {}
    for value in tqdm(values, title):
        for name, seconds in turns(build(value), device, rounds, str(value)).items():
            curves.setdefault(name, {})[value] = statistics.median(seconds)
    return curves


def training_free(device: str, size: int, batch: int, classes: int) -> dict[str, Callable]:
    """CLIPtrase and what it is compared with."""
    pair = TrainingFree(device, size, batch, classes)
    return {"open_clip's image embedding": pair.embed, "CLIPtrase to labels": pair.segment}


def evaluations(device: str, queries: int) -> dict[str, Callable]:
    """Plain SAN, in its published structure and in ours, from one image to its label map."""
    functions = {}
    for title, name in (("published structure", "published structure"), ("ours", "plain SAN")):
        iteration = Iteration(name, device, ["MODEL.SAN.NUM_QUERIES", queries])
        inputs, model = synthetic(1, iteration.vocabulary), iteration.model.eval()
        functions[f"plain SAN, {title}"] = lambda model=model, inputs=inputs: model.label_maps(inputs)
    return functions


def draw(panels: Mapping[str, Mapping[str, object]], path: Path) -> None:
    """One panel for each way to grow."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, panel) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for colour, (name, curve) in zip(COLOURS, panel["curves"].items(), strict=False):
            axes.plot(list(curve), list(curve.values()), marker="o", color=colour, label=name)
        axes.set(title=title, xlabel=panel["x"], ylabel=f"cost, {panel['unit']} = 1", ylim=(0, None))
        axes.set_xticks(list(curve))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measures, draws and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    add_device(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device, rounds = args.device, args.rounds
    found = {
        "image size": grow(SIZES, lambda n: training_free(device, n, 1, 171), device, rounds, "image size"),
        "batch": grow(BATCHES, lambda n: training_free(device, 224, n, 171), device, rounds, "batch"),
        "classes": grow(CLASSES, lambda n: training_free(device, 336, 1, n), device, rounds, "classes"),
        "queries": grow(QUERIES, lambda n: evaluations(device, n), device, rounds, "queries"),
    }
    for curve in found["batch"].values():
        curve.update({batch: seconds / batch for batch, seconds in curve.items()})
    axes = {
        "image size": ("side of the image in pixels, 171 classes", "embedding at 224 px"),
        "batch": ("images of 224 pixels in a batch; cost of one image", "embedding of one image"),
        "classes": ("classes, one image of 336 pixels", "embedding"),
        "queries": ("queries of SAN, one image of 640 pixels", "published structure with 25"),
    }
    panels = {}
    for title, curves in found.items():
        unit = next(iter(next(iter(curves.values())).values()))
        scaled = {name: {n: seconds / unit for n, seconds in curve.items()} for name, curve in curves.items()}
        panels[title] = {"x": axes[title][0], "unit": axes[title][1], "curves": scaled}
    args.output.mkdir(parents=True, exist_ok=True)
    draw(panels, args.output / "growth.png")
    (args.output / "growth.json").write_text(
        json.dumps({"torch": torch.__version__, "panels": panels}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
