"""``san-cliptrase data check`` and ``list``."""

import numpy as np
import pytest

from san_cliptrase.commands.main import main
from san_cliptrase.data.table import DATASETS
from tests.data import archives

ADE = "ADEChallengeData2016"


@pytest.fixture
def check(root, capsys, monkeypatch):
    """Function of a name and the published number of its files: exit status, and the lines of what is wrong."""

    def run(name, count=2, *arguments):
        monkeypatch.setitem(DATASETS, name, DATASETS[name].__class__(**{**vars(DATASETS[name]), "count": count}))
        capsys.readouterr()
        status = main(["data", "check", name, "--workers", "1", *arguments])
        return status, [line.strip() for line in capsys.readouterr().err.splitlines() if line.startswith("  ")]

    return run


@pytest.fixture
def ade(root, prepare):
    """The folder of a prepared ADE20K of two pictures."""
    archives.ade150(root)
    assert prepare("ade150_val") == 0
    return root / ADE


def test_a_whole_dataset_is_in_order(ade, check):
    assert check("ade150_val") == (0, [])


def test_the_published_number_of_pictures_is_known(ade, check):
    status, problems = check("ade150_val", 2000)
    assert status == 1
    assert problems == ["2 images with labels, where the published split has 2000"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("images/validation/ADE_val_00000001.jpg", cut, "cannot read the image"),
        ("images/validation/ADE_val_00000001.jpg", lambda p: archives.write_photo(p, (6, 4)), "is 4x6, its image 6x4"),
        ("annotations_detectron2/validation/ADE_val_00000001.png", cut, "cannot read the label file"),
        (
            "annotations_detectron2/validation/ADE_val_00000001.png",
            lambda path: archives.write_png(path, archives.spread(0, 150, 200)),
            "holds the value(s) 150, 200; the dataset has classes 0 to 149",
        ),
        (
            "annotations_detectron2/validation/ADE_val_00000001.png",
            lambda path: archives.write_png(path, np.zeros((4, 6, 3), np.uint8)),
            "expected one class index per pixel",
        ),
    ],
)
def test_a_bad_file_is_named_and_the_others_are_not(ade, check, file, damage, message):
    damage(ade / file)
    status, (problem,) = check("ade150_val")
    assert status == 1
    assert message in problem
    assert "ADE_val_00000001" in problem


def test_files_without_partner_are_named(ade, check):
    (ade / "images/validation/ADE_val_00000002.jpg").unlink()
    status, problems = check("ade150_val", 1)
    assert status == 1
    assert any(line.startswith("ADE_val_00000002: there is an image or a label file") for line in problems)


def test_16_bit_labels_that_were_written_with_8_are_seen(root, prepare, check):
    archives.pascal_context(root)
    assert prepare("pc459_val") == 0
    assert check("pc459_val") == (0, [])
    for path in (root / "pcontext_full/val/label").iterdir():
        archives.write_png(path, archives.spread(255, 0, 1))
    status, problems = check("pc459_val")
    assert status == 1
    assert len(problems) == 2
    assert all("8 bits a pixel, which cannot hold 459 classes" in line for line in problems)


@pytest.mark.parametrize("name", ["pc60_val", "cityscapes27_val", "coco_object_val", "voc21_val"])
def test_datasets_of_every_kind_are_checked(root, prepare, check, name):
    for make in (archives.pascal_context, archives.cityscapes, archives.coco, archives.voc):
        make(root)
    assert prepare(name) == 0
    assert check(name) == (0, [])


def test_long_lists_are_cut_unless_all_is_asked_for(root, prepare, check):
    archives.coco(root, stems=[f"{number:012d}" for number in range(60)])
    assert prepare("coco_stuff171_val") == 0
    for path in (root / "coco/stuffthingmaps_detectron2/val2017").iterdir():
        path.write_bytes(b"")
    assert check("coco_stuff171_val", 60)[1][-1] == "... and 10 more"
    assert len(check("coco_stuff171_val", 60, "--all")[1]) == 60


def test_missing_data_are_named_with_their_folder(root, check, capsys):
    assert main(["data", "check", "voc20_val"]) == 1
    assert str(root / "VOC2012/JPEGImages") in capsys.readouterr().err


def test_the_list_says_what_is_there_and_where_the_rest_is_expected(ade, capsys):
    assert main(["data", "list"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert {*DATASETS} <= lines.keys()
    assert lines["ade150_val"][:4] == ["ade150_val", "150", "2/2000", "incomplete"]
    assert lines["voc21_val"][:4] == ["voc21_val", "21", "0/1449", "missing"]
    assert "VOC2012/annotations_detectron2_bg/val" in lines["voc21_val"]
    assert " ".join(lines["demo_scenes_val"]).count("drawn on first use") == 1
