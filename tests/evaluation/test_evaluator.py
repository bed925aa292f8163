import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from san_cliptrase.data.datasets import register
from san_cliptrase.evaluation.evaluator import SemanticEvaluator
from san_cliptrase.evaluation.metrics import confusion_matrix, segmentation_metrics


@pytest.fixture
def dataset():
    register("three_classes", list, ["grass", "water", "lava"], unseen=["lava"])
    yield "three_classes"
    DatasetCatalog.remove("three_classes")
    MetadataCatalog.remove("three_classes")


def entry(truth, prediction):
    scores = torch.nn.functional.one_hot(torch.tensor(prediction), 3).permute(2, 0, 1).float()
    return {"sem_seg": torch.tensor(truth)}, {"sem_seg": scores}


BATCHES = [entry([[0, 0], [1, 255]], [[0, 1], [1, 2]]), entry([[1, 1]], [[1, 0]])]


def test_metrics_of_all_batches_together(dataset, tmp_path):
    evaluator = SemanticEvaluator(dataset, 255, tmp_path)
    for inputs, outputs in BATCHES:
        evaluator.process([inputs], [outputs])
    found = evaluator.evaluate()["sem_seg"]
    truth = torch.tensor([0, 0, 1, 1, 1])
    prediction = torch.tensor([0, 1, 1, 1, 0])
    expected = segmentation_metrics(
        confusion_matrix(prediction, truth, 3, 255).numpy(), {"seen": [0, 1], "unseen": [2]}
    )
    assert found == pytest.approx(expected, nan_ok=True)


def test_the_report_is_plain_json_with_null_for_what_has_no_value(dataset, tmp_path):
    evaluator = SemanticEvaluator(dataset, 255, tmp_path / "new")
    evaluator.process(*zip(*BATCHES, strict=True))
    metrics = evaluator.evaluate()["sem_seg"]
    path = tmp_path / "new" / "metrics_three_classes.json"
    assert not list((tmp_path / "new").glob("*.tmp"))
    report = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert report["dataset"] == "three_classes"
    assert report["metrics"]["mIoU unseen"] is None
    assert report["metrics"]["mIoU"] == pytest.approx(metrics["mIoU"])
    assert report["iou"] == pytest.approx({"grass": 100 / 3, "water": 50})


def test_reset_forgets(dataset):
    evaluator = SemanticEvaluator(dataset, 255, None)
    evaluator.process(*zip(*BATCHES, strict=True))
    evaluator.reset()
    assert evaluator.confusion.sum() == 0


def test_a_ground_truth_outside_the_classes_is_refused(dataset):
    inputs, outputs = entry([[0, 3]], [[0, 1]])
    with pytest.raises(ValueError, match="ground truth holds values from 0 to 3"):
        SemanticEvaluator(dataset, 255, None).process([inputs], [outputs])


def test_masks_are_scored_with_the_names_that_suit_them_best(dataset):
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 255, 2]])
    queries = torch.tensor([[7, 7, 3, 3], [7, 7, 3, 3]])  # query 3 is water, and takes lava's pixel with it
    evaluator = SemanticEvaluator(dataset, 255, None, masks=True)
    wrong = {"labels": torch.full_like(truth, 2), "queries": queries}
    evaluator.process([{"sem_seg": truth}], [wrong])
    resumed = SemanticEvaluator(dataset, 255, None, masks=True)
    resumed.load_state_dict(evaluator.state_dict())
    found = resumed.evaluate()["sem_seg"]
    assert found["mIoU of masks"] == pytest.approx((100 + 200 / 3 + 0) / 3)
    assert found["mIoU seen of masks"] == pytest.approx((100 + 200 / 3) / 2)
    assert found["mIoU seen"] == 0
