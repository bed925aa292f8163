"""Would it pay to keep CLIPtrase's regions on disk? ``python benchmarks/region_cache.py``.

Times finding the regions of a batch of demo scenes against reading them back from a file each, in turns, and tells how
well the regions of a picture, carried through a flip or a crop, agree with those found anew in the changed picture.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from san_cliptrase.clip.batches import resize_for_clip
from san_cliptrase.clip.build import FrozenClip, build_clip
from san_cliptrase.cliptrase import RegionFinder
from san_cliptrase.scenes import make_scene
from san_cliptrase.structures import ClipFeatures, Regions

BATCH, ROUNDS, PATCH = 16, 20, 16
"""Pictures, turns, and pixels of a scene that are one patch at half the resolution."""


def encode(clip: FrozenClip, finder: RegionFinder, pictures: Tensor) -> ClipFeatures:
    """What both ways start from: SAN needs CLIP's tokens in any case."""
    return clip.visual(clip.normalize(resize_for_clip(pictures, 0.5)), finder.taps)


def label_maps(regions: Regions) -> np.ndarray:
    """(B, h, w) index of each patch's region."""
    return regions.masks.argmax(1).byte().numpy()


def read_regions(paths: list[Path]) -> Regions:
    """Regions of saved label maps."""
    labels = torch.from_numpy(np.stack([np.load(path) for path in paths])).long()
    masks = torch.nn.functional.one_hot(labels).permute(0, 3, 1, 2).float()
    return Regions(masks, masks.flatten(2).any(2))


def agreement(kept: np.ndarray, found: np.ndarray) -> float:
    """Mean adjusted Rand index of the pictures: 1 for the same regions, 0 for what chance would give."""
    return float(np.mean([adjusted_rand_score(a.ravel(), b.ravel()) for a, b in zip(kept, found, strict=True)]))


@torch.no_grad()
def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    clip = build_clip("scenes_vit", "scenes")
    finder = RegionFinder(clip.visual, eps=0.8, min_samples=2)
    pictures = torch.from_numpy(np.stack([make_scene((2, i)).image for i in range(BATCH)])).permute(0, 3, 1, 2) / 255
    features = encode(clip, finder, pictures)
    kept = label_maps(finder([], features))
    times = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.npy" for i in range(BATCH)]
        for path, labels in zip(paths, kept, strict=True):
            np.save(path, labels)
        for _ in range(ROUNDS):
            started = time.perf_counter()
            finder([], features)
            between = time.perf_counter()
            read_regions(paths)
            times.append((between - started, time.perf_counter() - between))
    find, read = np.median(times, axis=0)
    print(
        f"regions of {BATCH} pictures: found in {1000 * find:.1f} ms, read in {1000 * read:.1f} ms (median of {ROUNDS})"
    )
    flipped = label_maps(finder([], encode(clip, finder, pictures.flip(3))))
    print(f"carried through a flip: adjusted Rand index {agreement(kept[:, :, ::-1], flipped):.2f}")
    cut = 3
    cropped = label_maps(finder([], encode(clip, finder, pictures[:, :, cut * PATCH :, cut * PATCH :])))
    print(f"carried through a crop of 9/16: adjusted Rand index {agreement(kept[:, cut:, cut:], cropped):.2f}")


if __name__ == "__main__":
    main()
