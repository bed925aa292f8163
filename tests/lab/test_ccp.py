import json

import numpy as np
import pytest
import torch
from PIL import Image

from san_cliptrase.data.datasets import class_names
from san_cliptrase.data.reductions import CCP_UNSEEN, IGNORED, REDUCTIONS
from san_cliptrase.errors import DataError
from san_cliptrase.lab import crops, place_prior
from san_cliptrase.lab.pretrain import photo_clip
from san_cliptrase.lab.pretrain.tagged import Tagged, Views, words_of_labels, words_of_tags
from tests.lab.ccp import COAT, HEELS, SHOES, write_ccp


@pytest.fixture
def root(tmp_path, monkeypatch):
    write_ccp(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_names_that_mean_nearly_the_same_are_one_class_and_unseen_ones_are_no_training_label():
    names, seen = class_names("ccp"), class_names("ccp_seen")
    classes, training = REDUCTIONS["ccp"].classes, REDUCTIONS["ccp_seen"].classes
    assert len(classes) == len(training) == 59
    assert names[classes[HEELS]] == names[classes[SHOES]] == "shoes"
    assert classes[0] == training[0] == IGNORED
    assert seen == [name for name in names if name not in CCP_UNSEEN]
    for old, new in zip(classes, training, strict=True):
        if old != IGNORED:
            assert (new == IGNORED) == (names[old] in CCP_UNSEEN)
            assert new == IGNORED or seen[new] == names[old]


def test_squares_are_the_same_for_the_same_seed_and_show_something(root):
    def cut(seed):
        crops.main(["ccp_train", "ccp_crops_train", "--count", "3", "--seed", str(seed)])
        folder = root / "ccp_crops" / "annotations" / "train"
        return {path.name: np.array(Image.open(path)) for path in sorted(folder.iterdir())}

    first, again, other = cut(0), cut(0), cut(1)
    assert len(first) == 6
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(first[name].shape != other[name].shape or (first[name] != other[name]).any() for name in first)
    for labels in first.values():
        assert labels.shape[0] == labels.shape[1] <= 64
        assert (labels > 0).mean() >= crops.LEAST_LABELLED


def test_on_whole_photographs_that_are_alike_the_place_tells_everything(root):
    # The cells of the grid and the edges of the miniature coincide, so that the prior is right everywhere.
    result = place_prior.score("ccp_train", "ccp_val")
    assert result["mIoU"] == pytest.approx(100)
    assert {name for name, iou in result["iou"].items() if iou == iou} >= {"hair", "coat", "pants", "shoes"}


def test_the_place_prior_does_not_know_what_training_does_not_label(root, capsys):
    for source, target in (("ccp_train", "ccp_crops_train"), ("ccp_val", "ccp_crops_open_val")):
        crops.main([source, target, "--count", "2"])
    place_prior.main(["--train", "ccp_crops_seen_train", "--dataset", "ccp_crops_open_val"])
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["mIoU"] < 100


def test_words_of_a_photograph_come_from_labels_or_tags(root):
    assert {photograph.names for photograph in words_of_labels("ccp_train")} == {("coat", "hair", "pants", "shoes")}
    assert [photograph.names for photograph in words_of_tags("ccp_train")] == [("coat", "shoes")]


def test_tags_that_are_no_table_are_refused(root):
    (root / "ccp" / "tags.json").write_text(json.dumps({"9": [COAT, 1000]}))
    with pytest.raises(DataError, match="tags.json is not a table"):
        list(words_of_tags("ccp_train"))


def test_views_lie_inside_their_photograph_and_share_its_words():
    # Outside the second, smaller photograph its tensor is 0, which no view may show.
    photographs = [
        Tagged(np.full((64, 48, 3), 200, np.uint8), ("coat",)),
        Tagged(np.full((32, 24, 3), 200, np.uint8), ("hat",)),
    ]
    views, rng = Views(photographs, ["coat", "hat"], torch.device("cpu")), np.random.default_rng(0)
    images = views.cut(rng, np.array([0, 1] * 20), 2, 16)
    assert images.shape == (40, 2, 3, 16, 16)
    assert images.min() > 200 * 0.69
    _, captions, truth = views.batch(rng, 12, 2, 16)
    assert torch.equal(truth, torch.tensor([[("hat" in a) == ("hat" in b) for b in captions] for a in captions]))


def test_the_clip_of_whole_photographs_words_is_trained_and_recorded(root, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_clip, "TESTED", 4)
    words = ["--words", "photo", "--tagged", "--views", "2"]
    photo_clip.main(
        ["--dataset", "ccp_train", "--held-out", "ccp_val", "--output", str(tmp_path / "clip"), *words]
        + ["--steps", "2", "--batch", "2", "--tokens", "256"]
    )
    record = json.loads((tmp_path / "clip" / "record.json").read_text())
    assert (record["words"], record["tagged"], record["photographs"], record["views"]) == ("photo", True, 3, 2)


def test_views_without_words_of_photographs_are_refused(capsys):
    with pytest.raises(SystemExit):
        photo_clip.main(["--dataset", "ccp_train", "--output", "x", "--views", "4"])
    assert "--tagged and --views need --words photo" in capsys.readouterr().err
