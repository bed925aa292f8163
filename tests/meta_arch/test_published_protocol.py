"""The whole path of the protocol ``cliptrase``, from files to classes, against what the published script predicts."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.parity_cliptrase import build_parity_clip
from san_cliptrase.cliptrase import RegionFinder, TrainingFreeReader
from san_cliptrase.data.views import SquareMapper
from san_cliptrase.meta_arch import CLIPtrase
from san_cliptrase.meta_arch.inputs import BackgroundReader
from san_cliptrase.protocols import paper_rules
from tests.conftest import ROOT

DATASETS = {"ADE150": "ade150_val", "VOC20": "voc20_val", "VOC21": "voc21_val"}


@pytest.fixture(scope="module")
def reference():
    return np.load(ROOT / "tests" / "fixtures" / "cliptrase_parity.npz")


@pytest.fixture(scope="module")
def meta(reference):
    return json.loads(str(reference["meta"]))


@pytest.fixture(scope="module")
def clip(meta):
    return build_parity_clip(meta["clip_config"], meta["weights_seed"])


@pytest.mark.parametrize("kind", sorted(DATASETS))
@pytest.mark.parametrize("place", [0, 1])
def test_a_batch_of_files_gets_the_published_predictions(reference, meta, clip, tmp_path, kind, place):
    size, eps, min_samples = meta["settings"][place]
    rules, words = paper_rules(DATASETS[kind]), meta["background"] if kind == "VOC21" else ()
    classes = (*meta["labels"], "background") if words else tuple(meta["labels"])
    mapper, entries = SquareMapper(size, classes, 255, rules), []
    for index in meta["images"]:
        image = reference[f"image_{index}"]
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        Image.fromarray(np.zeros(image.shape[:2], np.uint8)).save(tmp_path / f"{index}_labels.png")
        record = {
            "file_name": str(tmp_path / f"{index}.png"),
            "sem_seg_file_name": str(tmp_path / f"{index}_labels.png"),
        }
        entries.append({**mapper(record), "background_words": tuple(words), "cls_prior": rules.cls_prior})
    model = CLIPtrase(
        clip=clip,
        reader=TrainingFreeReader(clip.visual, RegionFinder(clip.visual, eps, min_samples)),
        resolution=1.0,
        templates="imagenet",
        background=BackgroundReader("words", (), 0.5),
    ).eval()
    for index, labels in zip(meta["images"], model.label_maps(entries), strict=True):
        published = reference[f"pred/{kind}/{size}/{index}"]
        assert labels.shape == published.shape
        assert (labels.numpy() != published).mean() <= 0.001
