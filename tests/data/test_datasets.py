import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from san_cliptrase.data.datasets import DATASETS, class_names, load_pairs, register
from san_cliptrase.data.table import CAMVID_UNSEEN
from san_cliptrase.scenes import CLASS_NAMES, SEEN_CLASSES, UNSEEN_CLASSES, write


@pytest.mark.parametrize(
    ("name", "count"), [("coco_stuff171", 171), ("ade150", 150), ("pc59", 59), ("voc20", 20), ("camvid", 11)]
)
def test_class_lists_are_whole(name, count):
    names = class_names(name)
    assert len(names) == len(set(names)) == count
    assert all(word and word == word.strip() for word in names)


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


def test_empty_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="0 images"):
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
