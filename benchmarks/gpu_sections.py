"""What ``benchmarks/gpu.py`` measures: a function a section, which yields rows."""

from __future__ import annotations

import copy
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import DBSCAN
from torch import Tensor, nn

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)

# isort: split
from detectron2.modeling import build_model

from benchmarks.gpu_report import Row
from benchmarks.parity_cliptrase import compare, intermediate_quantities
from benchmarks.parity_weights import draw_weights
from benchmarks.speed import CLASSES, EPS, MIN_SAMPLES, TrainingFree
from benchmarks.timing import turns
from benchmarks.training_cost import VARIANTS, Iteration, measure, synthetic, untrained, vocabulary
from san_cliptrase.clip.build import FrozenClip, build_clip
from san_cliptrase.cliptrase.reader import TrainingFreeReader
from san_cliptrase.regions.clustering import cluster_rows
from san_cliptrase.regions.correlation import suppress_global_patches
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.scenes import make_scene

PARITY_IMAGES = 8
LABELS_DIFFER = 2e-3
"""Share of patches or pixels whose label may differ: those at which rounding decides."""
SAN_DIFFERS = 1e-3
"""Largest difference of SAN's mask and class logits, relative to the largest of them."""
LOSS_DIFFERS = 0.02
"""Relative deviation of an iteration's loss from float32's, in the median of the iterations."""
GRADIENT_DIFFERS = {torch.float16: 0.05}
"""Norm of the first gradient's difference from float32's, relative to the norm of that. Bounded where training uses the
precision; in bfloat16 tokens, DBSCAN finds other regions."""


@dataclass(frozen=True)
class Setting:
    """Where to measure, and how large: at full size on a GPU, in miniature on a CPU.

    Attributes:
        device: cpu or cuda.
        clip: Of open_clip.
        size: Side of CLIPtrase's images in pixels.
        folder: Of SAN's configurations, below ``configs``.
        side: Side of SAN's images in pixels.
        towers: Of the parity checks: CLIP, weights, side of CLIPtrase's images, and folder and side of SAN's.
        batches: Images of a training iteration.
        free_batches: Images of a training-free batch; the first is one.
        rounds: Turns that count.
        iterations: Of training in each precision.
    """

    device: str
    clip: str = "scenes_vit"
    size: int = 96
    folder: str = "demo"
    side: int = 64
    towers: tuple[tuple[str, str, int, str, int], ...] = (("scenes_vit", "scenes", 96, "demo", 64),)
    batches: tuple[int, ...] = (2,)
    free_batches: tuple[int, ...] = (1, 2)
    rounds: int = 2
    iterations: int = 2

    @classmethod
    def of(cls, device: str | None) -> Setting:
        """Of a device; None: the GPU if there is one."""
        if (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cpu":
            torch.set_num_threads(1)
            return cls("cpu")
        towers = (("scenes_vit", "scenes", 192, "demo", 192), ("ViT-B-16", "", 336, "", 640))
        return cls("cuda", "ViT-B-16", 336, "", 640, towers, (4, 16), (1, 8, 32), rounds=31, iterations=10)

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device == "cuda"


def describe_machine(setting: Setting) -> str:
    """Device and versions."""
    if not setting.on_gpu:
        return f"A miniature on one thread of a CPU, torch {torch.__version__}"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    name = f"{torch.cuda.get_device_name()} ({memory:.0f} GiB), {os.cpu_count()} CPU cores"
    return f"{name}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"


def parity(setting: Setting) -> Iterator[Row]:
    """The device against the CPU in float32: CLIPtrase's quantities, labels and predictions, and SAN's predictions."""
    for tower, weights, size, folder, side in setting.towers:
        clip = build_clip(tower, weights, interpolate_offset=0.1).eval()
        if not weights:
            draw_parameters(clip, seed=0)
        with tf32(False):
            yield from cliptrase_parity(setting, clip, tower, size)
            yield from clustering_parity(setting, clip, tower, size)
            for variant in ("plain SAN", "from regions"):
                yield from san_parity(setting, variant, folder, side)
        if setting.on_gpu:  # what an application gets that sets nothing
            for row in cliptrase_parity(setting, clip, tower, size):
                if row.name.startswith(("labels", "pred")):
                    yield replace(row, name=f"{row.name}, torch's defaults", at_most=None, note=tf32_defaults())


def cliptrase_parity(setting: Setting, clip: FrozenClip, tower: str, size: int) -> Iterator[Row]:
    """CLIPtrase from images to classes."""
    images = clip.normalize(scenes(PARITY_IMAGES, size))
    text = random_words(clip)

    def numbers(device: str) -> Iterator[tuple[str, np.ndarray]]:
        there = copy.deepcopy(clip).to(device)
        reader = TrainingFreeReader(there.visual, RegionFinder(there.visual, EPS, MIN_SAMPLES))
        features = there.visual(images.to(device), (*reader.taps, there.visual.depth))
        found = intermediate_quantities(there, reader.source, features)
        found["pred"] = torch.stack(reader.segment(features, text.to(device)))
        for name, values in found.items():
            yield f"{name}/{tower}, {size} px/0", values.cpu().numpy()

    with torch.no_grad():
        expected = dict(numbers("cpu"))
        regions = expected[f"labels/{tower}, {size} px/0"].max(1).mean() + 1
        for row in compare(numbers(setting.device), expected):
            name = row.name.removeprefix("CLIPtrase ").replace("/", ", ", 1)
            shares = name.startswith(("labels", "pred"))
            bound = LABELS_DIFFER if shares else row.tolerance
            note = f"{len(images)} images, {regions:.0f} clusters each" if shares else "absolute"
            yield Row("parity", name, (row.deviation,), at_most=bound, note=note)


@torch.no_grad()
def clustering_parity(setting: Setting, clip: FrozenClip, tower: str, size: int) -> Iterator[Row]:
    """DBSCAN's labels of the same rows: on the device, on the CPU, and scikit-learn's."""
    rows, valid = correlation_rows(clip, scenes(PARITY_IMAGES, size))
    there = cluster_rows(rows.to(setting.device), valid.to(setting.device), EPS, MIN_SAMPLES).cpu()
    here = cluster_rows(rows, valid, EPS, MIN_SAMPLES)
    sklearn = np.stack([DBSCAN(eps=EPS, min_samples=MIN_SAMPLES).fit_predict(image.numpy()) for image in rows])
    note = f"{len(rows)} images of {rows.shape[1]} patches"
    for title, other in (("the CPU's", here), ("scikit-learn's", torch.from_numpy(sklearn))):
        differ = (there != other).float().mean().item()
        name = f"DBSCAN of equal rows, {tower}, share unlike {title}"
        yield Row("parity", name, (differ,), at_most=LABELS_DIFFER, note=note)


def san_parity(setting: Setting, variant: str, folder: str, side: int) -> Iterator[Row]:
    """SAN from images to masks and their classes, and to the classes of pixels."""
    chosen = VARIANTS[variant]
    cfg = untrained(f"{folder}/{chosen.config}".lstrip("/"), "cpu", chosen.overrides)
    model = build_model(cfg).eval()
    draw_parameters(model, seed=1)
    inputs = synthetic(2, vocabulary(cfg), side)
    found = [san_outputs(copy.deepcopy(model).to(device), inputs) for device in ("cpu", setting.device)]
    title = f"{variant if variant == 'plain SAN' else 'SAN ' + variant}, {cfg.MODEL.CLIP.NAME}, {side} px"
    for name in ("mask logits", "class logits"):
        here, there = (outputs[name] for outputs in found)
        relative = ((there - here).abs().max() / here.abs().max()).item()
        yield Row("parity", f"{title}: {name}", (relative,), at_most=SAN_DIFFERS, note="relative to the largest")
    here, there = (outputs["classes"] for outputs in found)
    note = f"{len(inputs)} images, {len(here.unique())} classes"
    differ = (there != here).float().mean().item()
    yield Row("parity", f"{title}: classes, share that differs", (differ,), at_most=LABELS_DIFFER, note=note)


@torch.no_grad()
def san_outputs(model: nn.Module, inputs: list[dict]) -> dict[str, Tensor]:
    """The last block's mask logits, their class logits, and the class of each pixel, on the CPU."""
    found: dict[str, Tensor] = {}
    hooks = (
        model.network.register_forward_hook(lambda *call: found.update({"mask logits": call[-1][-1].mask_logits})),
        model.classifier.register_forward_hook(lambda *call: found.update({"class logits": call[-1]})),
    )
    found["classes"] = torch.stack(model.label_maps(inputs))
    for hook in hooks:
        hook.remove()
    return {name: tensor.cpu() for name, tensor in found.items()}


def precision(setting: Setting) -> Iterator[Row]:
    """Training under autocast against float32: losses of some iterations, the first gradient, cost."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for variant in ("plain SAN", "from regions"):
        runs = {dtype: Iteration(variant, setting.device, folder=setting.folder, precision=dtype) for dtype in dtypes}
        words, batch = runs[torch.float32].vocabulary, min(setting.batches)
        # The same random points in every precision.
        inputs = [{**entry, "draw_seed": index} for index, entry in enumerate(synthetic(batch, words, setting.side))]
        losses: dict[torch.dtype, list[float]] = {dtype: [] for dtype in dtypes}
        gradients: dict[torch.dtype, Tensor] = {}
        costs: dict[torch.dtype, list[dict[str, float]]] = {dtype: [] for dtype in dtypes}
        skipped = dict.fromkeys(dtypes, 0)
        with tf32(False):
            for _ in range(3 * setting.iterations):
                for dtype, run in runs.items():
                    scale = run.scaler.get_scale()
                    parts = run(inputs)
                    if run.scaler.get_scale() < scale:  # the step was left out: the next one begins at the same weights
                        skipped[dtype] += 1
                        continue
                    gradients.setdefault(dtype, gradient(run.model))
                    losses[dtype].append(parts["loss"])
                    costs[dtype].append(parts)
                if all(len(taken) >= setting.iterations for taken in losses.values()):
                    break
        expected = losses[torch.float32][: setting.iterations]
        for dtype in dtypes[1:]:
            title = f"{variant}, {str(dtype).removeprefix('torch.')} / float32"
            found = losses[dtype][: setting.iterations]
            worst = tuple(abs(loss - exact) / exact for loss, exact in zip(found, expected, strict=True))
            note = f"{len(found)} iterations, batch {batch}, float32's loss {expected[0]:.3f} to {expected[-1]:.3f}"
            if skipped[dtype]:
                note += f"; {skipped[dtype]} steps left out by the loss scaler"
            yield Row("precision", f"{title}: loss, relative deviation", worst, at_most=LOSS_DIFFERS, note=note)
            exact = gradients[torch.float32]
            off = ((gradients[dtype] - exact).norm() / exact.norm()).item()
            name, bound = f"{title}: first gradient, relative deviation", GRADIENT_DIFFERS.get(dtype)
            yield Row("precision", name, (off,), at_most=bound, note="norm of all parameters")
            row = cost_row("precision", f"{title}: time of an iteration", costs[dtype][1:], costs[torch.float32][1:])
            yield replace(row, note="float32 without TF32")


def training(setting: Setting) -> Iterator[Row]:
    """Cost of a training iteration: plain SAN, prototypes, from regions, and the published structure."""
    for batch in setting.batches:
        found = measure(batch, setting.device, setting.rounds, setting.folder, setting.side, warm=3)
        where = f"batch {batch}, {setting.side} px"
        for name, rounds in found.items():
            seconds = [1000 * parts["iteration"] for parts in rounds]
            shares = ", ".join(
                f"{part} {statistics.median(parts[part] / parts['iteration'] for parts in rounds):.0%}"
                for part in ("forward", "backward", "step")
            )
            yield Row("training", f"{name}, {where}: iteration", tuple(seconds), "ms", note=shares)
        for name in list(found)[1:]:
            yield cost_row("training", f"{name} / plain SAN, {where}: iteration", found[name], found["plain SAN"])
        regions = found["from regions"]
        share = tuple(parts["regions"] / parts["iteration"] for parts in regions)
        count = statistics.median(parts["regions_of_an_image"] for parts in regions)
        note = f"{count:.1f} regions an image"
        yield Row("training", f"from regions, {where}: share of finding regions", share, note=note)
        if setting.on_gpu:
            for name, rounds in found.items():
                peaks = tuple(parts["peak_gib"] for parts in rounds)
                yield Row("training", f"{name}, {where}: peak memory", peaks, "GiB", note="with weights and optimiser")


def training_free(setting: Setting) -> Iterator[Row]:
    """CLIPtrase from images to labels against open_clip's image embedding; batches against one image at a time."""
    for dtype in (torch.float32, torch.bfloat16):
        most = max(setting.free_batches)
        pair = TrainingFree(setting.device, setting.size, most, CLASSES, setting.clip, dtype)
        images, times = pair.images, {}
        title = f"{setting.size} px, {str(dtype).removeprefix('torch.')}"
        for batch in setting.free_batches:
            pair.images = images[:batch]
            times[batch] = turns(
                {"CLIPtrase": pair.segment, "CLIP": pair.embed}, setting.device, setting.rounds, f"batch {batch}"
            )
            where, note = f"{title}, batch {batch}", f"{pair.regions():.0f} regions an image"
            for name, seconds in times[batch].items():
                each = tuple(1000 * second / batch for second in seconds)
                yield Row("training-free", f"{name}, {where}: one image", each, "ms")
            ratios = divide(times[batch]["CLIPtrase"], times[batch]["CLIP"])
            yield Row("training-free", f"CLIPtrase to labels / encode_image, {where}", ratios, note=note)
            if setting.on_gpu:
                memory = tuple(peak_memory(function) for function in (pair.segment, pair.embed))
                for name, peak in zip(("CLIPtrase", "CLIP"), memory, strict=True):
                    yield Row("training-free", f"{name}, {where}: peak memory", (peak,), "GiB", note="beside weights")
        one = statistics.median(times[1]["CLIPtrase"])
        for batch in setting.free_batches[1:]:
            ratios = tuple(second / batch / one for second in times[batch]["CLIPtrase"])
            yield Row("training-free", f"CLIPtrase, {title}: an image of batch {batch} / of batch 1", ratios)


def evaluation(setting: Setting) -> Iterator[Row]:
    """SAN's label maps of a batch against one by one."""
    batch = setting.free_batches[1]
    for variant in ("plain SAN", "from regions"):
        iteration = Iteration(variant, setting.device, folder=setting.folder)
        inputs, model = synthetic(batch, iteration.vocabulary, setting.side), iteration.model.eval()
        ways = {
            "together": lambda model=model, inputs=inputs: model.label_maps(inputs),
            "one by one": lambda model=model, inputs=inputs: [model.label_maps([entry]) for entry in inputs],
        }
        seconds = turns(ways, setting.device, setting.rounds, variant)
        name = f"{variant}, {setting.side} px, evaluation of {batch} images: together / one by one"
        yield Row("evaluation", name, divide(seconds["together"], seconds["one by one"]))


@torch.no_grad()
def clustering(setting: Setting) -> Iterator[Row]:
    """DBSCAN on the device against scikit-learn's on the CPU, and its memory."""
    clip = build_clip(setting.clip, "").eval()
    for side in (setting.size, 2 * setting.size):
        for batch in setting.free_batches[:2]:
            rows, valid = (t.to(setting.device) for t in correlation_rows(clip, scenes(batch, side)))

            def ours(rows: Tensor = rows, valid: Tensor = valid) -> Tensor:
                return cluster_rows(rows, valid, EPS, MIN_SAMPLES)

            def sklearn(rows: Tensor = rows) -> list[np.ndarray]:
                return [DBSCAN(eps=EPS, min_samples=MIN_SAMPLES).fit_predict(image) for image in rows.cpu().numpy()]

            seconds = turns({"ours": ours, "sklearn": sklearn}, setting.device, setting.rounds, f"{side} px")
            where = f"{rows.shape[1]} patches, batch {batch}"
            yield Row("DBSCAN", f"{where}: on the device", tuple(1000 * second for second in seconds["ours"]), "ms")
            ratios = divide(seconds["ours"], seconds["sklearn"])
            note = "the rows copied to the CPU, image by image"
            yield Row("DBSCAN", f"{where}: on the device / scikit-learn", ratios, note=note)
            if setting.on_gpu:
                yield Row("DBSCAN", f"{where}: peak memory", (1024 * peak_memory(ours),), "MiB", note="beside the rows")


SECTIONS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "parity": parity,
    "precision": precision,
    "training": training,
    "training-free": training_free,
    "evaluation": evaluation,
    "DBSCAN": clustering,
}


def scenes(count: int, size: int) -> Tensor:
    """Images (B, 3, H, W) in [0, 1]."""
    drawn = [torch.from_numpy(make_scene((76, index), size=size).image) for index in range(count)]
    return torch.stack(drawn).permute(0, 3, 1, 2) / 255


def random_words(clip: FrozenClip) -> Tensor:
    """Text weights (CLASSES, E) that no word has."""
    drawn = torch.randn(CLASSES, clip.visual.embed_dim, generator=torch.Generator().manual_seed(0))
    return F.normalize(drawn, dim=-1)


def correlation_rows(clip: FrozenClip, images: Tensor) -> tuple[Tensor, Tensor]:
    """What DBSCAN clusters, (B, L, L), and which patches count, (B, L)."""
    features = clip.visual(clip.normalize(images), RegionFinder.taps)
    return suppress_global_patches(RegionFinder(clip.visual).correlate(features), features.valid), features.valid


@torch.no_grad()
def draw_parameters(model: nn.Module, seed: int) -> None:
    """Weights of the parity recipe: activations stay finite and distinct, which fresh weights do not see to."""
    parameters = dict(model.named_parameters())
    for name, value in draw_weights({name: p.shape for name, p in parameters.items()}, seed).items():
        parameters[name].copy_(value)


def gradient(model: nn.Module) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([p.grad.detach().float().flatten() for p in model.parameters() if p.grad is not None])


def divide(ours: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    """Ratios, round by round."""
    return tuple(a / b for a, b in zip(ours, other, strict=True))


def cost_row(section: str, name: str, ours: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> Row:
    """The time of an iteration over that of another, round by round."""
    count = min(len(ours), len(other))
    return Row(section, name, divide(*([parts["iteration"] for parts in rows[:count]] for rows in (ours, other))))


def peak_memory(function: Callable[[], Any]) -> float:
    """GiB of GPU memory that a function needs beside what is there already."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 products may be computed in TF32."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = allowed
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def tf32_defaults() -> str:
    """Where torch computes in TF32 unless it is told otherwise."""
    matrices, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return f"TF32 in matrix products: {matrices}, in convolutions: {convolutions}"
