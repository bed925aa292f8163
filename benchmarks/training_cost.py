"""What a training iteration costs at full size: ``python benchmarks/training_cost.py [--batch 4 16] [--json FILE]``.

Plain SAN, SAN whose queries begin at prototypes, SAN from regions, the same refined and named, and plain SAN in its
published structure, with random weights, on synthetic pictures of 640 pixels; no data set and no download. They take
turns on the GPU if there is one, else on the CPU. Random weights cost what trained ones do, but for the number of
regions that clustering finds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)

# isort: split
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from benchmarks.published_structure import use_published_structure
from benchmarks.timing import add_device, clock
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.engine.solver import build_optimizer
from san_cliptrase.scenes import make_scene

ROOT = Path(__file__).resolve().parents[1]
SIDE = 640


class Variant(NamedTuple):
    """What an iteration computes: a configuration, further keys and values, and whether in the published structure."""

    config: str
    overrides: tuple[Any, ...] = ()
    published: bool = False


VARIANTS = {
    "plain SAN": Variant("san.yaml"),
    "prototypes": Variant("san.yaml", ("MODEL.SAN.QUERY_INIT.NAME", "prototypes")),
    "from regions": Variant("san.yaml", ("MODEL.SAN.QUERY_INIT.NAME", "tokens_prior")),
    "from named regions": Variant("san_cliptrase.yaml"),
    "published structure": Variant("san.yaml", published=True),
}


def untrained(config: str, device: str, overrides: Sequence[Any] = ()) -> Any:
    """A configuration below ``configs`` with random weights.

    Without templates and kept features: a training embeds words once, and pictures of real data sets do not return.
    """
    fixed = ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEMPLATES", "none", "MODEL.CLIP.CACHE_GB", 0.0]
    return load_config(ROOT / "configs" / config, [*fixed, "MODEL.DEVICE", device, *overrides])


def vocabulary(cfg: Any) -> tuple[str, ...]:
    """The words of a configuration's training set."""
    return tuple(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).stuff_classes)


class Iteration:
    """One variant's forward and backward pass and step of the optimiser, each timed.

    Args:
        name: of ``VARIANTS``.
        device: cpu or cuda.
        overrides: further keys of the configuration and their values.
        folder: of the configurations, below ``configs``.
        precision: dtype of autocast, float32 for none; None: as in training, float16 on a GPU and none on a CPU.
    """

    def __init__(
        self,
        name: str,
        device: str,
        overrides: Sequence[Any] = (),
        folder: str = "",
        precision: torch.dtype | None = None,
    ) -> None:
        variant = VARIANTS[name]
        cfg = untrained(f"{folder}/{variant.config}".lstrip("/"), device, [*variant.overrides, *overrides])
        torch.manual_seed(0)
        self.model = build_model(cfg).train()
        if variant.published:
            use_published_structure(self.model)
        self.vocabulary = vocabulary(cfg)
        self.optimizer = build_optimizer(cfg, self.model)
        self.device = cfg.MODEL.DEVICE.split(":")[0]
        trained_in = torch.float16 if cfg.SOLVER.AMP.ENABLED and self.device == "cuda" else torch.float32
        self.precision = precision or trained_in
        self.scaler = torch.amp.GradScaler(enabled=self.precision == torch.float16 and self.device == "cuda")
        self.regions = 0.0
        self.model.find_regions = self._timed(self.model.find_regions)

    def __call__(self, inputs: list[dict]) -> dict[str, float]:
        """Seconds of the parts; GiB of GPU memory at the peak, without other models (0 on a CPU); loss and regions."""
        on_gpu, others = self.device == "cuda", 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            others = torch.cuda.memory_allocated() - self._held()
        self.regions, times = 0.0, [self._clock()]
        amp = torch.autocast(self.device, self.precision, enabled=self.precision != torch.float32)
        with EventStorage() as storage, amp:
            total = sum(self.model(inputs).values())
        times.append(self._clock())
        self.optimizer.zero_grad()
        self.scaler.scale(total).backward()
        times.append(self._clock())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        times.append(self._clock())
        parts = [after - before for before, after in zip(times, times[1:], strict=False)]
        return {
            "iteration": times[-1] - times[0],
            **dict(zip(("forward", "backward", "step"), parts, strict=True)),
            "regions": self.regions,
            "peak_gib": (torch.cuda.max_memory_allocated() - others) / 2**30 if on_gpu else 0.0,
            "loss": total.item(),
            "regions_of_an_image": storage.latest().get("regions/mean_count", (0.0, 0))[0],
        }

    def _held(self) -> int:
        """Bytes of this variant's weights, gradients and state of the optimiser."""
        weights = list(chain(self.model.parameters(), self.model.buffers()))
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        states = chain.from_iterable(state.values() for state in self.optimizer.state.values())
        return sum(tensor.nbytes for tensor in chain(weights, gradients, states) if tensor.device.type == self.device)

    def _timed(self, function: Callable) -> Callable:
        def timed(*args: Any) -> Any:
            started = self._clock()
            found = function(*args)
            self.regions += self._clock() - started
            return found

        return timed

    def _clock(self) -> float:
        return clock(self.device)


def synthetic(batch: int, names: Sequence[str], side: int = SIDE) -> list[dict]:
    """Scenes whose materials stand for classes of a vocabulary."""
    inputs = []
    for index in range(batch):
        scene = make_scene((75, index), size=side, unseen=False)
        labels = torch.from_numpy(scene.labels.astype("int64"))
        instances = Instances((side, side))
        instances.gt_classes = labels.unique()
        instances.gt_masks = BitMasks(labels[None] == instances.gt_classes[:, None, None])
        image = torch.from_numpy(scene.image).permute(2, 0, 1)
        inputs.append({"image": image, "vocabulary": tuple(names), "instances": instances})
    return inputs


def measure(
    batch: int, device: str, rounds: int, folder: str = "", side: int = SIDE, warm: int = 1
) -> dict[str, list[dict[str, float]]]:
    """What each variant's iteration gives in each round; rounds before the first warm up."""
    iterations = {name: Iteration(name, device, folder=folder) for name in VARIANTS}
    inputs = synthetic(batch, iterations["plain SAN"].vocabulary, side)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for turn in tqdm(range(-warm, rounds), f"batch {batch}"):
        for name, run in iterations.items():
            parts = run(inputs)
            if turn >= 0:
                found[name].append(parts)
    return found


def medians(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians of the variants' parts, and of the ratio to plain SAN's iteration of the same round."""
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
    results = {batch: medians(measure(batch, args.device, args.rounds)) for batch in args.batch}
    for batch, table in results.items():
        for name, row in table.items():
            parts = "  ".join(f"{key} {row[key]:.3f}" for key in ("forward", "backward", "step", "regions"))
            share = row["regions"] / row["iteration"]
            print(
                f"batch {batch:2}  {name:19}  {row['iteration']:.3f} s, {row['ratio']:.2f} x  ({parts}; {share:.1%})"
                f"  {row['peak_gib']:.1f} GiB"
            )
    if args.json:
        args.json.write_text(json.dumps({"gpu": gpu, "torch": torch.__version__, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
