"""Deviations of the training-free dense rules and of the refinements from numbers that their authors' code made."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.parity_cliptrase import build_parity_clip, preprocess
from benchmarks.parity_weights import Row
from san_cliptrase.clip.attention import attention_rule, softmax_attention
from san_cliptrase.clip.blocks import project_qkv
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.clip.cliper import Cliper, attention_sum, fuse
from san_cliptrase.clip.dense import neighbour_window, rcs_taps, read_densely
from san_cliptrase.clip.polar import polar_attention
from san_cliptrase.clip.scclip import QUANTILE, ScClip, Steps, outlier_factor
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.cliptrase.voting import feature_surgery
from san_cliptrase.refine.laplacian import laplacian
from san_cliptrase.refine.pamr import affinities, pamr
from san_cliptrase.structures import ClipFeatures

TOLERANCE = 1e-4
TOLERANCES = {"scclip/outliers": 0.0, "tlp/refined/many": 2e-3}
RELATIVE = ("scclip/lof",)
ONE_RULE = {
    "clearclip/features": "clearclip",
    "naclip/features": "naclip",
    "sclip/features": "sclip",
    "maskclip/features": "maskclip",
    "maskclip/features_reduced": "maskclip-residual-mlp",
    "maskclip/features_published": "maskclip",
    "rcs/features/resclip": "resclip",
    "rcs/features/clearclip": "clearclip+rcs",
    "rcs/features/sclip": "sclip+rcs",
    "pearl/features": "pearl",
}
"""Quantity -> the rule whose patches in the joint space it is."""
# Of the propagation: image, pixel rows and columns, patch rows and columns, words, side of the grid.
TLP_CASES = {
    "plain": (0, (16, 80), (0, 112), "text/labels", 80),
    "pooled": (1, (0, 80), (0, 112), "text/labels", 40),
    "many": (0, (32, 64), (32, 80), "tlp/text_many", 80),
}
PAMR_ROWS = {0: 112, 1: 80}
"""Image -> its first pixel rows that are refined."""
# Numbers with other positions or layers are named so, behind the quantity.
VARIANTS = ("_bilinear", "_published")


class BilinearPositions(ClipVisualEncoder):
    """Positions resampled as CLIP Surgery and CLIPer do: bilinearly, to the exact size."""

    def _positions(self, grid: tuple[int, int], canvas: tuple[int, int]) -> Tensor:
        maps = self.vision.positional_embedding[1:].T.unflatten(1, self.grid)[None]
        maps = F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)[0]
        return F.pad(maps, (0, canvas[1] - grid[1], 0, canvas[0] - grid[0]))


class RuleNumbers:
    """Our value of every quantity of the fixtures.

    Args:
        reference: The fixtures. Only images, text weights, and outliers that rounding decides are read.
    """

    def __init__(self, reference: Mapping[str, np.ndarray]) -> None:
        self.reference = reference
        meta = json.loads(str(reference["meta"]))
        self.config, self.seed = meta["clip_config"], meta["weights_seed"]
        self.clip = build_parity_clip(self.config, self.seed)
        self.visual = self.clip.visual
        self.features = functools.lru_cache(None)(self._features)
        self.steps = functools.lru_cache(None)(self._steps)
        self.cliper = functools.lru_cache(None)(self._cliper)

    def __call__(self, key: str) -> np.ndarray | None:
        """The value of a key, or None if this file knows no such quantity."""
        name, numbers = split_key(key)
        if name in ONE_RULE:
            return self.embedded(ONE_RULE[name], *numbers, name)[1:].numpy()
        method, _, quantity = name.partition("/")
        compute: Callable[..., Tensor | None] | None = getattr(self, f"_of_{method}", None)
        found = compute(quantity, *numbers) if compute else None
        return None if found is None else found.detach().numpy()

    def text(self, key: str = "text/labels") -> Tensor:
        """Text weights of the fixtures, (K, E)."""
        return torch.from_numpy(self.reference[key])

    def image(self, index: int, size: int = 112) -> Tensor:
        """(3, size, size) in [0, 1]."""
        return preprocess(self.reference[f"image_{index}"], size)

    def tower(self, name: str) -> ClipVisualEncoder:
        """The tower that a quantity was made with."""
        if name.endswith("_bilinear"):
            return BilinearPositions(self.clip.visual.vision)
        if name.endswith("_published"):
            return exact_gelu_tower(self.config, self.seed)
        return self.visual

    def _features(self, size: int, index: int, variant: str = "") -> ClipFeatures:
        tower = self.tower(variant)
        with torch.no_grad():
            return tower(self.clip.normalize(self.image(index, size))[None], range(tower.depth + 1))

    @torch.no_grad()
    def embedded(self, rule: str, size: int, index: int, name: str = "") -> Tensor:
        """All tokens (T, E) under a rule in the joint space, rows of length 1."""
        variant = next((suffix for suffix in VARIANTS if name.endswith(suffix)), "")
        features = self.features(size, index, variant)
        tower = self.tower(variant)
        return F.normalize(tower.head(read_densely(tower, features, attention_rule(rule))), dim=-1)[0]

    def cosines(self, rule: str, size: int, index: int, words: str = "text/labels") -> Tensor:
        """(K, h, w) of one image."""
        scores = self.embedded(rule, size, index)[1:] @ self.text(words).T
        return scores.T.unflatten(1, self.features(size, index).grid)

    def _of_tokens(self, _: str, size: int, index: int) -> Tensor:
        return self.features(size, index).tokens[self.visual.depth - 1][0]

    def _of_naclip(self, quantity: str, size: int, index: int = 0) -> Tensor | None:
        if quantity == "window":
            return neighbour_window(self.features(size, 0).grid)[:8]
        return self.cosines("naclip", size, index) if quantity == "logits" else None

    def _of_surgery(self, quantity: str, size: int, index: int) -> Tensor | None:
        tokens = self.embedded("clip_surgery", size, index, quantity)
        if quantity.startswith("features"):
            return tokens
        logits = (tokens @ self.text().T)[None]
        scores = feature_surgery(logits, logits[:, :1])[0]
        if quantity.startswith("similarity"):
            return scores
        if quantity != "map":
            return None
        patches = scores[1:]
        lowest, highest = patches.amin(0), patches.amax(0)
        maps = ((patches - lowest) / (highest - lowest)).T.unflatten(1, self.features(size, index).grid)
        shape = self.reference[f"surgery/map/{size}/{index}"].shape[1:]
        return F.interpolate(maps[None], size=shape, mode="bilinear", align_corners=False)[0]

    @torch.no_grad()
    def _steps(self, size: int, index: int) -> Steps:
        features = self.features(size, index)
        steps = ScClip().steps(self.visual, features)
        key = f"scclip/outliers/{size}/{index}"
        if key in self.reference and self._rounding_decides(steps.outliers, size, index):
            steps = ScClip().steps(self.visual, features, self._stored_outliers(size, index))
        return steps

    def _stored_outliers(self, size: int, index: int) -> Tensor:
        outliers = torch.zeros_like(self.features(size, index).valid)
        outliers[:, torch.from_numpy(self.reference[f"scclip/outliers/{size}/{index}"].astype(np.int64))] = True
        return outliers

    def _rounding_decides(self, outliers: Tensor, size: int, index: int) -> bool:
        """Whether ours differ from the stored ones, but only where a factor equals the quantile but for rounding."""
        factor = outlier_factor(self.features(size, index).tokens[self.visual.depth - 1][:, 1:])
        edge = (factor / factor.quantile(QUANTILE) - 1).abs() < TOLERANCE
        differing = outliers != self._stored_outliers(size, index)
        return bool(differing.any() and edge[differing].all())

    def _of_scclip(self, quantity: str, size: int, index: int) -> Tensor | None:
        features = self.features(size, index)
        if quantity == "lof":
            return outlier_factor(features.tokens[self.visual.depth - 1][:, 1:])[0]
        steps = self.steps(size, index)
        if quantity == "outliers":
            return steps.outliers[0].nonzero()[:, 0]
        if quantity == "features":
            return F.normalize(self.visual.head(steps.regathered + steps.levels), dim=-1)[0]
        return getattr(steps, quantity)[0] if quantity in Steps._fields else None

    @torch.no_grad()
    def _of_rcs(self, quantity: str, size: int, index: int) -> Tensor | None:
        if quantity != "attention":
            return None
        features = self.features(size, index)
        maps = [self._attention(tap, features) for tap in rcs_taps(self.visual.depth)]
        return torch.stack(maps).mean(0)[0]

    def _attention(self, tap: int, features: ClipFeatures) -> Tensor:
        """(B, M, T, T) of a block."""
        q, k, _ = project_qkv(self.visual.blocks[tap], features.tokens[tap])
        return softmax_attention(q, k, torch.eye(q.shape[2]).expand(*q.shape[:2], -1, -1))

    @torch.no_grad()
    def _of_pearl(self, quantity: str, size: int, index: int) -> Tensor | None:
        if quantity == "logits":
            return self.cosines("pearl", size, index)
        if quantity != "attention":
            return None
        last = self.visual.depth - 1
        q, k, _ = project_qkv(self.visual.blocks[last], self.features(size, index).tokens[last])
        return polar_attention(q, k, torch.eye(q.shape[2]).expand(*q.shape[:2], -1, -1))[0]

    @torch.no_grad()
    def _cliper(self, size: int, index: int, variant: str) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Embedded levels, fused attention of the sum, the first and the last step, and the scores of the words."""
        tower, features = self.tower(variant), self.features(size, index, variant)
        levels = Cliper().levels(tower, features)[0]
        total = attention_sum(
            [project_qkv(tower.blocks[tap], features.tokens[tap])[:2] for tap in range(tower.depth - 1)]
        )
        fused, maps = total, []
        for _ in range(tower.depth):
            fused, sharpened = fuse(fused)
            maps.append(sharpened)
        labels = self.text()
        words = torch.cat([labels, self.text("text/background"), F.normalize(labels.mean(0, keepdim=True), dim=-1)])
        scores = Cliper().scores(tower, features, words)[0, 1:, : len(labels)]
        embedded = [F.normalize(tower.head(level), dim=-1)[0, 1:] for level in levels]
        return embedded, [total[0], maps[0][0], maps[-1][0]], scores.T.unflatten(1, features.grid)

    def _of_cliper(self, quantity: str, size: int, index: int) -> Tensor | None:
        variant = "_bilinear" if quantity.endswith("_bilinear") else ""
        levels, maps, scores = self.cliper(size, index, variant)
        named = {"attention_sum": maps[0], "attention_first": maps[1], "attention_last": maps[2], "seg": scores}
        named |= {"features_last": levels[-1], "features_levels": torch.stack(levels)}
        return named.get(quantity.removesuffix("_bilinear"))

    def _of_pamr(self, quantity: str, index: int) -> Tensor | None:
        rows = PAMR_ROWS[index]
        image = self.image(index)[:, :rows]
        grid = self.cosines("naclip", 112, index)[:, : rows // 16]
        middle = rows // 2
        if quantity == "affinity_row":
            return affinities(image)[:, middle]
        corners = quantity == "refined_from_grid"
        size = tuple(image.shape[1:])
        logits = F.interpolate(grid[None], size=size, mode="bilinear", align_corners=corners)[0]
        steps = 1 if quantity == "refined_1" else 10
        refined = torch.cat(list(pamr([logits], image, steps=steps)), dim=1)
        return {"refined": refined, "refined_1": refined[:, middle], "refined_from_grid": refined[:, middle]}.get(
            quantity
        )

    def _of_tlp(self, quantity: str) -> Tensor | None:
        kind, _, case = quantity.partition("/")
        if case not in TLP_CASES:
            return None
        exact = torch.float64 if kind == "refined_double" else torch.float32
        index, rows, columns, words, grid = TLP_CASES[case]
        image = self.image(index)[:, slice(*rows), slice(*columns)]
        patch_rows, patch_columns = (slice(start // 16, -(-stop // 16)) for start, stop in (rows, columns))
        logits = self.cosines("pearl", 112, index, words)[:, patch_rows, patch_columns].to(exact)
        logits = F.interpolate(logits[None], size=image.shape[1:], mode="bilinear", align_corners=False)[0]
        text = self.text(words).to(exact)
        refined = torch.cat(list(laplacian([logits], image.to(exact), text_weights=text, grid=grid)), dim=1)
        return refined[: len(self.reference[f"tlp/{quantity}"])]


def exact_gelu_tower(config: Mapping[str, object], seed: int) -> ClipVisualEncoder:
    """MaskCLIP's tower: exact GELU, epsilon 1e-6 in the layer norms of all blocks, positions at the exact size."""
    clip: FrozenClip = build_parity_clip({**config, "quick_gelu": False}, seed)
    for module in clip.visual.blocks.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    return ClipVisualEncoder(clip.visual.vision, interpolate_offset=0.0)


def split_key(key: str) -> tuple[str, tuple[int, ...]]:
    """A key of the fixtures as the quantity's name and the size and image behind it."""
    parts = key.split("/")
    numbers: list[int] = []
    while parts[-1].isdigit():
        numbers.insert(0, int(parts.pop()))
    return "/".join(parts), tuple(numbers)


def quantities(reference: Iterable[str]) -> list[str]:
    """Keys of the fixtures that are quantities, not what they are made from."""
    return [key for key in reference if "/" in key and not key.startswith(("text/", "tlp/text"))]


def rules_deviations(reference: Mapping[str, np.ndarray]) -> list[Row]:
    """Compare every quantity of the fixtures.

    Args:
        reference: See ``RuleNumbers``.

    Returns:
        One row per quantity and size, the worst image of each. A quantity that is not known here deviates infinitely.
    """
    numbers = RuleNumbers(reference)
    worst: dict[str, list[float]] = {}
    tolerances: dict[str, float] = {}
    for key in quantities(reference):
        name, sizes = split_key(key)
        label = "/".join([name, *map(str, sizes[:1] if len(sizes) > 1 else sizes)])
        title = f"{label}{', relative' if name in RELATIVE else ''}"
        worst.setdefault(title, []).append(deviation(name, numbers(key), reference[key]))
        tolerances[title] = TOLERANCES.get(name, TOLERANCE)
    # np.max, because a NaN must not be lost.
    return [Row(title, float(np.max(values)), tolerances[title]) for title, values in worst.items()]


def deviation(name: str, ours: np.ndarray | None, theirs: np.ndarray) -> float:
    """The largest difference; the largest relative one of some quantities; infinite for another shape."""
    if ours is None or ours.shape != theirs.shape:
        return float(np.inf)
    difference = np.abs(ours.astype(np.float64) - theirs)
    return float((difference / np.abs(theirs)).max() if name in RELATIVE else difference.max())


def load_rules(folder: Path) -> Mapping[str, np.ndarray] | None:
    """The fixtures of the rules in a folder: its only .npz file that has an entry "meta"; None if there is none."""
    for file in sorted(folder.glob("*.npz")):
        reference = np.load(file)
        if "meta" in reference:
            return {key: reference[key] for key in reference}
    return None
