import pytest
from detectron2.data import MetadataCatalog

from san_cliptrase.data.datasets import class_names
from san_cliptrase.data.vocabularies import replacement_words
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.errors import DataError
from tests.conftest import ROOT


def words(dataset, vocabulary="san"):
    return replacement_words(vocabulary, dataset, MetadataCatalog.get(dataset).stuff_classes)


def test_sans_words_for_ade150_are_not_cliptrases():
    found, classes = words("ade150_val"), MetadataCatalog.get("ade150_val").stuff_classes
    assert list(classes) == class_names("ade150"), "the ground truth keeps its names"
    assert len(found) == len(set(found)) == 150
    assert sum(one != other for one, other in zip(found, classes, strict=True)) == 51
    assert [found[index] for index in (0, 6, 8, 89, 149)] == ["wall", "road, route", "window", "tv", "flag"]


@pytest.mark.parametrize("dataset", ["ade847_val", "pc459_val", "pc59_val", "voc20_val", "coco_stuff171_val"])
def test_sans_other_test_sets_keep_their_class_names(dataset):
    assert words(dataset) == ()


def test_sans_table_is_scored_with_sans_words():
    cfg = load_config(ROOT / "configs" / "tables" / "san.yaml", ["MODEL.DEVICE", "cpu"])
    assert words("ade150_val", cfg.TEST.VOCABULARY)[89] == "tv"


@pytest.mark.parametrize("vocabulary", ["sam", "no/such/words.txt"])
def test_what_is_neither_a_file_nor_a_name_is_told_with_the_names(vocabulary):
    with pytest.raises(DataError, match=f"TEST.VOCABULARY is '{vocabulary}', neither a class file.*san"):
        words("ade150_val", vocabulary)
