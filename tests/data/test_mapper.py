import random
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from san_cliptrase.data.mapper import SemanticMapper, check_labelled, read_labels, record_labels
from san_cliptrase.errors import DataError

WORDS = ("grass", "water", "lava")


@pytest.fixture
def pair(tmp_path):
    """Function of an image and a label array: the dict of the files that hold them."""

    def write(image=None, labels=None):
        rng = np.random.RandomState(0)
        image = rng.randint(256, size=(40, 60, 3)).astype(np.uint8) if image is None else image
        labels = (
            np.pad(np.zeros((40, 30), np.uint8), ((0, 0), (0, 30)), constant_values=2) if labels is None else labels
        )
        record = {"file_name": tmp_path / "photo.png", "sem_seg_file_name": tmp_path / "truth.png", "image_id": "photo"}
        Image.fromarray(image).save(record["file_name"])
        Image.fromarray(labels).save(record["sem_seg_file_name"])
        return {key: str(value) for key, value in record.items()}

    return write


@pytest.fixture
def mapper(tiny_config):
    return lambda is_train, **changes: SemanticMapper(tiny_config(**changes), WORDS, is_train=is_train)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("damage", [cut_off, lambda path: path.write_text("no image"), lambda path: path.unlink()])
@pytest.mark.parametrize("key", ["file_name", "sem_seg_file_name"])
def test_an_unreadable_file_is_named(pair, mapper, tmp_path, key, damage):
    noise = np.random.RandomState(0).randint(3, size=(40, 60)).astype(np.uint8)
    record = pair(labels=noise)
    damage(tmp_path / record[key].rpartition("/")[2])
    with pytest.raises(DataError, match="cannot read the (image|label file)") as caught:
        mapper(False)(record)
    assert record[key] in str(caught.value)


def test_a_label_value_outside_the_classes_is_named(pair, mapper):
    labels = np.full((40, 60), 255, np.uint8)
    labels[0, :2] = 3, 77
    with pytest.raises(DataError, match=r"truth\.png holds the value\(s\) 3, 77; .* 0 to 2, and 255"):
        mapper(False)(pair(labels=labels))


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("shape", [(1, 20000), (20000, 1), (1, 1)])
def test_of_an_image_as_thin_as_a_line_a_pixel_is_left(pair, mapper, is_train, shape):
    entry = mapper(is_train)(pair(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)))
    assert min(entry["image"].shape[1:]) >= 1


@pytest.mark.parametrize("is_train", [True, False])
def test_classes_that_the_vocabulary_lacks_are_ignored_and_the_others_keep_their_names(pair, tiny_config, is_train):
    names = ("sky", "lava", "road", "grass")  # two of them, in another order, are in the vocabulary
    columns = np.repeat([0, 1, 2, 3, 255, 255], 10).astype(np.uint8)
    record = {**pair(labels=np.tile(columns, (40, 1))), "label_names": names}
    config = tiny_config(input__random_flip="none", input__min_size_train=(40,))
    found = SemanticMapper(config, WORDS, is_train=is_train)(record)
    expected = np.repeat([255, WORDS.index("lava"), 255, WORDS.index("grass"), 255, 255], 10)
    assert (found["sem_seg"].numpy() == expected).all()
    assert found["vocabulary"] == WORDS
    if is_train:
        assert found["instances"].gt_classes.tolist() == [WORDS.index("grass"), WORDS.index("lava")]


def wide(labels, ignored):
    """Labels with the columns from 40 on ignored, in 16 bits."""
    labels = np.asarray(labels, np.uint16)
    labels[:, 40:] = ignored
    return labels


@pytest.mark.parametrize("is_train", [True, False])
def test_16_bit_labels_are_read_right_and_255_is_a_class_there(pair, tiny_config, is_train):
    names = tuple(f"class {i}" for i in range(459))
    labels = wide(np.full((40, 60), 255), 65535)
    labels[:, :20] = 458
    record = {**pair(labels=labels), "ignore_value": 65535}
    changes = {"input__ignore_label": 65535, "input__random_flip": "none", "input__min_size_train": (40,)}
    found = SemanticMapper(tiny_config(**changes), names, is_train=is_train)(record)
    assert (found["sem_seg"].numpy() == labels).all()
    if is_train:
        assert found["instances"].gt_classes.tolist() == [255, 458]


@pytest.mark.parametrize(("in_file", "in_memory"), [(65535, 255), (255, 65535), (7, 255)])
def test_whatever_a_file_has_for_no_label_is_one_value_in_memory(pair, in_file, in_memory):
    labels = wide(np.ones((40, 60)), in_file)
    record = {**pair(labels=labels), "ignore_value": in_file}
    found = record_labels(record, WORDS, in_memory, (40, 60))
    assert (found[:, :40] == 1).all()
    assert (found[:, 40:] == in_memory).all()


def test_files_that_do_not_say_have_255_beside_a_large_vocabulary(pair):
    labels = wide(np.ones((40, 60)), 255).astype(np.uint8)
    assert (record_labels(pair(labels=labels), WORDS, 65535, (40, 60))[:, 40:] == 65535).all()


def test_8_bit_labels_of_more_classes_are_refused(pair):
    with pytest.raises(DataError, match=r"truth\.png has 8 bits a pixel, which cannot hold 847 classes.*16-bit"):
        record_labels(pair(), tuple(map(str, range(847))), 65535, (40, 60))


def test_an_ignore_label_that_is_a_class_is_refused(tiny_config):
    with pytest.raises(DataError, match="IGNORE_LABEL is 255, which is also one of the 300 classes: set it to 65535"):
        SemanticMapper(tiny_config(), tuple(map(str, range(300))), is_train=False)


@pytest.mark.parametrize(
    ("reduction", "values", "classes"),
    [
        ("cityscapes19", [0, 7, 9, 26, 33], [-1, 0, -1, 13, 18]),
        ("cityscapes27", [6, 7, 9, 26, 33], [-1, 0, 2, 19, 26]),
        ("coco_object", [0, 79, 80, 170, 255], [0, 79, 80, 80, 80]),
        ("coco_stuff27", [0, 1, 80, 170, 255], [9, 11, 17, 24, -1]),
        ("pc60", [0, 58, 255], [0, 58, 59]),
    ],
)
def test_values_of_files_that_serve_several_datasets_are_regrouped(pair, reduction, values, classes):
    record = {**pair(labels=np.array([values], np.uint8)), "reduction": reduction}
    found = record_labels(record, WORDS, 1000, (1, len(values)))
    assert found.tolist() == [[1000 if name == -1 else name for name in classes]]


def test_values_that_a_reduction_does_not_know_are_named(pair):
    record = {**pair(labels=np.full((40, 60), 34, np.uint8)), "reduction": "cityscapes19"}
    with pytest.raises(DataError, match=r"holds the value\(s\) 34; .* 0 to 33"):
        record_labels(record, WORDS, 255, (40, 60))


def test_one_label_anywhere_is_enough_to_train_and_unusable_files_are_left_to_the_loader(pair):
    empty = pair(labels=np.full((40, 60), 255, np.uint8))
    with pytest.raises(DataError, match=r"no pixel of the training set has a label: the 3 .*truth\.png"):
        check_labelled([empty] * 3, WORDS, 255, "the training set")
    broken = {**empty, "sem_seg_file_name": "nowhere.png"}
    check_labelled([broken] * 3, WORDS, 255, "it")
    labelled = {**empty, "ignore_value": 7, "label_names": (*map(str, range(255)), "grass")}  # 255 is grass there
    check_labelled([empty, broken, labelled], WORDS, 255, "it")


def test_image_and_labels_of_different_size_are_refused(pair, mapper):
    with pytest.raises(DataError, match=r"truth\.png is 60x40, its image 40x60"):
        mapper(True)(pair(labels=np.zeros((60, 40), np.uint8)))


def test_labels_with_channels_are_refused(pair, mapper):
    with pytest.raises(DataError, match=r"truth\.png has shape \(40, 60, 3\)"):
        mapper(True)(pair(labels=np.zeros((40, 60, 3), np.uint8)))


def test_the_colours_of_a_palette_do_not_matter(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8))
    picture.putpalette([7] * 768)
    picture.save(tmp_path / "p.png")
    labels = read_labels(str(tmp_path / "p.png"), 3, 255, (2, 2))
    assert labels.tolist() == [[0, 1], [2, 255]]


def test_test_images_are_resized_and_their_labels_are_not(pair, mapper):
    entry = mapper(False)(pair())
    assert entry["image"].shape == (3, 64, 96)
    assert entry["image"].dtype == torch.uint8
    assert entry["sem_seg"].shape == (entry["height"], entry["width"]) == (40, 60)
    assert entry["vocabulary"] == WORDS
    assert "instances" not in entry


def test_training_has_one_mask_a_class_that_together_are_the_labels(pair, mapper):
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 20:] = 2
    labels[:, 40:] = 255
    entry = mapper(True)(pair(labels=labels))
    instances = entry["instances"]
    assert instances.gt_classes.tolist() == [0, 2]
    assert entry["image"].shape[1:] == entry["sem_seg"].shape == (64, 96)
    for name, mask in zip(instances.gt_classes, instances.gt_masks.tensor, strict=True):
        assert torch.equal(mask, entry["sem_seg"] == name)


def test_image_and_labels_are_flipped_and_cropped_together(pair, mapper):
    labels = np.arange(60, dtype=np.uint8)[None].repeat(40, 0)
    image = np.stack([labels * 4] * 3, -1)
    crop = {"input__crop__enabled": True, "input__crop__size": (32, 32), "input__min_size_train": (40,)}
    train = mapper(True, **crop)
    train.vocabulary = tuple(map(str, range(60)))
    directions = set()
    for seed in range(8):
        np.random.seed(seed)
        entry = train(pair(image, labels))
        assert torch.equal(entry["image"][0].long(), entry["sem_seg"] * 4)
        assert entry["image"].shape == (3, 32, 32)
        directions.add(int(entry["sem_seg"][0, 1] - entry["sem_seg"][0, 0]))
    assert directions == {1, -1}


def test_pictures_smaller_than_the_crop_are_padded_with_what_is_ignored(pair, mapper):
    crop = {"input__crop__enabled": True, "input__crop__size": (80, 80), "input__min_size_train": (40,)}
    entry = mapper(True, **crop)(pair())
    assert entry["image"].shape == (3, 80, 80)
    assert entry["shown_size"] == (40, 60)
    assert (entry["sem_seg"][40:] == 255).all()
    assert (entry["sem_seg"][:, 60:] == 255).all()
    assert (entry["sem_seg"][:40, :60] != 255).all()
    assert entry["image"][:, 40:].unique().tolist() == [128]
    assert entry["instances"].gt_masks.tensor.sum() == 40 * 60


def test_colours_change_in_training_only(pair, mapper):
    record = pair()
    random.seed(0)
    changes = {"input__color_aug_ssd": True, "input__random_flip": "none"}
    plain, coloured = (mapper(True, **{**changes, "input__color_aug_ssd": on})(record) for on in (False, True))
    assert not torch.equal(plain["image"], coloured["image"])
    assert torch.equal(plain["sem_seg"], coloured["sem_seg"])
    assert torch.equal(mapper(False, **changes)(record)["image"], mapper(False)(record)["image"])


def test_a_label_file_of_ten_thousand_instances_is_refused_in_little_memory(tmp_path, tiny_config):
    files = {"file_name": str(tmp_path / "image.png"), "sem_seg_file_name": str(tmp_path / "labels.png")}
    labels = np.arange(120 * 100, dtype=np.uint16).reshape(120, 100) % 10_000
    Image.fromarray(labels).save(files["sem_seg_file_name"])
    Image.fromarray(np.zeros((120, 100, 3), np.uint8)).save(files["file_name"])
    small = {"input__min_size_train": (100,), "input__ignore_label": 65535}
    with pytest.raises(DataError, match="labels.png holds the value"):  # of 150 classes
        SemanticMapper(tiny_config(**small), [str(i) for i in range(150)], is_train=True)(files)
    tracemalloc.start()
    with pytest.raises(DataError, match="labels.png has 10000 classes in one training image, more than the 1024"):
        SemanticMapper(tiny_config(**small), [str(i) for i in range(10_000)], is_train=True)(files)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6, "masks of all of them would be 120 MB"
