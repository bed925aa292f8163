"""Sources by their names, as the configuration of both models has them."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from san_cliptrase.regions.build import ONE_IMAGE, PLAIN, SOURCES, build_region_source, check_source
from tests.clip.tiny import tiny_clip

CONTROLS = ("grid", "random", "shuffled", "truth")
OTHER_MODELS = ("timm:MODEL", "sam", "sam_points")


def source_keys(request, source):
    """Overrides that choose a source, where need be a tiny model."""
    keys = {"model__regions__source": source}
    if source == "timm:MODEL":
        keys["model__regions__source"] = request.getfixturevalue("tiny_vit")
    elif source.startswith("sam"):
        keys.update(model__regions__sam_model=request.getfixturevalue("tiny_sam"), model__regions__sam_grid=2)
    return keys


def test_unknown_names_are_refused_with_what_there_is():
    visual = tiny_clip().visual
    with pytest.raises(ValueError, match=f"unknown source of regions 'dino'; choose one of: {', '.join(SOURCES)}"):
        build_region_source("dino", visual)
    with pytest.raises(ValueError, match=f"'truth'; choose one of: {', '.join(ONE_IMAGE)}$"):
        check_source("truth", ONE_IMAGE)


@pytest.mark.parametrize("source", SOURCES)
def test_san_trains_from_every_source_and_a_batch_predicts_what_each_image_predicts(world, request, source):
    refine = "none" if source in PLAIN else "pamr"
    model = world.model("san_cliptrase", **source_keys(request, source), model__regions__refine=refine)
    with EventStorage() as storage:
        sum(model.train()(world.batch()).values()).backward()
        assert storage.latest()["regions/mean_count"][0] > 0
    assert model.network.query_init.prior.mask_strength.grad != 0
    entries = world.batch(train=False, count=3)
    together = model.eval().label_maps(entries)
    assert len(together) == 3
    if source in ("random", "shuffled"):
        return
    for labels, entry in zip(together, entries, strict=True):
        assert torch.equal(labels, model.label_maps([entry])[0])


@pytest.mark.parametrize("source", OTHER_MODELS)
def test_san_shows_a_source_the_images_without_their_padding(world, request, source, monkeypatch):
    model = world.model("san_cliptrase", model__clip__cache_gb=0.0, **source_keys(request, source))
    entries = world.batch(count=2)
    h, w = entries[0]["image"].shape[1:]
    entries[0]["shown_size"] = (h - 20, w - 10)  # as of a crop that was larger than the image
    seen, call = [], type(model.region_source).__call__
    monkeypatch.setattr(type(model.region_source), "__call__", lambda *args: seen.append(args[1:]) or call(*args))
    with EventStorage():
        model.train()(entries)
    ((images, features, *_),) = seen
    assert torch.equal(images[0], entries[0]["image"][:, : h - 20, : w - 10] / 255)
    assert torch.equal(images[1], entries[1]["image"] / 255)
    assert features.sizes == ((h - 20, w - 10), tuple(entries[1]["image"].shape[1:]))


def test_san_pays_for_no_image_and_no_pixel_where_regions_are_cliptrases(world, monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr("san_cliptrase.san.model.images_for_source", never)
    monkeypatch.setattr("san_cliptrase.regions.pixels.smooth_maps", never)
    with EventStorage():
        world.model("san_cliptrase", model__regions__refine="none").train()(world.batch())


def test_how_cliptrase_reads_clip_is_nothing_to_san_without_names(world):
    """A rule with a second path would ask CLIP for more tokens, or for more blocks than it has."""
    changes = {"attention": "qq+dual3", "classify": "cls", "cls_layer": -40}
    reading = {f"model__cliptrase__{key}": value for key, value in changes.items()}
    model = world.model("san_cliptrase", **reading, model__san__query_init__name_strength=0.0)
    assert model.region_source.taps == (-2,)


@pytest.mark.parametrize("source", ["truth", "shuffled"])
def test_controls_that_see_whole_images_do_not_slide(world, source):
    with pytest.raises(ValueError, match="truth and shuffled look at whole images"):
        world.model("cliptrase", model__regions__source=source, test__protocol="slide")


def test_regions_of_the_ground_truth_get_one_class_each(world):
    entries = world.batch(train=False, count=2)
    # Classes in halves; the image is resized for CLIP, its labels are not.
    for entry in entries:
        h, w = entry["image"].shape[1:]
        entry["sem_seg"] = torch.zeros(h, w, dtype=torch.int64)
        entry["sem_seg"][h // 2 :] = 3
    model = world.model("cliptrase", model__regions__source="truth").eval()
    for labels, entry in zip(model.label_maps(entries), entries, strict=True):
        h = entry["image"].shape[1]
        ours = torch.nn.functional.interpolate(labels[None, None].float(), entry["image"].shape[1:], mode="nearest")
        assert all(len(half.unique()) == 1 for half in (ours[0, 0, : h // 2], ours[0, 0, h // 2 :]))
    with pytest.raises(ValueError, match="no label map"):
        model.label_maps([{key: value for key, value in entries[0].items() if key != "sem_seg"}])


OLD = {
    "CLIPTRASE.REGIONS": "SOURCE",
    "CLIPTRASE.REGIONS_PRETRAINED": "PRETRAINED",
    "CLIPTRASE.EPS": "EPS",
    "CLIPTRASE.SAM_GRID": "SAM_GRID",
    "SAN.QUERY_INIT.SOURCE": "SOURCE",
    "SAN.QUERY_INIT.SCALES": "SCALES",
    "SAN.QUERY_INIT.GRID_SIDE": "GRID_SIDE",
}


@pytest.mark.parametrize("old", OLD)
def test_old_keys_are_refused_with_the_new_name(world, old):
    with pytest.raises(ValueError, match=rf"renamed to MODEL\.REGIONS\.{OLD[old]}\b"):
        world.config("san_cliptrase", **{f"model__{old.replace('.', '__').lower()}": "1"})
