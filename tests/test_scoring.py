"""Several sizes, the mirror image, windows and refinement, for every model that scores pixels."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from san_cliptrase.errors import OptionError
from san_cliptrase.refine import REFINEMENTS, refinement
from san_cliptrase.scoring import PLAIN, Scoring
from san_cliptrase.windows import Windows

WORDS = ("grass", "water", "lava")
SLIDE = {"test__protocol": "slide", "test__slide__window": 64, "test__slide__stride": 32}
MODELS = [
    ("cliptrase", {}),
    ("cliptrase", {"model__cliptrase__classify": "cls"}),
    ("cliptrase", {"model__cliptrase__classify": "patches", "model__cliptrase__attention": "clip_surgery"}),
    ("san", {}),
    ("san", {"model__san__query_init__name": "tokens_prior"}),
]


def entry(rows, columns, seed, **more):
    image = torch.randint(256, (3, rows, columns), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return {"image": image, "vocabulary": WORDS, **more}


def rows_and_columns(images):
    """A score that knows where it stands: rows and columns of what is seen."""
    for image in images:
        height, width = image.shape[1:]
        grid = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
        yield torch.stack([*grid, image[0].float()])


def test_views_are_put_back_and_averaged():
    image = torch.arange(48, dtype=torch.uint8).view(1, 6, 8).expand(3, -1, -1).contiguous()
    seen = []

    def score(images):
        seen.extend(tuple(one.shape[1:]) for one in images)
        return rows_and_columns(images)

    found = Scoring(scales=(1.0, 2.0), flip=True).scores(image, score)
    assert seen == [(6, 8), (6, 8), (12, 16), (12, 16)]
    assert found.shape == (3, 6, 8)
    # Mirrored columns count from the other side; what the image shows stays where it is.
    torch.testing.assert_close(found[1], torch.full((6, 8), (7 / 8 + 15 / 16) / 4), atol=0.02, rtol=0)
    torch.testing.assert_close(found[2], image[0].float(), atol=1.5, rtol=0)
    single = Scoring(scales=(0.5,)).scores(image, rows_and_columns)
    half = F.interpolate(next(rows_and_columns([image[:, ::2, ::2]]))[None, :2], (6, 8), mode="bilinear")[0]
    torch.testing.assert_close(single[:2], half)


def test_windows_hold_views_and_refinement_follows():
    image = torch.arange(40 * 64).view(40, 64).div(16).to(torch.uint8).expand(3, -1, -1).contiguous()
    asked = []

    def refine(strips, given, patch):
        asked.append(given)
        assert patch == 8
        return (2 * strip for strip in strips)

    scoring = Scoring((1.0, 1.5), True, Windows(32, 16), refine, patch=8)
    seen = []

    def score(images):
        seen.extend(tuple(one.shape[1:]) for one in images)
        return (one.float() for one in images)

    found = scoring.scores(image, score)
    assert {*seen} == {(32, 32), (48, 48)}
    torch.testing.assert_close(found, 2 * image.float(), atol=8, rtol=0)
    torch.testing.assert_close(asked[0], image / 255)
    assert PLAIN.is_plain and not any(
        one.is_plain for one in (scoring, Scoring(flip=True), Scoring((2.0,)), Scoring(refine=refine))
    )


@pytest.mark.parametrize(("name", "changes"), MODELS)
@pytest.mark.parametrize(
    "extra",
    [
        {"test__refine": "pamr"},
        {"test__refine": "laplacian", "test__scales": (1.0, 1.5), "test__flip": True},
        {"test__refine": "pamr", "test__flip": True, **SLIDE},
    ],
)
def test_every_model_is_refined_and_a_batch_gives_what_each_image_gives_alone(world, name, changes, extra):
    model = world.model(name, **changes, **extra).eval()
    entries = [entry(64, 96, 0, height=50, width=40), entry(80, 64, 1)]
    together = model.label_maps(entries)
    assert [tuple(labels.shape) for labels in together] == [(50, 40), (80, 64)]
    for labels, one in zip(together, entries, strict=True):
        assert torch.equal(labels, model.label_maps([one])[0])
    favoured = torch.tensor([0.0, 0.0, 9.0])[:, None, None]
    model.scoring = dataclasses.replace(model.scoring, refine=lambda strips, *_: (one + favoured for one in strips))
    assert all((labels == 2).all() for labels in model.label_maps(entries))


def test_the_mirror_image_of_an_image_gets_the_mirror_of_its_labels(world):
    model = world.model("cliptrase", model__cliptrase__classify="patches", test__flip=True).eval()
    image = entry(64, 96, 0)
    found = model.label_maps([image])[0]
    mirrored = model.label_maps([{**image, "image": image["image"].flip(-1)}])[0]
    assert (found == mirrored.flip(-1)).float().mean() > 0.999


def test_refinements_are_named():
    assert refinement("none") is None
    known = "none, pamr, pamr_half, laplacian"
    with pytest.raises(OptionError, match=f"unknown refinement 'pamer'; choose one of: {known}"):
        refinement("pamer")
    with pytest.raises(OptionError, match=f"choose one of: {', '.join(REFINEMENTS)}"):
        refinement("crf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test__refine": "crf"}, "TEST.REFINE is 'crf'; it must be one of: none, pamr, pamr_half, laplacian"),
        ({"test__scales": ()}, "TEST.SCALES"),
        ({"test__scales": (0.0,)}, "TEST.SCALES"),
        ({"test__refine": "pamr", "test__protocol": "unsupervised"}, "reads no scores"),
        ({"test__flip": True, "model__cliptrase__attention": "sclip+truth"}, "whole images as they are"),
    ],
)
def test_what_means_nothing_is_told(world, changes, message):
    with pytest.raises(ValueError, match=message):
        world.model("cliptrase", **changes)
