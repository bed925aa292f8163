"""Scores the most frequent class of each place, without looking at the image: what a model must beat to see anything.

``python -m san_cliptrase.lab.place_prior --train ccp_crops_train --dataset ccp_crops_open_val`` counts the classes of
the training labels in each cell of a grid over the image, and predicts the cell's most frequent class for the images of
the other dataset. Trained on a set without the labels of unseen classes, it never predicts these.
"""

from __future__ import annotations

import san_cliptrase.compat  # noqa: F401  (before anything of detectron2)
from san_cliptrase.errors import DataError

# isort: split
import argparse
import json
import logging
import sys
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from san_cliptrase.data.datasets import class_names  # noqa: F401  (registers the datasets)
from san_cliptrase.data.mapper import record_labels
from san_cliptrase.data.table import DATASETS
from san_cliptrase.evaluation.evaluator import SemanticEvaluator
from san_cliptrase.images import image_size

GRID = 24
"""Cells along each side."""


def _cells(size: int) -> np.ndarray:
    """(size,) cell of each row or column."""
    return np.arange(size) * GRID // size


def place_classes(train: str, names: Sequence[str]) -> np.ndarray:
    """(GRID, GRID) most frequent class of each cell, as an index into ``names``.

    Args:
        train: registered dataset whose labels are counted.
        names: classes of the dataset that is scored.

    Raises:
        FileNotFoundError, DataError: the dataset is missing, or a file cannot be used.
    """
    metadata = MetadataCatalog.get(train)
    own = tuple(metadata.stuff_classes)
    counts = np.zeros((GRID, GRID, len(own)), np.int64)
    for record in DatasetCatalog.get(train):
        labels = record_labels(record, own, metadata.ignore_label, image_size(record["file_name"]))
        rows, columns = (
            np.broadcast_to(x, labels.shape) for x in (_cells(labels.shape[0])[:, None], _cells(labels.shape[1])[None])
        )
        known = labels != metadata.ignore_label
        np.add.at(counts, (rows[known], columns[known], labels[known]), 1)
    if not counts.any():
        raise DataError(f"dataset {train!r} has no labelled pixel: no place has a class")
    # Where nothing is labelled, the most frequent class of all places.
    counts[~counts.any(2)] = counts.sum((0, 1))
    return np.array([names.index(name) for name in own])[counts.argmax(2)]


def score(train: str, dataset: str) -> dict[str, float]:
    """Metrics in percent of the place prior of ``train`` on ``dataset``."""
    metadata = MetadataCatalog.get(dataset)
    names = list(metadata.stuff_classes)
    prior = place_classes(train, names)
    evaluator = SemanticEvaluator(dataset, metadata.ignore_label, None)
    for record in DatasetCatalog.get(dataset):
        labels = record_labels(record, names, metadata.ignore_label, image_size(record["file_name"]))
        guess = prior[_cells(labels.shape[0])[:, None], _cells(labels.shape[1])]
        evaluator.process([{"sem_seg": torch.from_numpy(labels)}], [{"labels": torch.from_numpy(guess)}])
    evaluator.evaluate()
    return {**evaluator.report["metrics"], "iou": evaluator.report["iou"]}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", choices=sorted(DATASETS), metavar="NAME", required=True, help="labels to count")
    parser.add_argument("--dataset", choices=sorted(DATASETS), metavar="NAME", required=True, help="what is scored")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    try:
        result = score(args.train, args.dataset)
    except (DataError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
