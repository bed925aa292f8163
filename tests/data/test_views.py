import numpy as np
import pytest
import torch
import torchvision.transforms as transforms
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torchvision.transforms import InterpolationMode

from san_cliptrase.data.datasets import class_names, register
from san_cliptrase.data.views import SquareMapper, build_test_mapper
from san_cliptrase.data.vocabularies import class_words, named_words
from san_cliptrase.errors import DataError
from san_cliptrase.protocols import OTHER, PROTOCOLS, WINDOW_PROTOCOLS, PaperRules, paper_rules, window_rules

OBJECTS = (*(f"thing {i}" for i in range(80)), "background")


@pytest.fixture
def record(tmp_path):
    """Function of labels (H, W): the dict of an image and label file."""

    def write(labels):
        image = np.random.RandomState(0).randint(256, size=(*labels.shape, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "image.png")
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "labels.png")
        return {"file_name": str(tmp_path / "image.png"), "sem_seg_file_name": str(tmp_path / "labels.png")}

    return write


@pytest.mark.parametrize("size", [(50, 71), (71, 50), (32, 32), (20, 90)])
def test_squares_are_resized_by_the_short_side_and_then_cut_from_the_centre(record, size):
    labels = np.random.RandomState(1).randint(3, size=size)
    one = record(labels)
    entry = SquareMapper(32, ("a", "b", "c"), 255, PaperRules())(one)

    def expected(path, mode):
        steps = transforms.Compose([transforms.Resize(32, mode), transforms.CenterCrop(32)])
        return np.asarray(steps(Image.open(path)))

    assert np.array_equal(entry["image"].permute(1, 2, 0), expected(one["file_name"], InterpolationMode.BICUBIC))
    assert np.array_equal(entry["sem_seg"], expected(one["sem_seg_file_name"], InterpolationMode.NEAREST))
    assert (entry["height"], entry["width"]) == (32, 32)
    assert entry["sem_seg"].dtype == torch.int64


def scored(record, dataset, classes, values):
    return SquareMapper(len(values), classes, 255, paper_rules(dataset))(record(np.array([values] * len(values))))[
        "sem_seg"
    ][0].tolist()


@pytest.mark.parametrize("dataset", ["voc21_val", "pc60_val"])
def test_void_counts_as_background(record, dataset):
    assert scored(record, dataset, ("cat", "dog", "background"), [0, 1, 2, 255]) == [0, 1, 2, 2]


def test_a_square_without_any_label_is_not_scored(record):
    assert scored(record, "voc21_val", ("cat", "background"), [255, 255]) == [255, 255]


def test_coco_object_ignores_all_stuff_but_the_first_class(record):
    values = [0, 79, 80, 81, 120, 170, 255]
    assert scored(record, "coco_object_val", OBJECTS, values) == [0, 79, 80, 255, 255, 255, 80]


def test_other_datasets_keep_their_labels(record):
    assert scored(record, "ade150_val", ("a", "b"), [0, 1, 255]) == [0, 1, 255]


@pytest.fixture
def voc():
    """Datasets by the names of the table, with background words."""
    words = {"voc21_val": ("sky", "wall"), "cityscapes19_val": ()}
    catalogs = (DatasetCatalog, MetadataCatalog)
    held = [(catalog, name, catalog.pop(name)) for catalog in catalogs for name in words if name in catalog]
    for name in words:
        register(name, list, ("cat", "background"), background=words[name])
    yield
    for catalog in catalogs:
        for name in words:
            catalog.remove(name)
    for catalog, name, value in held:
        catalog[name] = value


@pytest.mark.parametrize("protocol", ["whole", "cliptrase", "slide"])
def test_the_words_of_a_dataset_come_with_every_entry(record, tiny_config, voc, protocol):
    cfg = tiny_config("cliptrase", test__protocol=protocol, test__size=32)
    entry = build_test_mapper(cfg, "voc21_val")(record(np.zeros((40, 50))))
    assert entry["background_words"] == ("sky", "wall")
    assert entry["cls_prior"] is False


def test_the_cls_prior_belongs_to_one_dataset_and_one_protocol(record, tiny_config):
    one = record(np.zeros((40, 50)))
    prior = {
        (protocol, dataset): build_test_mapper(tiny_config("cliptrase", test__protocol=protocol), dataset)(one)[
            "cls_prior"
        ]
        for protocol in ("whole", "cliptrase", "slide")
        for dataset in ("voc20_val", "pc59_val")
    }
    assert [key for key, value in prior.items() if value] == [("cliptrase", "voc20_val")]


@pytest.mark.parametrize(
    ("dataset", "side", "expected"),
    [("pc59_val", 0, (336, 420)), ("cityscapes19_val", 0, (560, 700)), ("cityscapes19_val", 40, (40, 50))],
)
def test_windows_slide_over_the_size_of_the_dataset(record, tiny_config, voc, dataset, side, expected):
    cfg = tiny_config("cliptrase", test__protocol="slide", test__slide__side=side)
    entry = build_test_mapper(cfg, dataset)(record(np.zeros((40, 50))))
    assert tuple(entry["image"].shape[1:]) == expected
    assert entry["sem_seg"].shape == (40, 50)


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name not in WINDOW_PROTOCOLS])
def test_other_words_for_the_classes_are_evaluated_under_every_protocol(record, tiny_config, tmp_path, protocol):
    file = tmp_path / "words.txt"
    words = [f"material {index}" for index in range(24)]
    file.write_text("\n".join(words))
    cfg = tiny_config("cliptrase", test__protocol=protocol, test__size=32, test__vocabulary=str(file))
    entry = build_test_mapper(cfg, "tiny_val")(record(np.zeros((40, 50))))
    assert entry["vocabulary"] == tuple(words)
    file.write_text("\n".join(words[:3]))
    with pytest.raises(DataError, match="has 3 lines, and the dataset 24 classes"):
        tiny_config("cliptrase", test__vocabulary=str(file))


@pytest.mark.parametrize(
    ("protocol", "dataset", "size", "first", "last"),
    [
        ("sclip", "voc21_val", (336, 420), ("aeroplane",), 26),
        ("naclip", "voc21_val", (336, 420), ("aeroplane",), 26),
        ("clearclip", "voc21_val", (448, 560), ("aeroplane",), 1),
        ("scclip", "cityscapes19_val", (560, 700), ("road",), 1),
        ("sclip", "coco_stuff171_val", (448, 560), ("person",), 1),
    ],
)
def test_a_papers_protocol_brings_its_size_words_and_rules(record, tiny_config, protocol, dataset, size, first, last):
    cfg = tiny_config("cliptrase", test__protocol=protocol, model__cliptrase__classify="patches")
    entry = build_test_mapper(cfg, dataset)(record(np.zeros((40, 50))))
    assert tuple(entry["image"].shape[1:]) == size
    words, count = entry["class_words"], len(entry["vocabulary"])
    assert set(words.classes) == set(range(count))
    assert tuple(word for word, index in zip(words.words, words.classes, strict=True) if index == 0) == first
    assert words.classes.count(count - 1) == last
    assert entry["vocabulary"] == tuple(MetadataCatalog.get(dataset).stuff_classes)
    assert entry["window_rules"] == window_rules(protocol, dataset)


@pytest.mark.parametrize("protocol", WINDOW_PROTOCOLS)
def test_every_class_list_of_a_papers_protocol_has_a_line_a_class(protocol):
    for name, rules in WINDOW_PROTOCOLS[protocol].items():
        if name != OTHER:
            assert len(named_words(rules.words, f"{name}_val")) == len(class_names(name))


def test_a_papers_protocol_on_ones_own_data_has_the_class_names_and_background_words(record, tiny_config):
    words = class_words("", "mine", ("sea, ocean", "sky", "background"), ("wall", "floor"))
    assert words.words == ("wall", "floor", "sea", "ocean", "sky")
    assert words.classes == (2, 2, 0, 0, 1)
    assert words.background == 2


def test_pascal_contexts_void_is_background_but_for_squares_without_a_label(record):
    classes = tuple(map(str, range(59))) + ("background",)

    def square(values):
        one = {**record(np.array([values] * len(values))), "reduction": "pc60"}
        return SquareMapper(len(values), classes, 255, paper_rules("pc60_val"))(one)["sem_seg"][0].tolist()

    assert square([0, 58, 255]) == [0, 58, 59]
    assert square([255, 255]) == [255, 255]
