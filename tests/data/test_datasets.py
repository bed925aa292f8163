import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from san_cliptrase.data.check import dataset_state
from san_cliptrase.data.datasets import DATASETS, class_names, first_records, load_pairs, register
from san_cliptrase.data.reductions import IGNORED, REDUCTIONS
from san_cliptrase.data.table import CAMVID_UNSEEN
from san_cliptrase.scenes import CLASS_NAMES, SEEN_CLASSES, UNSEEN_CLASSES, write


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("coco_stuff171", 171),
        ("coco_object", 81),
        ("coco_stuff27", 27),
        ("ade150", 150),
        ("ade847", 847),
        ("pc59", 59),
        ("pc60", 60),
        ("pc459", 459),
        ("voc20", 20),
        ("voc21", 21),
        ("cityscapes19", 19),
        ("cityscapes27", 27),
        ("camvid", 11),
    ],
)
def test_class_lists_are_whole(name, count):
    names = class_names(name)
    assert len(names) == len(set(names)) == count
    assert all(word and word == word.strip() for word in names)


@pytest.mark.parametrize(("name", "count"), [("voc21", 33), ("coco_object", 107), ("pc60", 1)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_background_is_the_last_class_and_has_its_words(name, count, split):
    metadata = MetadataCatalog.get(f"{name}_{split}")
    assert metadata.stuff_classes[-1] == "background"
    assert metadata.stuff_classes.count("background") == 1
    assert isinstance(metadata.background_words, tuple)
    assert len(metadata.background_words) == count


def test_the_other_datasets_have_no_background_words():
    without = [name for name in DATASETS if not name.startswith(("voc21", "coco_object", "pc60"))]
    assert len(without) > 20
    assert {MetadataCatalog.get(name).background_words for name in without} == {()}


def test_background_words_need_the_class():
    with pytest.raises(ValueError, match="'mine' has background words; its last class must then be 'background'"):
        register("mine", list, ["background", "cat"], background=["wall"])


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.reduction])
def test_reductions_reach_every_class_and_no_other(name):
    reduction, classes = REDUCTIONS[DATASETS[name].reduction], MetadataCatalog.get(name).stuff_classes
    assert {*reduction.classes, reduction.void} - {IGNORED} == set(range(len(classes)))


def coarse_names(fine, reduction, coarse):
    """Class of the one list -> class of the other."""
    names = class_names(coarse)
    return {
        name: "" if place == IGNORED else names[place]
        for name, place in zip(class_names(fine), REDUCTIONS[reduction].classes, strict=True)
    }


def test_coco_objects_keep_their_names_and_stuff_is_background():
    meaning = coarse_names("coco_stuff171", "coco_object", "coco_object")
    assert meaning["toothbrush"] == "toothbrush"
    assert meaning["banner"] == meaning["wood"] == "background"
    assert sum(name == coarse for name, coarse in meaning.items()) == 80


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        ("person", {"person"}),
        ("vehicle", {"bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"}),
        ("appliance", {"microwave", "oven", "toaster", "sink", "refrigerator"}),
        ("food-stuff", {"food-other", "fruit", "salad", "vegetable"}),
        ("sky", {"clouds", "sky-other"}),
        ("window", {"window-blind", "window-other"}),
        ("water", {"fog", "river", "sea", "water-other", "waterdrops"}),
        ("building", {"bridge", "building-other", "house", "roof", "skyscraper", "tent"}),
        ("structural", {"cage", "fence", "net", "railing", "structural-other"}),
    ],
)
def test_the_27_classes_are_the_supercategories_of_coco_stuff(coarse, fine):
    meaning = coarse_names("coco_stuff171", "coco_stuff27", "coco_stuff27")
    assert {name for name, found in meaning.items() if found == coarse} == fine


def test_a_list_of_stems_chooses_among_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    spec = DATASETS["coco_stuff27_curated_val"]
    for folder, suffix in ((spec.images, "jpg"), (spec.labels, "png")):
        (tmp_path / folder).mkdir(parents=True)
        for stem in "abc":
            (tmp_path / folder / f"{stem}.{suffix}").touch()
    with pytest.raises(FileNotFoundError, match=r"expects the file .*Coarse_7\.txt"):
        DatasetCatalog.get("coco_stuff27_curated_val")
    (tmp_path / spec.stems).parent.mkdir(parents=True)
    (tmp_path / spec.stems).write_text("c\na\n")
    records = DatasetCatalog.get("coco_stuff27_curated_val")
    assert [(record["image_id"], record["reduction"]) for record in records] == [
        ("a", "coco_stuff27"),
        ("c", "coco_stuff27"),
    ]
    (tmp_path / spec.stems).write_text("c\nz\n")
    with pytest.raises(FileNotFoundError, match="without a partner: z"):
        DatasetCatalog.get("coco_stuff27_curated_val")


def test_cityscapes_is_found_city_by_city_among_its_other_files(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for city in ("frankfurt", "lindau"):
        for kind, suffixes in (
            ("leftImg8bit", ("leftImg8bit.png",)),
            ("gtFine", ("gtFine_labelIds.png", "gtFine_color.png", "gtFine_instanceIds.png", "gtFine_polygons.json")),
        ):
            folder = tmp_path / "cityscapes" / kind / "val" / city
            folder.mkdir(parents=True)
            for suffix in suffixes:
                (folder / f"{city}_000000_000019_{suffix}").touch()
    first, second = DatasetCatalog.get("cityscapes19_val")
    assert first["image_id"] == "frankfurt_000000_000019"
    assert first["sem_seg_file_name"].endswith("frankfurt_000000_000019_gtFine_labelIds.png")
    assert second["file_name"].endswith("lindau/lindau_000000_000019_leftImg8bit.png")


def test_voc_is_found_in_the_layouts_of_san_and_of_cliptrase(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for folder, name in (("images_detectron2/val", "a.jpg"), ("annotations_detectron2/val", "a.png")):
        (tmp_path / "VOC2012" / folder).mkdir(parents=True)
        (tmp_path / "VOC2012" / folder / name).touch()
    (record,) = DatasetCatalog.get("voc20_val")
    assert record["file_name"] == str(tmp_path / "VOC2012/images_detectron2/val/a.jpg")
    (tmp_path / "VOC2012/JPEGImages").mkdir()
    for stem in "ab":
        (tmp_path / f"VOC2012/JPEGImages/{stem}.jpg").touch()
    (record,) = DatasetCatalog.get("voc20_val")
    assert record["file_name"] == str(tmp_path / "VOC2012/JPEGImages/a.jpg")


def test_where_only_the_archive_is_there_the_command_that_converts_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for folder in ("images", "annotations"):
        (tmp_path / "ADEChallengeData2016" / folder / "validation").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="annotations_detectron2.*data prepare ade150_val"):
        DatasetCatalog.get("ade150_val")


def test_metadata_say_what_training_never_labels():
    assert MetadataCatalog.get("demo_scenes_train").stuff_classes == list(SEEN_CLASSES)
    assert MetadataCatalog.get("demo_scenes_val").stuff_classes == list(CLASS_NAMES)
    assert MetadataCatalog.get("demo_scenes_val").unseen_classes == list(UNSEEN_CLASSES)


def test_camvids_open_vocabulary_hides_from_training_what_is_scored_as_unseen():
    seen, unseen = MetadataCatalog.get("camvid_seen_train").stuff_classes, list(CAMVID_UNSEEN)
    for split in ("val", "test"):
        metadata = MetadataCatalog.get(f"camvid_open_{split}")
        assert metadata.unseen_classes == unseen
        assert [name for name in metadata.stuff_classes if name not in unseen] == seen
        assert MetadataCatalog.get(f"camvid_{split}").unseen_classes == []


def test_records_tell_the_mapper_what_files_of_other_classes_hold(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for kind in ("images", "annotations"):
        (tmp_path / "camvid" / kind / "train").mkdir(parents=True)
        (tmp_path / "camvid" / kind / "train" / "a.png").touch()
    (record,) = DatasetCatalog.get("camvid_seen_train")
    assert record["label_names"] == tuple(class_names("camvid"))
    assert "label_names" not in DatasetCatalog.get("camvid_train")[0]


def test_demo_scenes_are_drawn_when_they_are_first_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setitem(write.SPLITS, "train", (1, 2))
    records = DatasetCatalog.get("demo_scenes_train")
    folder = tmp_path / "demo_scenes"
    assert records[1] == {
        "file_name": str(folder / "images/train/0001.png"),
        "sem_seg_file_name": str(folder / "annotations/train/0001.png"),
        "image_id": "0001",
    }
    assert len(records) == 2


def test_no_more_scenes_are_drawn_than_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setitem(write.SPLITS, "val", (2, 3))
    for count in (1, 2, 1):
        assert len(first_records("demo_scenes_val", count)) == count
    drawn = {path.name for path in tmp_path.rglob("*.png")}
    assert drawn == {"0000.png", "0001.png"}
    assert dataset_state("demo_scenes_val").kind == "drawn on first use"
    assert len(DatasetCatalog.get("demo_scenes_val")) == 3
    assert len(first_records("demo_scenes_val", 9)) == 3


def test_of_several_processes_one_draws_and_the_others_wait_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setitem(write.SPLITS, "train", (1, 2))
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    drawn_by_another = []

    def wait():
        assert not list(tmp_path.rglob("*.png"))
        drawn_by_another.append(write.draw_split(tmp_path / "demo_scenes", "train"))

    monkeypatch.setattr(comm, "synchronize", wait)
    assert len(DatasetCatalog.get("demo_scenes_train")) == 2
    assert len(drawn_by_another) == 1


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if not spec.split])
def test_a_missing_dataset_is_named_with_its_folder_and_the_variable(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS") as caught:
        DatasetCatalog.get(name)
    assert str(tmp_path / DATASETS[name].images) in str(caught.value)
    assert repr(name) in str(caught.value)


@pytest.fixture
def folders(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder, names in ((images, ("b.jpg", "a.png", "notes.txt")), (labels, ("a.png", "b.png"))):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    return images, labels


def test_pairs_are_made_by_stem_in_sorted_order(folders):
    records = load_pairs("mine", *folders)
    assert [record["image_id"] for record in records] == ["a", "b"]
    assert records[1]["file_name"].endswith("b.jpg")
    assert records[1]["sem_seg_file_name"].endswith("b.png")


@pytest.mark.parametrize("side", [0, 1])
def test_files_without_partner_are_named(folders, side):
    (folders[side] / "lonely.png").touch()
    with pytest.raises(FileNotFoundError, match=r"'mine'.*without a partner: lonely"):
        load_pairs("mine", *folders)


def test_label_files_may_choose_among_the_images(folders):
    (folders[0] / "of another split.png").touch()
    assert [record["image_id"] for record in load_pairs("mine", *folders, subset=True)] == ["a", "b"]
    (folders[1] / "lonely.png").touch()
    with pytest.raises(FileNotFoundError, match="lonely"):
        load_pairs("mine", *folders, subset=True)


def test_hidden_files_are_no_data(folders):
    (folders[0] / "._a.png").touch()  # what macOS puts beside pictures
    (folders[1] / ".unfinished-7-b.png").touch()
    assert [record["image_id"] for record in load_pairs("mine", *folders)] == ["a", "b"]


def test_empty_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is empty: 0 images .*another split"):
        load_pairs("mine", tmp_path, tmp_path)


def test_ones_own_dataset_can_be_registered(folders):
    register("mine", lambda: load_pairs("mine", *folders), ["cat", "dog"], unseen=["dog"])
    try:
        assert len(DatasetCatalog.get("mine")) == 2
        assert MetadataCatalog.get("mine").unseen_classes == ["dog"]
    finally:
        DatasetCatalog.remove("mine")
        MetadataCatalog.remove("mine")


def test_two_images_of_one_stem_are_refused(folders):
    images, labels = folders
    first = min(images.iterdir())
    twin = first.with_suffix(".jpeg")
    twin.write_bytes(first.read_bytes())
    with pytest.raises(FileNotFoundError, match=f"{twin.name}.*share a stem"):
        load_pairs("mine", images, labels)
