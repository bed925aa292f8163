import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score

from san_cliptrase.evaluation import metrics as counting
from san_cliptrase.evaluation.metrics import (
    class_iou,
    class_table,
    confused_pairs,
    match_clusters,
    script_metrics,
    segmentation_metrics,
)

K, IGNORE = 5, 255


def confusion_matrix(prediction, truth, *settings):
    return counting.confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(truth), *settings).numpy()


@pytest.fixture
def maps():
    rng = np.random.RandomState(0)
    truth = rng.randint(K, size=(40, 30))
    prediction = np.where(rng.rand(40, 30) < 0.6, truth, rng.randint(K, size=(40, 30)))
    return prediction, truth


def test_all_four_metrics_equal_those_of_scikit_learn(maps):
    prediction, truth = maps
    metrics = segmentation_metrics(confusion_matrix(prediction, truth, K, IGNORE))
    p, t = prediction.ravel(), truth.ravel()
    expected = {
        "pAcc": accuracy_score(t, p),
        "mAcc": balanced_accuracy_score(t, p),
        "fwIoU": jaccard_score(t, p, average="weighted"),
        "mIoU": jaccard_score(t, p, average="macro"),
        "mIoU (detectron2 0.6)": jaccard_score(t, p, average="macro"),
    }
    assert metrics == pytest.approx({name: 100 * value for name, value in expected.items()})


def test_ignored_pixels_change_nothing(maps):
    prediction, truth = maps
    mixed = np.where(np.arange(40)[:, None] < 20, truth, IGNORE)
    whole = confusion_matrix(prediction[:20], truth[:20], K, IGNORE)
    assert np.array_equal(confusion_matrix(prediction, mixed, K, IGNORE), whole)


def test_counts_of_images_add_up(maps):
    prediction, truth = maps
    halves = [confusion_matrix(prediction[half], truth[half], K, IGNORE) for half in (slice(20), slice(20, None))]
    assert np.array_equal(sum(halves), confusion_matrix(prediction, truth, K, IGNORE))


# Rows: ground truth. Class 1 is confused with 2, class 2 is predicted but never true, class 3 occurs nowhere.
BY_HAND = np.array([[6, 0, 0, 0], [1, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_the_two_definitions_of_miou_differ_by_the_classes_that_they_divide_by():
    metrics = segmentation_metrics(BY_HAND)
    total = 6 / 7 + 2 / 4  # IoU of the classes 0 and 1
    assert metrics["mIoU"] == pytest.approx(100 * total / 2)
    assert metrics["mIoU (detectron2 0.6)"] == pytest.approx(100 * total / 3)
    assert metrics["pAcc"] == pytest.approx(80)
    assert metrics["mAcc"] == pytest.approx(75)
    assert metrics["fwIoU"] == pytest.approx(100 * (0.6 * 6 / 7 + 0.4 * 0.5))


def test_groups_average_over_their_own_classes():
    metrics = segmentation_metrics(BY_HAND, {"seen": [0, 2], "unseen": [1], "absent": [3]})
    assert metrics["mIoU seen"] == pytest.approx(100 * 6 / 7)
    assert metrics["mIoU unseen"] == pytest.approx(50)
    assert np.isnan(metrics["mIoU absent"])


def test_iou_is_listed_for_classes_of_the_ground_truth():
    assert class_iou(BY_HAND, "abcd") == pytest.approx({"a": 600 / 7, "b": 50})


def test_the_script_counts_classes_that_do_not_occur_as_missed_in_macc_only():
    metrics = script_metrics(BY_HAND)
    assert metrics["mAcc (CLIPtrase script)"] == pytest.approx(100 * (6 / 6.01 + 2 / 4.01) / 4)
    assert metrics["mIoU (CLIPtrase script)"] == pytest.approx(100 * (6 / 7.01 + 2 / 4.01) / 2)
    assert metrics["fwIoU (CLIPtrase script)"] == pytest.approx(100 * (0.6 * 6 / 7.01 + 0.4 * 2 / 4.01))
    assert all(np.isnan(value) for value in script_metrics(0 * BY_HAND).values())


def test_the_table_of_classes():
    first, second, third, _ = class_table(BY_HAND, "abcd")
    assert first == {
        "class": "a", "IoU": pytest.approx(600 / 7), "recall": 100, "precision": pytest.approx(600 / 7),
        "pixels": 6, "predicted": 7,
    }  # fmt: skip
    assert (second["recall"], second["precision"]) == (50, 100)
    assert (third["IoU"], third["recall"], third["pixels"], third["predicted"]) == (0, None, 0, 1)


def test_confusions_are_listed_by_their_pixels():
    counts = np.array([[5, 4, 0], [9, 1, 0], [1, 0, 0]])
    found = confused_pairs(counts, ["a", "b", "c"], count=3)
    assert [(pair["truth"], pair["predicted"], pair["pixels"]) for pair in found] == [
        ("b", "a", 9),
        ("a", "b", 4),
        ("c", "a", 1),
    ]
    assert [pair["share"] for pair in found] == pytest.approx([90, 400 / 9, 100])
    assert confused_pairs(np.diag([3, 2]), "ab") == []


def test_clusters_get_the_names_under_which_most_pixels_are_right(maps):
    prediction, truth = maps
    renamed = np.array([3, 0, 4, 1, 2])[prediction]
    direct, matched = (confusion_matrix(p, truth, K, IGNORE) for p in (prediction, renamed))
    assert np.array_equal(match_clusters(matched), np.pad(direct, ((0, 0), (0, 1))))
    # Greedy would give cluster 0 to class 0 (9) and be left with 0; together the other match is right more often.
    assert match_clusters(np.array([[9, 8], [7, 0]])).tolist() == [[8, 9, 0], [0, 7, 0]]


def test_clusters_without_a_class_are_wrong_and_no_class_is_charged_for_them():
    matched = match_clusters(np.array([[6, 2, 0], [0, 1, 5]]))
    assert matched.tolist() == [[6, 0, 2], [0, 5, 1]]
    metrics = segmentation_metrics(matched)
    assert metrics["pAcc"] == pytest.approx(100 * 11 / 14)
    assert metrics["mIoU"] == pytest.approx(100 * (6 / 8 + 5 / 6) / 2)
    too_few = segmentation_metrics(match_clusters(np.array([[4], [1]])))
    assert too_few["mIoU"] == pytest.approx(100 * (4 / 5 + 0) / 2)


@pytest.mark.parametrize(("prediction", "truth"), [([0, 5], [0, 1]), ([0, 1], [0, 7]), ([0, 1], [-1, 0])])
def test_a_value_that_is_no_class_is_refused(prediction, truth):
    with pytest.raises(ValueError, match="not 0 to 4"):
        confusion_matrix(np.array(prediction), np.array(truth), K, IGNORE)


def test_maps_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\).*\(4,\)"):
        confusion_matrix(np.zeros(3, int), np.zeros(4, int), K, IGNORE)
