"""pAcc, mAcc, fwIoU and mIoU from a confusion matrix; all in percent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def confusion_matrix(prediction: np.ndarray, truth: np.ndarray, num_classes: int, ignore_label: int) -> np.ndarray:
    """Counts pixels by class.

    Args:
        prediction: integers in 0 .. num_classes - 1, any shape.
        truth: integers of the same shape; pixels with ``ignore_label`` are left out.
        num_classes: K.
        ignore_label: outside 0 .. K - 1.

    Returns:
        (K, K) int64, rows: ground truth, columns: prediction.

    Raises:
        ValueError: if the shapes differ, or a value is no class.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, ground truth {truth.shape}")
    counted = truth != ignore_label
    prediction, truth = prediction[counted].astype(np.int64), truth[counted].astype(np.int64)
    for what, values in (("prediction", prediction), ("ground truth", truth)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f"{what} holds values from {values.min()} to {values.max()}, not 0 to {num_classes - 1}")
    return np.bincount(truth * num_classes + prediction, minlength=num_classes**2).reshape(num_classes, num_classes)


def segmentation_metrics(confusion: np.ndarray, groups: dict[str, Sequence[int]] | None = None) -> dict[str, float]:
    """The four metrics of the field, and mIoU over groups of classes.

    With rows g and columns p of the confusion matrix n: pAcc = sum_i n_ii / sum n, mAcc = mean_i n_ii / n_i.,
    IoU_i = n_ii / (n_i. + n_.i - n_ii), fwIoU = sum_i (n_i. / n) IoU_i, mIoU = mean_i IoU_i.
    Means go over the classes that occur in the ground truth, as in today's detectron2. detectron2 0.6 divided mIoU by
    the classes that occur in ground truth or prediction; that one is reported as "mIoU (detectron2 0.6)".

    Args:
        confusion: (K, K), rows: ground truth.
        groups: name -> class indices, each gives "mIoU NAME".

    Returns:
        Metric -> value in percent, NaN where no class of the kind occurs.
    """
    confusion = confusion.astype(np.float64)
    hit, truth, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    union = truth + predicted - hit
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


def class_iou(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """IoU of every class that occurs in the ground truth, in percent."""
    hit, truth = confusion.diagonal(), confusion.sum(1)
    union = truth + confusion.sum(0) - hit
    return {name: float(100 * hit[i] / union[i]) for i, name in enumerate(names) if truth[i]}


def _ratio(above: float, below: float) -> float:
    return float(100 * above / below) if below else float("nan")
