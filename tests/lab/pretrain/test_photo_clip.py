import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from san_cliptrase.clip.build import SHIPPED_WEIGHTS, build_clip, register_shipped_models
from san_cliptrase.data.datasets import class_names
from san_cliptrase.errors import DataError
from san_cliptrase.lab.pretrain import photo_clip as pretrain

# Class of CamVid -> its colour in the pictures of these tests, so that a crop shows what is in it.
COLOURS = {"sky": (0, 0, 255), "road": (0, 0, 0), "tree": (0, 255, 0), "car": (255, 0, 0)}
VOID_COLOUR = (255, 255, 255)


@pytest.fixture
def camvid(tmp_path, monkeypatch):
    """Function of quadrants (class names or None for void): writes one picture for each split of a CamVid."""

    def write(*quadrants, size=80):
        labels, image = np.full((size, size), 255, np.uint8), np.full((size, size, 3), VOID_COLOUR, np.uint8)
        half = size // 2
        for index, name in enumerate(quadrants):
            if name:
                place = (
                    np.s_[index // 2 * half :, index % 2 * half :]
                    if index == 3
                    else np.s_[index // 2 * half : index // 2 * half + half, index % 2 * half : index % 2 * half + half]
                )
                labels[place], image[place] = class_names("camvid").index(name), COLOURS[name]
        for split in ("train", "val"):
            for kind, values in (("images", image), ("annotations", labels)):
                folder = tmp_path / "camvid" / kind / split
                folder.mkdir(parents=True)
                Image.fromarray(values).save(folder / "picture.png")

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return write


def shares(crop):
    """Class -> share of the crop's pixels whose colour is nearest to its own."""
    palette = np.array([*COLOURS.values(), VOID_COLOUR])
    nearest = ((crop.reshape(3, -1).T[:, None].astype(int) - palette) ** 2).sum(2).argmin(1)
    return dict(zip([*COLOURS, "void"], np.bincount(nearest, minlength=len(palette)) / len(nearest), strict=True))


@pytest.mark.parametrize("patches", [2, 6])
def test_a_crops_names_are_those_of_the_classes_that_it_shows(camvid, patches):
    camvid("sky", "tree", "road", "car")
    crops, rng = pretrain.Crops("camvid_train"), np.random.default_rng(0)
    found = set()
    for _ in range(200):
        crop, names = crops.draw(rng, patches, augment=False)
        assert crop.shape == (3, patches * pretrain.PATCH, patches * pretrain.PATCH)
        shown = shares(crop)
        # At an edge the resized colours mix, so shares near the threshold may fall on either side.
        assert {name for name, share in shown.items() if share > 2 * pretrain.MIN_SHARE} <= set(names)
        assert all(shown[name] > pretrain.MIN_SHARE / 2 for name in names)
        assert shown[names[0]] > max(shown[name] for name in COLOURS) - 0.1  # the largest comes first
        found.add(tuple(names))
    assert {("sky",), ("car",)} < found
    assert len(found) >= 8


def test_a_crop_without_a_labelled_class_is_never_drawn(camvid):
    camvid("road", None, None, None)
    rng, crops = np.random.default_rng(0), pretrain.Crops("camvid_train")
    assert {tuple(crops.draw(rng, 3)[1]) for _ in range(30)} == {("road",)}


def test_classes_that_a_data_set_does_not_label_are_not_named(camvid):
    camvid("sky", "tree", "road", "car")
    rng, crops = np.random.default_rng(0), pretrain.Crops("camvid_seen_train")
    assert {name for _ in range(30) for name in crops.draw(rng, 3)[1]} == {"sky", "road"}


def test_a_data_set_without_labels_is_refused_by_name(camvid):
    camvid(None, None, None, None)
    with pytest.raises(DataError, match="'camvid_train' has no labelled pixel"):
        pretrain.Crops("camvid_train")


def test_labels_too_sparse_for_any_crop_are_refused(camvid):
    camvid("road", None, None, None)
    crops = pretrain.Crops("camvid_train")
    for labels in crops.labels:
        labels[:] = len(crops.names)
        labels[0, 0] = 0
    with pytest.raises(DataError, match="too sparse"):
        for _ in range(3):
            crops.draw(np.random.default_rng(0), 12)


def test_the_command_writes_weights_that_a_configuration_can_name(camvid, tmp_path, monkeypatch):
    camvid("sky", "tree", "road", "car")
    monkeypatch.setattr(pretrain, "TESTED", 8)
    threads = torch.get_num_threads()
    output = tmp_path / "clip"
    pretrain.main(
        ["--dataset", "camvid_train", "--output", str(output), "--steps", "2", "--batch", "4", "--lr", "1e-4"]
    )
    assert torch.get_num_threads() == threads
    record = json.loads((output / "record.json").read_text())
    assert (record["dataset"], record["start"], record["steps"], record["batch"]) == ("camvid_train", "scenes", 2, 4)
    assert 0 <= record["largest_class_top1_3x3_patches"] <= 1
    assert 0 <= record["training_largest_class_top1_6x6_patches"] <= 1
    ours, shipped = build_clip(f"local-dir:{output}", ""), build_clip("scenes_vit", "scenes")
    change = [
        (a - b).abs().max().item() for a, b in zip(ours.visual.parameters(), shipped.visual.parameters(), strict=True)
    ]
    assert 0 < max(change) < 0.01  # two small steps from the shipped weights


def test_embeddings_of_the_models_own_size_are_open_clips():
    register_shipped_models()
    model = open_clip.create_model("scenes_vit", str(SHIPPED_WEIGHTS["scenes_vit", "scenes"])).eval()
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            pretrain.embed_any_size(model, images), model.encode_image(images, normalize=True), rtol=1e-4, atol=1e-5
        )
    pretrain.embed_any_size(model, torch.rand(1, 3, 24, 40)).sum().backward()
    assert all(p.grad is not None for p in model.visual.parameters())
