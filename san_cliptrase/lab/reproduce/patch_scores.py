"""How well rows of patches agree with ground truth: numbers beside the images of figures 2 and 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

from san_cliptrase.builders import region_source_from_config
from san_cliptrase.data.views import build_test_mapper
from san_cliptrase.lab.reproduce.exhibit import Row
from san_cliptrase.lab.reproduce.patch_view import view_entry
from san_cliptrase.lab.reproduce.request import evaluated_records
from san_cliptrase.meta_arch.cliptrase import CLIPtrase
from san_cliptrase.patches.view import PatchView, patch_classes


def same_class_auc(values: np.ndarray, classes: np.ndarray) -> float:
    """How often a patch's row is higher at a patch of its own class than at one of another: mean area under the ROC.

    Args:
        values: (L, L), row i is patch i's; its own value is left out.
        classes: (L,), -1 at patches that take no part.

    Returns:
        In [0, 1], 0.5 for rows that know nothing, ties counting half; NaN if no patch has both kinds of others.
    """
    known = classes >= 0
    values, classes = values[np.ix_(known, known)], classes[known]
    count = len(classes)
    others = ~np.eye(count, dtype=bool)
    same = (classes[:, None] == classes)[others].reshape(count, -1)
    ranks = rankdata(values[others].reshape(count, -1), axis=1)
    positive = same.sum(1)
    negative = same.shape[1] - positive
    usable = (positive > 0) & (negative > 0)
    if not usable.any():
        return float("nan")
    wins = (ranks * same).sum(1) - positive * (positive + 1) / 2
    return float((wins[usable] / (positive * negative)[usable]).mean())


def purity(clusters: np.ndarray, classes: np.ndarray) -> float:
    """Share of the patches of a known class that are of their cluster's most frequent one; noise is never right.

    Args:
        clusters: (L,), -1 for noise.
        classes: (L,), -1 at patches that take no part.
    """
    known = classes >= 0
    right = 0
    for cluster in np.unique(clusters[known & (clusters >= 0)]):
        right += np.bincount(classes[known & (clusters == cluster)]).max()
    return right / max(1, int(known.sum()))


def mean_rows(
    cfg: Any, model: CLIPtrase, score: Callable[[PatchView, np.ndarray], Mapping[str, Mapping[str, float]]]
) -> list[Row]:
    """Rows of means over the images of DATASETS.TEST, a data set after the other.

    Args:
        cfg: configuration.
        model: in evaluation mode.
        score: a image and the classes of its patches -> name of a row -> metric -> value; NaN does not count.
    """
    rows, finder = [], region_source_from_config(cfg, model.clip, "cliptrase")
    for dataset in cfg.DATASETS.TEST:
        found: dict[str, dict[str, list[float]]] = {}
        mapper = build_test_mapper(cfg, dataset)
        for record in evaluated_records(cfg, dataset):
            view = view_entry(model, finder, "", mapper(record), cfg.INPUT.IGNORE_LABEL)
            for name, metrics in score(view, patch_classes(view.truth, view.grid, view.cell)).items():
                for metric, value in metrics.items():
                    found.setdefault(name, {}).setdefault(metric, []).append(value)
        rows += [
            Row(name, dataset, {metric: float(np.nanmean(values)) for metric, values in metrics.items()})
            for name, metrics in found.items()
        ]
    return rows
