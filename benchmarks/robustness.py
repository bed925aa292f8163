"""Does one way to find DBSCAN's radius serve every tower? ``python benchmarks/robustness.py [TOWER ...]``.

Segments embedded scenes, training-free, with each tower at each grid: without regions, with the published radius
(``default_clustering``), and with ``core_radius`` at several shares of cores. Towers are ``scenes_vit`` and folders
that ``python -m san_cliptrase.lab.pretrain.scenes_clip --output DIR`` wrote, of four blocks and more. Also what the
published code does to ViT-L/14, whose middle block it takes for the last. ``--disturb`` changes what the towers
correlate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

# Run as a file, Python knows only the folder of this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from san_cliptrase.clip.attention import ATTENTION_RULES
from san_cliptrase.clip.blocks import project_qkv
from san_cliptrase.clip.build import FrozenClip, build_clip
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.cliptrase import RegionFinder, TrainingFreeReader
from san_cliptrase.cliptrase.voting import resize_labels
from san_cliptrase.evaluation.metrics import confusion_matrix, segmentation_metrics
from san_cliptrase.regions.clustering import CORE_SHARE, core_radius, default_clustering
from san_cliptrase.scenes import CLASS_NAMES, make_scene
from san_cliptrase.scenes.write import SPLITS
from san_cliptrase.structures import ClipFeatures

BATCH = 10
Radius = Callable[[Tensor, Tensor, int], "float | Tensor"]
"""(rows, valid, min_samples) -> radius."""

DISTURBANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda correlation: correlation,
    # All tokens share most of what they are: every cosine is near 1.
    "alike": lambda correlation: 0.2 * correlation + 0.8,
    # Most heads tell any two tokens apart: every cosine but a token's with itself is near 0.
    "apart": lambda correlation: 0.2 * correlation + 0.8 * torch.eye(correlation.shape[1]),
    "outliers": lambda correlation: correlation,  # changes the tokens, see add_outliers
}


class TrialFinder(RegionFinder):
    """CLIPtrase's regions with a given way to find the radius, from a disturbed correlation."""

    def __init__(self, clip: FrozenClip, radius: Radius, disturb: str = "none") -> None:
        super().__init__(clip.visual)
        self.radius, self.disturb = radius, DISTURBANCES[disturb]

    def correlate(self, features: ClipFeatures) -> Tensor:
        """The disturbed one."""
        return self.disturb(super().correlate(features))

    def parameters(self, rows: Tensor, features: ClipFeatures) -> tuple[float | Tensor, int]:
        """The given radius and the core size of the grid."""
        _, min_samples = default_clustering(features.grid)
        return self.radius(rows, features.valid, min_samples), min_samples


def trial(clip: FrozenClip, radius: Radius | None = None, disturb: str = "none") -> TrainingFreeReader:
    """CLIPtrase with a given way to find the radius; without one, no regions."""
    if radius is None:
        return TrainingFreeReader(clip.visual, classify="patches")
    return TrainingFreeReader(clip.visual, TrialFinder(clip, radius, disturb))


def behind_the_middle(visual: ClipVisualEncoder, features: ClipFeatures, layer: int) -> Tensor:
    """What enters a block if the one in the middle attends by CLIPtrase's rule.

    The published code does so to ViT-L/14, whose 24 blocks it counts from the first (``clip_utils/model.py``): block 12
    attends by the rule that is meant for the last, and the last as it was trained. Correlations are read from the
    second-to-last block, but only block 11 gives cosines: it gives ``q k^T / sqrt(d)``.
    """
    middle = visual.depth // 2 - 1
    changed = visual.run(features.tokens[middle], middle, middle + 1, ATTENTION_RULES["cliptrase"])
    return visual.run(changed, middle + 1, layer)


class MiddleBlockFinder(TrialFinder):
    """What the published code finds in ViT-L/14, see ``behind_the_middle``."""

    def correlate(self, features: ClipFeatures) -> Tensor:
        """Mean of the heads' attention logits in the second-to-last block."""
        index = self.visual.depth - 2
        q, k, _ = project_qkv(self.visual.blocks[index], behind_the_middle(self.visual, features, index))
        return (q @ k.transpose(2, 3)).mean(1) / q.shape[-1] ** 0.5


class MiddleBlockReader(TrainingFreeReader):
    """What the published code reads in ViT-L/14, see ``behind_the_middle``."""

    def __init__(self, clip: FrozenClip, radius: Radius | None = None) -> None:
        source = None if radius is None else MiddleBlockFinder(clip, radius)
        super().__init__(clip.visual, source, classify="patches" if radius is None else "vote")
        self.taps = (clip.visual.depth // 2 - 1,)

    def dense(self, features: ClipFeatures, classes: Tensor | None = None) -> Tensor:
        """What leaves the last block."""
        tokens = behind_the_middle(self.visual, features, self.visual.depth)
        return F.normalize(self.visual.head(tokens), dim=-1)


def add_outliers(clip: FrozenClip, features: ClipFeatures, share: float = 0.05, size: float = 5.0) -> ClipFeatures:
    """A few patches enter the second-to-last block far longer and all alike, like those of Darcet et al., 2024."""
    generator = torch.Generator().manual_seed(0)
    last = clip.visual.depth - 1
    tokens = features.tokens[last - 1]
    direction = F.normalize(torch.randn(tokens.shape[-1], generator=generator), dim=0)
    chosen = torch.rand(tokens.shape[:2], generator=generator) < share
    chosen[:, 0] = False
    tokens = tokens + chosen[..., None] * direction * size * tokens.norm(dim=-1).mean()
    return dataclasses.replace(features, tokens={last - 1: tokens, last: clip.visual.run(tokens, last - 1, last)})


def ways(clip: FrozenClip, grid: int, disturb: str, shares: list[float]) -> Iterator[tuple[str, TrainingFreeReader]]:
    """What is compared, by name."""
    published, _ = default_clustering((grid, grid))
    yield "no regions", trial(clip, None, disturb)
    yield "published radius", trial(clip, lambda *_: published, disturb)
    for share in shares:
        yield f"cores {share:g}", trial(clip, lambda *of, share=share: core_radius(*of, share), disturb)
    if disturb == "none":
        yield "middle block, no regions", MiddleBlockReader(clip)
        yield "middle block and radius", MiddleBlockReader(clip, lambda *_: published)


@torch.no_grad()
def measure(
    clip: FrozenClip, reader: TrainingFreeReader, pixels: Tensor, truth: Tensor, text: Tensor, outliers: bool
) -> dict:
    """Percent of mIoU, and of the pictures: mean number of regions, shares with one region and with none at all."""
    confusion, counts = torch.zeros(len(text), len(text), dtype=torch.int64), []
    for images, labels in zip(pixels.split(BATCH), truth.split(BATCH), strict=True):
        features = clip.visual(clip.normalize(images), (*reader.taps, -2) if outliers else reader.taps)
        features = add_outliers(clip, features) if outliers else features
        found = reader.segment(features, text)
        for own, label in zip(found, labels, strict=True):
            confusion += confusion_matrix(resize_labels(own, label.shape), label, len(text), 255)
        if reader.source is not None:
            counts.append(reader.source([], features).valid.sum(1))
    result = {"mIoU": segmentation_metrics(confusion.numpy())["mIoU"], "regions": None, "one": None, "none": None}
    if counts:
        found = torch.cat(counts).float()
        shares = {name: (found == count).float().mean().item() for name, count in (("one", 1), ("none", 0))}
        result.update(regions=found.mean().item(), **shares)
    return result


def scenes(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, H, W) in [0, 1] and class indices (N, H, W) of a split's first scenes."""
    seed, most = SPLITS[split]
    drawn = [make_scene((seed, i), unseen=split != "train") for i in range(min(count, most))]
    pictures = torch.from_numpy(np.stack([scene.image for scene in drawn])).permute(0, 3, 1, 2) / 255
    return pictures, torch.from_numpy(np.stack([scene.labels for scene in drawn]).astype(np.int64))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and writes if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("towers", nargs="*", default=["scenes_vit"], help="scenes_vit, or folders of pretraining")
    parser.add_argument("--grids", type=int, nargs="+", default=[12, 16, 24], help="patches along a side")
    parser.add_argument("--shares", type=float, nargs="+", default=[CORE_SHARE], help="shares of cores")
    parser.add_argument("--disturb", nargs="+", default=["none"], choices=sorted(DISTURBANCES))
    parser.add_argument("--split", default="tune", choices=sorted(SPLITS), help="settings are chosen on tune")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    pictures, truth = scenes(args.split, args.images)
    rows = []
    print("tower        grid  disturbed  way                           regions  one region  noise only   mIoU")
    for tower in args.towers:
        shipped = tower == "scenes_vit"
        clip = build_clip(tower if shipped else f"local-dir:{tower}", "scenes" if shipped else "", 0.1)
        text = clip.text(CLASS_NAMES, "imagenet")
        for grid in args.grids:
            side = grid * clip.visual.patch_size[0]
            pixels = F.interpolate(pictures, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
            for disturb in args.disturb:
                trials = list(ways(clip, grid, disturb, args.shares))
                for name, reader in tqdm(trials, f"{Path(tower).name}, {grid}, {disturb}", leave=False):
                    result = measure(clip, reader, pixels, truth, text, disturb == "outliers")
                    rows.append({"tower": Path(tower).name, "grid": grid, "disturb": disturb, "way": name, **result})
                    print(row_text(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"split": args.split, "images": len(truth), "rows": rows}, indent=2) + "\n")


def row_text(row: dict) -> str:
    """A line of the table."""
    regions = "      -           -           -"
    if row["one"] is not None:
        regions = f"{row['regions']:7.1f}  {row['one']:10.0%}  {row['none']:10.0%}"
    return f"{row['tower']:12} {row['grid']:4}  {row['disturb']:9}  {row['way']:28}  {regions}  {row['mIoU']:5.1f}"


if __name__ == "__main__":
    main()
