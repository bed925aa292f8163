"""What refining scores costs beside plain CLIP: ``python benchmarks/refinement.py [--rounds 7] [--classes 21 60 150]``.

Plain CLIP is open_clip's own image embedding by ViT-B/16 of the same square image. They take turns in one process; the
median ratio over the rounds is printed with the least and the largest. Weights and scores are random: neither costs
anything else with trained ones.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import open_clip
import torch
from torch import Tensor

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import add_device, ratio, turns
from san_cliptrase.refine import REFINEMENTS
from san_cliptrase.scenes import make_scene


def refine(name: str, scores: Tensor, image: Tensor) -> None:
    """All strips of the refined scores."""
    for _ in REFINEMENTS[name]([scores], image, 16):
        pass


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns that count")
    parser.add_argument("--size", type=int, default=336, help="side of the image in pixels")
    parser.add_argument("--classes", type=int, nargs="+", default=[21, 60, 150], help="numbers of classes")
    add_device(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-16", force_image_size=args.size).to(args.device).eval()
    image = torch.from_numpy(make_scene((77, 0), size=args.size).image).permute(2, 0, 1).to(args.device) / 255
    names = [name for name, refine in REFINEMENTS.items() if refine]
    with torch.inference_mode():
        for count in args.classes:
            scores = torch.randn(count, args.size, args.size, device=args.device)
            functions = {name: partial(refine, name, scores, image) for name in names}
            functions["clip"] = partial(clip.encode_image, image[None])
            seconds = turns(functions, args.device, args.rounds, f"{count} classes")
            for name in names:
                title = f"{name}, {count} classes / encode_image, {args.size} px"
                print(f"{title:<52} {ratio(seconds[name], seconds['clip'])}", flush=True)


if __name__ == "__main__":
    main()
