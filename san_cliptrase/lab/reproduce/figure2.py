"""Figure 2 of the supplement: what chosen patches attend to in plain CLIP, and what they correlate with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import distance_transform_edt

from san_cliptrase.errors import ConfigError
from san_cliptrase.lab.reproduce.exhibit import Exhibit, write_figure
from san_cliptrase.lab.reproduce.patch_scores import mean_rows, same_class_auc
from san_cliptrase.lab.reproduce.patch_view import look
from san_cliptrase.lab.reproduce.request import Request
from san_cliptrase.lab.reproduce.scoring import about
from san_cliptrase.patches.page import write_page
from san_cliptrase.patches.view import COLOUR_MAP, PatchView, unit
from san_cliptrase.texts import markdown

Point = tuple[int, int]
REGIONS = 3
"""The middles of so many regions are looked from where no points are given."""
MARK = "#D40000"
AUC = "same-class AUC"


def figure2(request: Request) -> Exhibit:
    """Draws attention, correlation and suppressed correlation of a few patches, and writes the page to click on.

    Args:
        request: FIGURES says which image and which patches.

    Raises:
        ConfigError: there is no such image or patch.
        DataError, WeightsError: images or weights cannot be used.
    """
    cfg, model, view = look(request)
    points = checked_points(cfg.FIGURES.POINTS, view.grid) or middles(view.regions, view.grid)
    path, page = request.output / "figure2.png", request.output / "patches.html"
    write_figure(draw_points(view, points), path)
    write_page(view, points[0], page)
    return Exhibit(
        name="figure2",
        title="Figure 2: attention of plain CLIP, and the correlation that is recovered",
        rows=mean_rows(cfg, model, _scores),
        bars=False,
        about=[
            f"image: {markdown(view.title)}; patches (row, column) {', '.join(map(str, points))} of "
            f"{view.grid[0]}x{view.grid[1]}, counted from 0",
            *about(request, cfg),
        ],
        notes=[
            "Plain CLIP: attention softmax(q k^T / sqrt(d)), mean over heads, in fair shares (1: even). The other "
            "columns are CLIPtrase's correlation of the second-to-last block (equations 1 to 3), before and after that "
            "of [CLS] is subtracted.",
            f"{AUC}: how often a patch's row is higher at a patch of its own class than at one of another, in percent; "
            "50 knows nothing. Mean over all patches and images. The paper shows figures and gives no number.",
            "patches.html shows the same for any patch of the image: open it in a browser.",
        ],
        data={"points": points},
        figures=[path, page],
    )


def _scores(view: PatchView, classes: np.ndarray) -> dict[str, dict[str, float]]:
    return {name: {AUC: 100 * same_class_auc(values, classes)} for name, values in view.maps.items()}


def checked_points(points: Sequence[Sequence[int]], grid: tuple[int, int]) -> list[Point]:
    """FIGURES.POINTS as (row, column).

    Raises:
        ConfigError: one is no pair of whole numbers, or outside the grid.
    """
    checked = []
    for point in points:
        pair = isinstance(point, Sequence) and len(point) == 2 and all(type(place) is int for place in point)
        if not pair or not all(0 <= place < side for place, side in zip(point, grid, strict=True)):
            raise ConfigError(
                f"FIGURES.POINTS: {point!r} is not a patch (row, column) of the {grid[0]}x{grid[1]} patches, counted "
                "from 0; write FIGURES.POINTS '((2, 3), (8, 5))'"
            )
        checked.append((point[0], point[1]))
    return checked


def middles(regions: np.ndarray, grid: tuple[int, int]) -> list[Point]:
    """The innermost patches of the largest regions, largest first; the middle of the grid where there are none.

    Args:
        regions: (L,), -1 at patches without a region.
        grid: (h, w).
    """
    numbers, sizes = np.unique(regions[regions >= 0], return_counts=True)
    largest = numbers[np.argsort(-sizes, kind="stable")][:REGIONS]
    points = []
    for number in largest:
        depth = distance_transform_edt(np.pad((regions == number).reshape(grid), 1))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), grid)
        points.append((int(row), int(column)))
    return points or [(grid[0] // 2, grid[1] // 2)]


def draw_points(view: PatchView, points: Sequence[Point]) -> Figure:
    """A row for each point: the image with the point, then its row of every map; a colour bar below each column."""
    height, width = view.photo.shape[:2]
    columns, side = 1 + len(view.maps), 9.6 / (1 + len(view.maps)) * height / width
    figure = Figure(figsize=(9.6, 0.9 + len(points) * (side + 0.05)), layout="constrained")
    axes = figure.subplots(
        len(points) + 1, columns, squeeze=False, gridspec_kw={"height_ratios": [side] * len(points) + [0.09]}
    )
    extent = (-0.5, width / view.cell[1] - 0.5, height / view.cell[0] - 0.5, -0.5)
    for row, (y, x) in zip(axes, points, strict=False):
        row[0].imshow(view.photo, extent=extent)
        row[0].set_ylabel(f"patch ({y}, {x})", fontsize=9)
        for panel, values in zip(row[1:], view.maps.values(), strict=True):
            low, high = limits(values, points, view.grid)
            panel.imshow(values[y * view.grid[1] + x].reshape(view.grid), cmap=COLOUR_MAP, vmin=low, vmax=high)
            panel.set(xlim=extent[:2], ylim=extent[2:])
        for panel in row:
            panel.plot(x, y, "o", color=MARK, markeredgecolor="white", markersize=7)
            panel.set_xticks([])
            panel.set_yticks([])
    axes[0][0].set_title("image", fontsize=9)
    axes[-1][0].set_axis_off()
    for column, name in enumerate(view.maps, start=1):
        axes[0][column].set_title(name, fontsize=9)
        bar = figure.colorbar(axes[0][column].images[0], cax=axes[-1][column], orientation="horizontal", extend="max")
        bar.set_label(unit(name), fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def limits(values: np.ndarray, points: Sequence[Point], grid: tuple[int, int]) -> tuple[float, float]:
    """Range of colours of a column: a patch's own value, which is large and says nothing, is left out."""
    rows = [y * grid[1] + x for y, x in points]
    shown = values[rows].copy()
    shown[np.arange(len(rows)), rows] = np.nan
    return min(0.0, float(np.nanmin(shown))), max(float(np.nanmax(shown)), 1e-6)
