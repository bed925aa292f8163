import logging
from dataclasses import replace

import pytest
import torch

from san_cliptrase import windows as windows_module
from san_cliptrase.cliptrase.class_words import ClassWords, decide_by_words
from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.protocols import window_rules
from san_cliptrase.windows import Windows

WORDS = ("grass", "water", "lava")
SLIDE = {"test__protocol": "slide", "test__slide__window": 64, "test__slide__stride": 32}
MODELS = [
    *(("cliptrase", {"model__cliptrase__classify": name}) for name in CLASSIFY),
    ("san", {}),
]


def entry(rows, columns, seed, **more):
    image = torch.randint(256, (3, rows, columns), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return {"image": image, "vocabulary": WORDS, **more}


@pytest.mark.parametrize(
    ("length", "starts"),
    [(224, [0]), (200, [0]), (336, [0, 112]), (337, [0, 112, 113]), (448, [0, 112, 224]), (500, [0, 112, 224, 276])],
)
def test_windows_cover_a_side_in_steps_and_stay_inside(length, starts):
    assert Windows(224, 112).starts(length) == starts


@pytest.mark.parametrize("size", [(64, 64), (40, 100), (100, 75)])
def test_every_window_is_put_back_where_it_was_cut(monkeypatch, size):
    monkeypatch.setattr("san_cliptrase.windows.WINDOWS_AT_ONCE", 2)
    image = torch.rand(3, *size)
    strips = list(Windows(64, 24).strips(image, lambda crops: crops))
    torch.testing.assert_close(torch.cat(strips, dim=1), image)


def test_pixels_under_several_windows_get_the_mean():
    numbers = iter([1.0, 3.0, 8.0])
    (found,) = Windows(4, 2).strips(
        torch.zeros(3, 4, 8), lambda crops: [torch.full((1, 4, 4), next(numbers)) for _ in crops]
    )
    assert found[0, 0].tolist() == [1, 1, 2, 2, 5.5, 5.5, 8, 8]


@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_one_window_over_all_of_an_image_is_the_whole_image(world, name, changes):
    one = entry(64, 64, 0)
    slide, whole = (world.model(name, **changes, **extra).eval() for extra in (SLIDE, {}))
    assert torch.equal(slide.label_maps([one])[0], whole.label_maps([one])[0])


@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_a_batch_gives_what_each_image_gives_alone(world, name, changes):
    model = world.model(name, **changes, **SLIDE).eval()
    entries = [entry(96, 64, 0, height=50, width=40), entry(64, 100, 1)]
    together = model.label_maps(entries)
    assert [tuple(labels.shape) for labels in together] == [(50, 40), (64, 100)]
    for labels, one in zip(together, entries, strict=True):
        assert torch.equal(labels, model.label_maps([one])[0])


def test_dense_logits_are_averaged_before_the_class_is_chosen(world):
    changes = {"model__cliptrase__classify": "patches", "model__cliptrase__attention": "sclip"}
    model = world.model("cliptrase", **changes, **SLIDE).eval()
    image = entry(64, 96, 3)
    text = model.clip.text(WORDS, "none")
    total, count = torch.zeros(3, 64, 96), torch.zeros(64, 96)
    for left in (0, 32):
        crop = model.clip.normalize(image["image"][None, :, :, left : left + 64].float() / 255)
        tokens = model.reader.dense(model.clip.visual(crop, model.reader.taps))[0, 1:]
        maps = (tokens @ text.T).T.unflatten(1, (64 // model.clip.visual.patch_size[0], -1))[None]
        total[:, :, left : left + 64] += torch.nn.functional.interpolate(maps, (64, 64), mode="bilinear")[0]
        count[:, left : left + 64] += 1
    large = torch.nn.functional.interpolate((total / count)[None], (80, 120), mode="bilinear")[0]
    found = model.label_maps([{**image, "height": 80, "width": 120}])[0]
    assert len(found.unique()) > 1
    assert (found == large.argmax(0)).float().mean() > 0.999


def test_an_image_of_one_window_is_seen_whole_and_said_once(monkeypatch, caplog):
    monkeypatch.setattr(windows_module, "_SAID", set())
    caplog.set_level(logging.WARNING)
    image = torch.rand(3, 20, 30)
    for _ in range(2):
        assert torch.equal(torch.cat(list(Windows(32, 16).strips(image, lambda crops: crops)), dim=1), image)
        torch.cat(list(Windows(32, 16).strips(torch.rand(3, 20, 50), lambda crops: crops)), dim=1)
    assert [record.getMessage() for record in caplog.records] == [
        "an image of 20x30 pixels has room for one window of 32 pixels: it and others so small are seen whole"
    ]


@pytest.mark.parametrize("window", [64, 0])
def test_a_papers_protocol_decides_by_the_words_averaged_over_its_windows(world, window):
    model = world.model(
        "cliptrase",
        model__cliptrase__classify="patches",
        model__cliptrase__attention="sclip",
        test__protocol="scclip",
    ).eval()
    rules = replace(window_rules("scclip", "voc21_val"), window=window, stride=32, probability=0.3)
    groups = [("grass",), ("water", "sea"), ("lava", "grass", "sky")]
    words = ClassWords.of(groups, background=2)
    one = entry(64, 96, 3, height=80, width=120, window_rules=rules, class_words=words)
    weights = dict(
        zip(
            ("lava", "grass", "sky", "water", "sea"),
            model.clip.text(("lava", "grass", "sky", "water", "sea"), "none"),
            strict=True,
        )
    )
    text = torch.stack([weights[word] for word in ("lava", "grass", "sky", "grass", "water", "sea")])

    def scores(crops):
        for crop in crops:
            seen = model.clip.normalize(crop[None].float() / 255)
            yield from model.reader.scores(model.clip.visual(seen, model.reader.taps), text)

    shown = one["image"]
    cosines = torch.cat(list(Windows(64, 32).strips(shown, scores)), dim=1) if window else next(scores([shown]))
    assert torch.equal(model.label_maps([one])[0], decide_by_words(cosines, words, (80, 120), rules))
