import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from san_cliptrase.lab.reproduce.figure2 import middles
from san_cliptrase.lab.reproduce.figure3 import matched
from san_cliptrase.lab.reproduce.patch_scores import purity, same_class_auc


def test_same_class_auc_is_the_mean_area_under_the_roc():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, (30, 30)).astype(float)  # with ties
    classes = rng.integers(-1, 3, 30)
    known = np.flatnonzero(classes >= 0)
    areas = []
    for patch in known:
        others = known[known != patch]
        areas.append(roc_auc_score(classes[others] == classes[patch], values[patch, others]))
    assert same_class_auc(values, classes) == pytest.approx(np.mean(areas))


def test_same_class_auc_of_rows_that_know_all_and_of_a_picture_of_one_class():
    classes = np.array([0, 0, 1, 1, 1, -1])
    right = (classes[:, None] == classes).astype(float)
    assert same_class_auc(right, classes) == 1
    assert same_class_auc(1 - right, classes) == 0
    assert math.isnan(same_class_auc(right, np.zeros(6, dtype=int)))


def test_purity_counts_noise_as_wrong():
    clusters = np.array([0, 0, 0, 1, 1, -1, -1])
    classes = np.array([5, 5, 2, 2, 2, 2, -1])
    assert purity(clusters, classes) == pytest.approx(4 / 6)
    assert purity(np.full(3, -1), np.zeros(3, dtype=int)) == 0


def test_middles_are_the_innermost_patches_of_the_largest_regions():
    grid = np.zeros((5, 7), dtype=int)
    grid[1:4, 3:6] = 1
    grid[4, 0] = -1
    assert middles(grid.ravel(), grid.shape) == [(1, 1), (2, 4)]
    assert middles(np.full(35, -1), grid.shape) == [(2, 3)]


def test_clusters_that_stay_keep_their_number():
    reference = np.array([0, 0, 0, 1, 1, -1, 2])
    labels = np.array([1, 1, -1, 0, 0, 2, -1])
    assert matched(labels, reference).tolist() == [0, 0, -1, 1, 1, 5, -1]
    assert matched(np.full(3, -1), np.full(3, -1)).tolist() == [-1, -1, -1]
