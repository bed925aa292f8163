"""What training-free readings cost beside plain CLIP: ``python benchmarks/training_free.py [--clip NAME] [READING]``.

A reading is ``ATTENTION:CLASSIFY``, with ``@pamr`` or ``@laplacian`` behind it if it is refined. Plain CLIP is
open_clip's own image embedding of the same image by the same tower. They take turns in one process; the median ratio
over the rounds is printed with the least and the largest. Regions are CLIPtrase's; under random weights (ViT-B-16)
their radius is one that finds about ten.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import add_device, ratio, turns
from san_cliptrase.clip.build import FrozenClip, build_clip
from san_cliptrase.cliptrase import RegionFinder, TrainingFreeReader
from san_cliptrase.cliptrase.voting import decide_pixels
from san_cliptrase.refine import refinement
from san_cliptrase.scenes import make_scene
from san_cliptrase.scoring import Scoring

READINGS = (
    "cliptrase:vote",
    "naclip:patches",
    "resclip:patches",
    "pearl:patches",
    "scclip:patches",
    "cliper:patches",
    "clip_surgery:patches",
    "clip_surgery:cls",
    "clip_surgery:cls+patches",
    "clip_surgery:cls+patches@laplacian",
    "clip_surgery:cls+patches@pamr",
)
# Tower -> its weights, size in pixels, DBSCAN's radius and core size.
TOWERS = {"ViT-B-16": (None, 336, 0.3, 3), "scenes_vit": ("scenes", 96, 0.8, 2)}


class Reading:
    """One reading of one image, from pixels to labels.

    Args:
        clip: whose tower is read.
        name: see the top of this file.
        image: (3, H, W) uint8, at the size that CLIP sees.
        text: (K, E).
        eps: of DBSCAN.
        min_samples: of DBSCAN.
    """

    def __init__(self, clip: FrozenClip, name: str, image: Tensor, text: Tensor, eps: float, min_samples: int) -> None:
        reading, _, refine = name.partition("@")
        attention, _, classify = reading.partition(":")
        finder = RegionFinder(clip.visual, eps, min_samples)
        self.reader = TrainingFreeReader(clip.visual, finder, attention=attention, classify=classify)
        self.scoring = Scoring(refine=refinement(refine or "none"), patch=min(clip.visual.patch_size))
        self.clip, self.image, self.text = clip, image, text

    def __call__(self) -> Tensor:
        """The label map."""
        seen = self.clip.normalize(self.image[None] / 255)
        features = self.clip.visual(seen, self.reader.taps)
        if self.scoring.is_plain:
            return self.reader.segment(features, self.text)[0]
        scores = self.scoring.scores(self.image, lambda _: self.reader.scores(features, self.text))
        return decide_pixels(scores, tuple(scores.shape[-2:]))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readings", nargs="*", default=READINGS, metavar="READING")
    parser.add_argument("--clip", choices=[*TOWERS], default="ViT-B-16")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=7, help="turns that count")
    add_device(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pretrained, size, eps, min_samples = TOWERS[args.clip]
    clip = build_clip(args.clip, pretrained, interpolate_offset=0.1).to(args.device).eval()
    image = torch.from_numpy(make_scene((77, 0), size=size).image).permute(2, 0, 1).to(args.device)
    text = F.normalize(torch.randn(args.classes, clip.visual.embed_dim), dim=-1).to(args.device)
    plain = clip.visual.vision
    if args.clip == "ViT-B-16":
        plain = open_clip.create_model(args.clip, force_image_size=size).to(args.device).eval().visual
    functions = {name: Reading(clip, name, image, text, eps, min_samples) for name in args.readings}
    with torch.inference_mode():
        functions["plain"] = partial(plain, clip.normalize(image[None] / 255))
        seconds = turns(functions, args.device, args.rounds, args.clip)
    for name in args.readings:
        title = f"{name:<40} / encode_image, {args.clip}, {size} px"
        print(f"{title} {ratio(seconds[name], seconds['plain'])}", flush=True)


if __name__ == "__main__":
    main()
