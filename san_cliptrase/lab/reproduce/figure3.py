"""Figure 3 of the supplement: clusters with and without the noise of global patches, and the segmentation."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

from san_cliptrase.colors import class_colors
from san_cliptrase.lab.reproduce.exhibit import Exhibit, write_figure
from san_cliptrase.lab.reproduce.patch_scores import mean_rows, purity
from san_cliptrase.lab.reproduce.patch_view import look
from san_cliptrase.lab.reproduce.request import Request
from san_cliptrase.lab.reproduce.scoring import about
from san_cliptrase.patches.view import AFTER, BEFORE, PatchView
from san_cliptrase.texts import chart_label, markdown

REGIONS = "regions (every patch)"
NOTHING = np.zeros((1, 3), dtype=np.uint8)
"""Black: noise, and pixels without a label."""


def figure3(request: Request) -> Exhibit:
    """Draws the clusters of a image, before and after global patches are suppressed, and what becomes of them.

    Args:
        request: FIGURES says which image.

    Raises:
        ConfigError: there is no such image.
        DataError, WeightsError: images or weights cannot be used.
    """
    cfg, model, view = look(request)
    path = request.output / "figure3.png"
    write_figure(draw_clusters(view), path)
    return Exhibit(
        name="figure3",
        title="Figure 3: clusters before and after global patches are suppressed",
        rows=mean_rows(cfg, model, _scores),
        bars=False,
        about=[f"image: {markdown(view.title)}", *about(request, cfg)],
        notes=[
            f'"{BEFORE}": DBSCAN on the rows of the correlation itself; "{AFTER}": on relu(w_ij - w_cls,j), as '
            f'CLIPtrase does; both with the same radius rule and core size. "{REGIONS}": every patch, noise included, '
            "goes to the cluster whose mean row is largest there, before maps are smoothed and pixels vote.",
            "Colours of clusters are not those of classes; a cluster that stays keeps its colour. Black is noise, and "
            "in the ground truth no label.",
            "noise, largest: percent of the patches that are noise, or in the largest cluster.",
            "purity: percent of patches that are of their cluster's most frequent class; noise is never right, and "
            "many small clusters make it high.",
        ],
        figures=[path],
    )


def _scores(view: PatchView, classes: np.ndarray) -> dict[str, dict[str, float]]:
    return {
        name: {
            "clusters": float(len(np.unique(found[found >= 0]))),
            "noise": 100 * float((found < 0).mean()),
            "largest": 100 * float(np.bincount(found[found >= 0], minlength=1).max() / len(found)),
            "purity": 100 * purity(found, classes),
        }
        for name, found in {**view.clusters, REGIONS: view.regions}.items()
    }


def draw_clusters(view: PatchView) -> Figure:
    """Image, clusters before and after, segmentation and ground truth side by side; classes below."""
    height, width = view.photo.shape[:2]
    maps = {"segmentation": view.labels} | ({} if view.truth is None else {"ground truth": view.truth})
    shown = np.unique(np.concatenate([labels[labels >= 0] for labels in maps.values()]))
    colors = class_colors(len(view.names))
    legend_rows = -(-len(shown) // 5)
    columns = 3 + len(maps)
    figure = Figure(figsize=(9.6, 0.75 + 0.24 * legend_rows + 9.6 / columns * height / width), layout="constrained")
    panels = iter(figure.subplots(1, columns))
    clusters_as_drawn = {BEFORE: matched(view.clusters[BEFORE], view.clusters[AFTER]), AFTER: view.clusters[AFTER]}
    free = np.delete(class_colors(len(view.names) + len(view.regions)), shown, axis=0)
    _show(next(panels), view.photo, "image")
    for name, clusters in clusters_as_drawn.items():
        axes, extent = next(panels), (0, view.cell[1] * view.grid[1], view.cell[0] * view.grid[0], 0)
        found = len(np.unique(clusters[clusters >= 0]))
        _show(axes, _colored(clusters.reshape(view.grid), free), f"clusters,\n{name}", extent)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_xlabel(f"{found} clusters, {np.mean(clusters < 0):.0%} noise (black)", fontsize=8)
    for name, labels in maps.items():
        _show(next(panels), _colored(labels, colors), name)
    swatch = figure.axes[0].scatter
    handles = [swatch([], [], s=60, marker="s", color=colors[i] / 255, label=chart_label(view.names[i])) for i in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def matched(labels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Cluster labels renumbered: those that share most patches with a cluster of ``reference`` get its number.

    Args:
        labels: (L,), -1 for noise.
        reference: Likewise.

    Returns:
        (L,), -1 for noise; clusters without a partner are numbered after all of the reference's.
    """
    shared = np.zeros((labels.max(initial=-1) + 1, reference.max(initial=-1) + 1), dtype=int)
    both = (labels >= 0) & (reference >= 0)
    np.add.at(shared, (labels[both], reference[both]), 1)
    numbers = reference.max(initial=-1) + 1 + np.arange(len(shared))
    for own, other in zip(*linear_sum_assignment(-shared), strict=True):
        if shared[own, other]:
            numbers[own] = other
    return np.where(labels < 0, -1, np.append(numbers, -1)[labels])


def _colored(labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """(..., 3) uint8; -1 is black."""
    return np.concatenate([colors, NOTHING])[labels]  # -1 is the last


def _show(axes: Axes, pixels: np.ndarray, title: str, extent: tuple[float, ...] | None = None) -> None:
    axes.imshow(pixels, interpolation="nearest", extent=extent)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
