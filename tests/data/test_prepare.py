"""``san-cliptrase data prepare`` on each published layout."""

import multiprocessing
import os
import time

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from san_cliptrase.data.datasets import class_names
from san_cliptrase.data.mapper import record_labels
from tests.data import archives

IGNORE = 65535


def first_row(name):
    """Class names that the first picture's first row shows, as training and evaluation read it; "" without a label."""
    classes = MetadataCatalog.get(name).stuff_classes
    record = DatasetCatalog.get(name)[0]
    labels = record_labels(record, classes, IGNORE, Image.open(record["file_name"]).size[::-1])
    return ["" if label == IGNORE else classes[label] for label in labels[0]]


def test_coco_stuff_closes_the_gaps_and_serves_three_datasets(root, prepare):
    archives.coco(root)
    assert prepare("coco_stuff171_val") == 0
    assert first_row("coco_stuff171_val") == ["person", "stop sign", "toothbrush", "banner", "wood", ""]
    assert first_row("coco_object_val") == ["person", "stop sign", "toothbrush", *["background"] * 3]
    assert first_row("coco_stuff27_val") == ["person", "outdoor", "indoor", "textile", "solid", ""]


def test_coco_train_has_its_own_folder(root, prepare):
    archives.coco(root, "train2017")
    assert prepare("coco_object_train") == 0
    assert len(DatasetCatalog.get("coco_stuff171_train")) == 2


def test_ade150_loses_the_value_of_what_is_not_labelled(root, prepare):
    archives.ade150(root)
    assert prepare("ade150_val") == 0
    assert first_row("ade150_val")[:3] == ["", "wall", "flag"]


def test_voc_with_and_without_background_of_palette_files(root, prepare):
    archives.voc(root)
    assert prepare("voc20_val", "voc21_val", "voc21_train") == 0
    assert first_row("voc20_val")[:4] == ["", "aeroplane", "tv", ""]
    assert first_row("voc21_val")[:4] == ["background", "aeroplane", "tv", ""]
    assert [record["image_id"] for record in DatasetCatalog.get("voc21_val")] == list(archives.STEMS)
    assert [record["image_id"] for record in DatasetCatalog.get("voc21_train")] == ["2008_000009"]


def test_pascal_context_in_its_three_vocabularies(root, prepare):
    archives.pascal_context(root)
    assert prepare("pc59_val", "pc459_val", "pc459_train") == 0
    assert first_row("pc59_val") == ["", "", "aeroplane", "diningtable", "wood", ""]
    assert first_row("pc60_val") == ["background", "background", "aeroplane", "diningtable", "wood", "background"]
    assert first_row("pc459_val") == ["", "accordion", "aeroplane", "table", "wood", "wool"]
    assert len(DatasetCatalog.get("pc459_train")) == 1
    assert prepare("pc60_val") == 0  # the files of pc59_val, which are there


def test_the_full_ade20k_takes_its_classes_from_the_archives_index(root, prepare):
    names = class_names("ade847")
    objects = ["something rare", *reversed(names)]
    numbers = [objects.index(name) + 1 for name in (names[0], names[300], names[846])]
    archives.ade_full(root, objects, [0, 1, *numbers, 1], size=(600, 900))
    assert prepare("ade847_val") == 0
    record = DatasetCatalog.get("ade847_val")[0]
    assert record["sem_seg_file_name"].endswith("ADE_val_00000001.tif")
    assert Image.open(record["file_name"]).size == Image.open(record["sem_seg_file_name"]).size == (768, 512)
    assert set(np.unique(np.asarray(Image.open(record["sem_seg_file_name"])))) <= {65535, 0, 300, 846}


def test_small_pictures_of_the_full_ade20k_stay_as_they_are(root, prepare):
    names = class_names("ade847")
    archives.ade_full(root, names, [0, 1, 301, 847])
    assert prepare("ade847_val") == 0
    assert first_row("ade847_val")[:4] == ["", names[0], names[300], names[846]]
    source = root / "ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00000001.jpg"
    assert (root / "ADE20K_2021_17_01/images_detectron2/validation" / source.name).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("damage", ["other names", "code"])
def test_an_index_that_is_not_ade20ks_is_refused_and_runs_nothing(root, prepare, capsys, damage):
    archives.ade_full(root, ["wall"], [0, 1])
    index = root / "ADE20K_2021_17_01/index_ade20k.pkl"
    if damage == "code":
        index.write_bytes(b"cos\nmkdir\n(V%a\ntR." % str(root / "made by the pickle"))
    assert prepare("ade847_val") == 1
    assert str(index) in capsys.readouterr().err
    assert not (root / "made by the pickle").exists()


def test_cityscapes_is_read_as_it_is_published(root, prepare, capsys):
    archives.cityscapes(root)
    assert prepare("cityscapes19_val", "cityscapes27_val") == 0
    assert "nothing to convert" in capsys.readouterr().out
    assert first_row("cityscapes19_val")[:4] == ["", "road", "", "bicycle"]
    assert first_row("cityscapes27_val")[:4] == ["", "road", "parking", "bicycle"]


def test_the_archive_may_lie_elsewhere(root, prepare, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("downloads")
    archives.ade150(elsewhere)
    assert prepare("ade150_val", "--source", str(elsewhere / "ADEChallengeData2016")) == 0
    assert len(list((root / "ADEChallengeData2016/annotations_detectron2/validation").iterdir())) == 2


def test_a_missing_archive_is_named_with_what_it_must_hold(root, prepare, capsys):
    assert prepare("voc21_val") == 1
    error = capsys.readouterr().err
    assert str(root / "VOC2012") in error
    assert "SegmentationClass/*.png" in error
    assert "--source" in error


def test_an_unknown_name_is_met_with_close_ones(root, prepare, capsys):
    assert prepare("ade_150_val") == 1
    assert "ade150_val" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "cannot read the label file"),
        (lambda path: archives.write_png(path, archives.spread(0, 151)), "holds the value(s) 151"),
        (lambda path: archives.write_png(path, np.zeros((4, 6, 3), np.uint8)), "has shape (4, 6, 3)"),
    ],
)
def test_a_bad_file_is_named_and_the_others_are_converted(root, prepare, capsys, damage, message):
    archives.ade150(root)
    damage(root / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png")
    assert prepare("ade150_val") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "ADE_val_00000001.png" in error
    folder = root / "ADEChallengeData2016/annotations_detectron2/validation"
    assert [path.name for path in folder.iterdir()] == ["ADE_val_00000002.png"]
    archives.ade150(root)
    assert prepare("ade150_val") == 0
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("make", "name", "file"),
    [
        (archives.ade150, "ade150_val", "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"),
        (archives.pascal_context, "pc459_val", "VOC2010/trainval/{}.mat"),
        (archives.pascal_context, "pc459_val", "VOC2010/JPEGImages/{}.jpg"),
        (lambda root: archives.ade_full(root, ["wall"], [0, 1]), "ade847_val", "ADE20K_2021_17_01/index_ade20k.pkl"),
    ],
)
def test_pipes_in_archives_are_refused_and_not_waited_for(root, prepare, capsys, make, name, file):
    make(root)
    path = min(root.glob(file.format("*")))
    path.unlink()
    os.mkfifo(path)
    assert prepare(name) == 1
    assert f"{path}: it is not a regular file but a pipe" in capsys.readouterr().err


def test_finished_files_are_left_alone(root, prepare):
    archives.ade150(root)
    assert prepare("ade150_val") == 0
    done = root / "ADEChallengeData2016/annotations_detectron2/validation/ADE_val_00000001.png"
    done.write_bytes(b"finished")
    assert prepare("ade150_val") == 0
    assert done.read_bytes() == b"finished"


def test_a_killed_run_leaves_whole_files_only_and_is_taken_up(root, prepare):
    archives.coco(root, stems=[f"{number:012d}" for number in range(300)])
    target = root / "coco/stuffthingmaps_detectron2/val2017"
    process = multiprocessing.get_context("fork").Process(target=prepare, args=("coco_stuff171_val",))
    process.start()
    while process.is_alive() and not (target.is_dir() and any(target.iterdir())):
        time.sleep(0.001)
    process.kill()
    process.join()
    for path in target.glob("[!.]*"):
        assert Image.open(path).getpixel((5, 0)) == 255
    assert prepare("coco_stuff171_val") == 0
    assert len(DatasetCatalog.get("coco_stuff171_val")) == 300
    assert first_row("coco_stuff171_val")[0] == "person"


@pytest.mark.parametrize("stem", ["../../../escaped", "/tmp/escaped", "sub/escaped"])
def test_an_archive_that_names_files_elsewhere_writes_nothing_there(root, prepare, capsys, stem):
    archives.voc(root)
    (root / "VOC2012/ImageSets/Segmentation/val.txt").write_text(f"{stem}\n")
    before = set(root.parent.rglob("*"))
    assert prepare("voc21_val") == 1
    assert stem in capsys.readouterr().err
    assert set(root.parent.rglob("*")) == before
