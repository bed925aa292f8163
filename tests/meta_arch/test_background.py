"""Background by words, by a threshold, and as SAN has learned it."""

import pytest
import torch

from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.errors import DataError

WORDS = ("wall", "shadow")


def entry(seed=0, size=(64, 64), words=WORDS, last="background"):
    image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return {"image": image, "vocabulary": ("grass", "water", last), "background_words": words}


@pytest.mark.parametrize("classify", CLASSIFY)
def test_words_of_the_dataset_do_what_words_of_the_configuration_do(world, classify):
    changes = {"model__cliptrase__classify": classify}
    by_dataset = world.model("cliptrase", **changes).eval().label_maps([entry()])[0]
    by_key = world.model("cliptrase", model__cliptrase__background=WORDS, **changes).eval()
    assert torch.equal(by_dataset, by_key.label_maps([entry(words=())])[0])
    assert torch.equal(by_dataset, by_key.label_maps([entry(words=("something", "else"))])[0])


@pytest.mark.parametrize("name", ["cliptrase", "san"])
def test_words_need_a_class_to_stand_for(world, name):
    with pytest.raises(DataError, match="wall.*'background' as the dataset's last class, not 'lava'"):
        world.model(name).eval().label_maps([entry(last="lava")])


def test_a_pixel_that_no_class_is_probable_at_is_background(world):
    changes = {"model__cliptrase__classify": "patches", "test__background": "threshold"}
    sure, unsure, between = (
        world.model("cliptrase", test__background_threshold=t, **changes).eval().label_maps([entry()])[0]
        for t in (0.001, 0.999, 0.51)
    )
    plain = world.model("cliptrase", model__cliptrase__classify="patches").eval()
    two = {**entry(words=()), "vocabulary": ("grass", "water")}
    assert torch.equal(sure, plain.label_maps([two])[0])
    assert (unsure == 2).all()
    assert torch.equal(between[between < 2], sure[between < 2])


@pytest.mark.parametrize("kind", ["words", "threshold", "learned"])
@pytest.mark.parametrize("protocol", ["whole", "slide"])
def test_san_decides_by_the_scores_that_it_gives(world, kind, protocol):
    changes = {
        "test__background": kind,
        "test__background_threshold": 0.2,
        "test__slide__window": 64,
        "test__slide__stride": 64,
    }
    model = world.model("san", test__protocol=protocol, **changes).eval()
    scores = model([entry()])[0]["sem_seg"]
    assert scores.shape == (3, 64, 64)
    assert torch.equal(model.label_maps([entry()])[0], scores.argmax(0))


def test_a_threshold_beside_one_class_is_refused_where_its_probability_is_1(world):
    given = {**entry(words=()), "vocabulary": ("background", "grass")}
    with pytest.raises(DataError, match="TEST.BACKGROUND threshold finds no background beside the one class 'grass'"):
        world.model("cliptrase", test__background="threshold").eval().label_maps([given])
    assert (world.model("san", test__background="threshold").eval().label_maps([given])[0] <= 1).all()


@pytest.mark.parametrize(("name", "kind"), [("cliptrase", "threshold"), ("san", "threshold"), ("san", "learned")])
@pytest.mark.parametrize("protocol", ["whole", "slide"])
@pytest.mark.parametrize("words", [("Background", "grass", "water"), ("grass", "background", "water")])
def test_background_may_be_any_class(world, name, kind, protocol, words):
    changes = {"test__background": kind, "test__background_threshold": 0.51, "test__protocol": protocol}
    model = world.model(name, test__slide__window=64, test__slide__stride=64, **changes).eval()
    given, last = ({**entry(words=()), "vocabulary": v} for v in (words, ("grass", "water", "background")))
    places = torch.tensor([words.index(word) for word in ("grass", "water")] + [words[0] != "Background"])
    expected = model.label_maps([last])[0]
    assert torch.equal(model.label_maps([given])[0], places[expected])
    assert torch.equal(model([given])[0]["sem_seg"][places], model([last])[0]["sem_seg"])


def test_the_learned_background_is_the_share_that_is_left_out_otherwise(world):
    model = world.model("san", test__background="learned").eval()
    plain = world.model("san").eval()
    two = {**entry(words=()), "vocabulary": ("grass", "water")}
    torch.testing.assert_close(model([entry()])[0]["sem_seg"][:2], plain([two])[0]["sem_seg"])
    assert (model([entry()])[0]["sem_seg"][2] > 0).all()


@pytest.mark.parametrize("name", ["san", "san_cliptrase"])
def test_a_batch_of_mixed_sizes_gives_what_each_image_gives_alone(world, name, monkeypatch):
    monkeypatch.setattr("san_cliptrase.meta_arch.san.SCORES_AT_ONCE", 1000)  # many strips
    model = world.model(name).eval()
    entries = [entry(0, (96, 64)), entry(1, (64, 80)), entry(2, (90, 50))]
    together = model.label_maps(entries)
    for labels, one in zip(together, entries, strict=True):
        alone = model.label_maps([one])[0]
        assert labels.shape == one["image"].shape[1:]
        assert (labels == alone).float().mean() > 0.999
        assert torch.equal(alone, model([one])[0]["sem_seg"].argmax(0))
