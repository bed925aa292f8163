"""SAM's masks: hand-made ones, and a random SAM of a few thousand weights, where transformers is installed."""

import builtins
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from san_cliptrase.cliptrase import RegionFinder, TrainingFreeReader
from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.errors import WeightsError
from san_cliptrase.regions.build import build_region_source
from san_cliptrase.regions.pixels import pixel_partition
from san_cliptrase.regions.sam import central_points, load_sam, paint
from tests.clip.tiny import images, tiny_clip
from tests.regions.given import save_sam


def test_the_mask_that_is_believed_most_wins_and_other_pixels_stay():
    below = torch.tensor([[7, 7, 7, 8]])
    masks = torch.tensor([[[True, True, False, False]], [[False, True, True, False]]])
    labels = torch.tensor([1, 2])
    assert paint(masks, torch.tensor([0.9, 0.5]), below, labels).tolist() == [[1, 1, 2, 8]]
    assert paint(masks, torch.tensor([0.5, 0.9]), below, labels).tolist() == [[1, 2, 2, 8]]


def test_a_regions_point_is_its_strongest_patch_among_those_that_it_wins():
    maps = torch.zeros(3, 2, 3)
    maps[0, 0] = torch.tensor([0.5, 0.6, 0.9])
    maps[1] = torch.tensor([[0.1, 0.2, 1.0], [0.4, 0.8, 0.3]])  # strongest where it wins too
    maps[2] = 0.05  # wins nothing
    present, points = central_points(maps, (20, 60))
    assert present.tolist() == [0, 1]
    assert points.tolist() == [[30.0, 5.0], [50.0, 5.0]]


def test_without_transformers_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(WeightsError, match=r"pip install 'san_cliptrase\[sam\]'"):
        load_sam("facebook/sam-vit-base")


OPTIONS = {"eps": 0.4, "min_samples": 2}


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(interpolate_offset=0.1)


@pytest.fixture(scope="module")
def build(tiny_sam, clip):
    """Function of a source's name."""
    return lambda name: build_region_source(name, clip.visual, sam_model=tiny_sam, sam_grid=3, **OPTIONS)


def pictures():
    """Two pictures of half one colour and half another."""
    result = [0.2 * images(1, 48, 40)[0], 0.2 * images(1, 48, 40)[0].flip(2)]
    for index, picture in enumerate(result):
        picture[index, :, :20] += 2
        picture[2 - index, :, 20:] -= 2
    return torch.stack(result)


@pytest.mark.parametrize("name", ["sam", "sam_points"])
def test_a_batch_gets_what_each_image_gets_alone(clip, build, name):
    source = build(name)
    shown = torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    together = source(list(shown), clip.visual(pictures(), source.taps))
    for index, found in enumerate(together.labels):
        assert found.shape == (48, 40)
        assert found.dtype == torch.int64
        alone = source([shown[index]], clip.visual(pictures()[index : index + 1], source.taps))
        assert torch.equal(found, alone.labels[0])


def test_points_give_cliptrases_regions_the_boundaries_of_sam(clip, build):
    finder = RegionFinder(clip.visual, **OPTIONS)
    features = clip.visual(pictures(), finder.taps)
    own = pixel_partition(finder([], features), features)
    refined = build("sam_points")(list(torch.rand(2, 3, 48, 40)), features)
    assert any(not torch.equal(a, b) for a, b in zip(own, refined.labels, strict=True))
    assert (refined.valid.sum(1) <= torch.tensor([len(mine.unique()) for mine in own])).all()


def test_points_need_one_clustering(clip, build, monkeypatch):
    calls, source = [], build("sam_points")
    finder = source.finder
    monkeypatch.setattr(finder, "maps", lambda *given, maps=finder.maps: calls.append(1) or maps(*given))
    source(list(torch.rand(2, 3, 48, 40)), clip.visual(pictures(), source.taps))
    assert calls == [1]


@pytest.mark.parametrize("name", ["sam", "sam_points"])
@pytest.mark.parametrize("classify", [name for name in CLASSIFY if name != "patches"])
def test_its_regions_are_classified_in_every_way(clip, build, name, classify):
    source = build(name)
    reader = TrainingFreeReader(clip.visual, source, classify=classify, cls_layer=-3)
    features, shown = clip.visual(pictures(), reader.taps), list(torch.rand(2, 3, 96, 80))
    text = clip.text(["grass", "water", "brick"], templates="none")
    found, scores = (list(read(features, text, shown)) for read in (reader.segment, reader.scores))
    for labels, score, own in zip(found, scores, source(shown, features).labels, strict=True):
        assert all(len(labels[own == region].unique()) == 1 for region in own.unique())
        assert torch.equal(score.argmax(0), labels)


def test_masks_that_sam_finds_become_regions_on_top_of_cliptrases(clip, build, monkeypatch):
    import transformers

    real, seen = transformers.pipeline, []

    def credulous(*args, **kwargs):
        """A random SAM believes in no mask: every one passes."""
        generate = real(*args, **kwargs)

        def call(*inputs, **options):
            seen.append(generate(*inputs, pred_iou_thresh=-1e9, stability_score_thresh=-1.0, **options))
            return seen[-1]

        return call

    monkeypatch.setattr(transformers, "pipeline", credulous)
    source, finder = build("sam"), RegionFinder(clip.visual, **OPTIONS)
    features = clip.visual(pictures()[:1], finder.taps)
    (found,) = source([torch.rand(3, 96, 80)], features).labels
    (own,) = pixel_partition(finder([], features), features)
    masks = torch.stack([torch.as_tensor(mask) for mask in seen[0]["masks"]])
    assert masks.shape[1:] == (96, 80)
    best = torch.nn.functional.avg_pool2d(masks[seen[0]["scores"].argmax()][None].float(), 2)[0] > 0.5
    assert best.any()
    assert len(found[best].unique()) == 1
    rest = ~torch.nn.functional.max_pool2d(masks.any(0)[None].float(), 2)[0].bool()
    assert len(torch.stack([found[rest], own[rest]]).unique(dim=1)[0]) == len(own[rest].unique())


def test_a_sam_with_a_pipe_or_weights_that_are_not_finite_is_refused(tmp_path):
    pytest.importorskip("transformers")
    folder = Path(save_sam(tmp_path))
    state = load_file(folder / "model.safetensors")
    next(iter(state.values())).view(-1)[0] = torch.nan
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match="are NaN or infinite"):
        load_sam(str(folder))
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(WeightsError, match="not a regular file but a pipe"):
        load_sam(str(folder))


def test_a_sam_that_cannot_be_fetched_is_not_tried_again_and_again(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        load_sam("facebook/no-such-sam")


def test_a_sam_that_is_not_there_says_what_to_download(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(WeightsError, match=r"could not be loaded.*model.safetensors.*MODEL.REGIONS.SAM_MODEL"):
        load_sam(str(tmp_path))
