"""pAcc, mAcc, fwIoU and mIoU from a confusion matrix; all in percent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

SCRIPT_EPSILON = 0.01


def confusion_matrix(
    prediction: Tensor, truth: Tensor, num_classes: int, ignore_label: int, num_predicted: int = 0
) -> Tensor:
    """Counts pixels by class, on the device of the prediction.

    Args:
        prediction: integers in 0 .. num_predicted - 1, any shape.
        truth: integers of the same shape, on any device; pixels with ``ignore_label`` are left out.
        num_classes: K.
        ignore_label: outside 0 .. K - 1.
        num_predicted: P, where clusters are counted instead of classes; 0: K.

    Returns:
        (K, P) int64, rows: ground truth, columns: prediction.

    Raises:
        ValueError: if the shapes differ, or a value is no class.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, ground truth {tuple(truth.shape)}")
    columns = num_predicted or num_classes
    truth = truth.to(prediction.device)
    counted = truth != ignore_label
    prediction, truth = prediction[counted].long(), truth[counted].long()
    for what, values, count in (("prediction", prediction, columns), ("ground truth", truth, num_classes)):
        least, most = (int(value) for value in values.aminmax()) if values.numel() else (0, 0)
        if not 0 <= least <= most < count:
            raise ValueError(f"{what} holds values from {least} to {most}, not 0 to {count - 1}")
    return torch.bincount(truth * columns + prediction, minlength=num_classes * columns).unflatten(0, (-1, columns))


def segmentation_metrics(confusion: np.ndarray, groups: dict[str, Sequence[int]] | None = None) -> dict[str, float]:
    """The four metrics of the field, and mIoU over groups of classes.

    With rows g and columns p of the confusion matrix n: pAcc = sum_i n_ii / sum n, mAcc = mean_i n_ii / n_i.,
    IoU_i = n_ii / (n_i. + n_.i - n_ii), fwIoU = sum_i (n_i. / n) IoU_i, mIoU = mean_i IoU_i.
    Means go over the classes that occur in the ground truth, as in today's detectron2. detectron2 0.6 divided mIoU by
    the classes that occur in ground truth or prediction; that one is reported as "mIoU (detectron2 0.6)".

    Args:
        confusion: (K, K) or more columns, rows: ground truth. Columns from K on are predictions of no class.
        groups: name -> class indices, each gives "mIoU NAME".

    Returns:
        Metric -> value in percent, NaN where no class of the kind occurs.
    """
    hit, truth, union = _counts(confusion)
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=union > 0)
    recall = np.divide(hit, truth, out=np.zeros_like(hit), where=truth > 0)
    present = truth > 0
    result = {
        "pAcc": _ratio(hit.sum(), truth.sum()),
        "mAcc": _ratio(recall[present].sum(), present.sum()),
        "fwIoU": _ratio((truth * iou).sum(), truth.sum()),
        "mIoU": _ratio(iou[present].sum(), present.sum()),
        "mIoU (detectron2 0.6)": _ratio(iou[present].sum(), (union > 0).sum()),
    }
    for name, members in (groups or {}).items():
        inside = np.isin(np.arange(len(hit)), list(members)) & present
        result[f"mIoU {name}"] = _ratio(iou[inside].sum(), inside.sum())
    return result


def script_metrics(confusion: np.ndarray) -> dict[str, float]:
    """Three of the metrics as CLIPtrase's published script computes them (its ``configs/metric.py``).

    It adds e = 0.01 to the denominators instead of leaving out what cannot be divided: IoU_i = n_ii / (union_i + e),
    and mAcc = mean_i n_ii / (n_i. + e) over *all* classes, so that one without a pixel counts as 0. mIoU goes over the
    classes of the ground truth. e is far below a pixel's worth for IoU; mAcc falls by the share of absent classes.

    Args:
        confusion: see :func:`segmentation_metrics`.

    Returns:
        Metric -> value in percent, NaN where there is no ground truth at all.
    """
    hit, truth, union = _counts(confusion)
    iou, present = hit / (union + SCRIPT_EPSILON), truth > 0
    values = {
        "mAcc": _ratio((hit / (truth + SCRIPT_EPSILON)).sum(), len(hit) * present.any()),
        "fwIoU": _ratio((truth * iou)[present].sum(), truth.sum()),
        "mIoU": _ratio(iou[present].sum(), present.sum()),
    }
    return {f"{name} (CLIPtrase script)": value for name, value in values.items()}


def class_table(confusion: np.ndarray, names: Sequence[str]) -> list[dict]:
    """IoU, recall and precision of every class in percent, and its pixels; None where there is nothing to divide by."""
    hit, truth, union = _counts(confusion)
    predicted = union - truth + hit
    columns = {"IoU": union, "recall": truth, "precision": predicted}
    return [
        {"class": name}
        | {what: float(100 * hit[i] / below[i]) if below[i] else None for what, below in columns.items()}
        | {"pixels": int(truth[i]), "predicted": int(predicted[i])}
        for i, name in enumerate(names)
    ]


def confused_pairs(confusion: np.ndarray, names: Sequence[str], count: int = 20) -> list[dict]:
    """The most frequent confusions: which class was taken for which, for how many pixels and which share of its own."""
    wrong = confusion[:, : len(names)].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = ((int(cell) // wrong.shape[1], int(cell) % wrong.shape[1]) for cell in order)
    return [
        {
            "truth": names[row],
            "predicted": names[column],
            "pixels": int(wrong[row, column]),
            "share": float(100 * wrong[row, column] / confusion[row].sum()),
        }
        for row, column in pairs
        if wrong[row, column]
    ]


def match_clusters(confusion: np.ndarray) -> np.ndarray:
    """Names clusters: the one-to-one match of clusters to classes under which most pixels are right (Hungarian).

    ``max over injective m: sum_k n[k, m(k)]``, over the whole set, as PiCIE (Cho et al., 2021) and STEGO (Hamilton et
    al., 2022) evaluate. With fewer clusters than classes some classes are never predicted.

    Args:
        confusion: (K, P), rows: ground truth, columns: clusters.

    Returns:
        (K, K + 1): column k is the cluster of class k, the last one holds the clusters without a class.
    """
    classes, clusters = linear_sum_assignment(confusion, maximize=True)
    matched = np.zeros((len(confusion), len(confusion) + 1), confusion.dtype)
    matched[:, classes] = confusion[:, clusters]
    matched[:, -1] = confusion.sum(1) - matched[:, :-1].sum(1)
    return matched


def class_iou(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """IoU of every class that occurs in the ground truth, in percent."""
    hit, truth, union = _counts(confusion)
    return {name: float(100 * hit[i] / union[i]) for i, name in enumerate(names) if truth[i]}


def _counts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, pixels of the ground truth and of the union, of each class."""
    confusion = confusion.astype(np.float64)
    hit, truth = confusion.diagonal(), confusion.sum(1)
    return hit, truth, truth + confusion.sum(0)[: len(truth)] - hit


def _ratio(above: float, below: float) -> float:
    return float(100 * above / below) if below else float("nan")
