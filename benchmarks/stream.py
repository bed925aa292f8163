"""How much faster is a stream than a loop of single calls? ``python benchmarks/stream.py [--images N] [--rounds N]``.

Segments photographs-sized files (embedded scenes, enlarged and saved as JPEG) with the shipped CLIP, training-free:
``for file in files: segmenter(file, words)`` against ``segmenter.stream(files, words)`` at several batch sizes. All
take turns, round after round; shown are milliseconds an image and the ratio to the loop of the same round, the median
with the least and the most. Wall-clock time: reading on threads while a batch is computed is what a stream is for.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from san_cliptrase import Segmenter
from san_cliptrase.scenes import CLASS_NAMES, make_scene

SIDES = (768, 1024)
"""(height, width) of the files in pixels."""


def write_images(folder: Path, count: int) -> list[Path]:
    """JPEG files as a camera's reduced photographs are."""
    files = [folder / f"{index:03}.jpg" for index in range(count)]
    for index, file in enumerate(files):
        image = Image.fromarray(make_scene((77, index)).image)
        image.resize(SIDES[::-1], Image.Resampling.BICUBIC).save(file, quality=92)
    return files


def measure(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each function in each round; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in tqdm(range(-1, rounds), "rounds", leave=False):
        for name, run in functions.items():
            started = time.perf_counter()
            run()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="files of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (default: %(default)s)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    segmenter = Segmenter.from_clip("scenes_vit", "scenes", eps=0.8, min_samples=2, device=args.device, text_cache="")

    with tempfile.TemporaryDirectory() as folder:
        files = write_images(Path(folder), args.images)

        def loop() -> None:
            for file in files:
                segmenter(file, CLASS_NAMES)

        functions: dict[str, Callable[[], object]] = {"loop": loop}
        for size in args.batch_sizes:
            functions[f"stream, batch {size}"] = lambda size=size: [
                None for _ in segmenter.stream(files, CLASS_NAMES, batch_size=size)
            ]
        seconds = measure(functions, args.rounds)
    print(f"{args.images} files of {SIDES[1]}x{SIDES[0]}, {args.rounds} rounds, {torch.get_num_threads()} threads")
    print(f"{'':<20}{'ms an image':>12}{'faster than the loop':>24}")
    for name, own in seconds.items():
        ratios = [base / mine for base, mine in zip(seconds["loop"], own, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:<20}{1000 * statistics.median(own) / args.images:>12.1f}{spread:>24}")


if __name__ == "__main__":
    main()
