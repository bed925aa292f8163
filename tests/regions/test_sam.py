"""SAM's masks: hand-made ones, and a random SAM of a few thousand weights, where transformers is installed."""

import builtins

import pytest
import torch

from san_cliptrase.cliptrase import Cliptrase
from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.errors import WeightsError
from san_cliptrase.regions.sam import central_points, load_sam, paint
from san_cliptrase.regions.source import build_mask_source
from tests.clip.tiny import images, tiny_clip


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


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory):
    """A random SAM of 64 pixels with 8x8 patches of 8, as a folder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam")
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
    config = transformers.SamConfig(
        vision_config={
            **vision, "output_channels": 16, "mlp_dim": 16, "window_size": 4, "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    transformers.SamModel(config).save_pretrained(folder)
    processor = transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    transformers.SamProcessor(processor).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def method():
    return Cliptrase(tiny_clip(interpolate_offset=0.1).visual, eps=0.4, min_samples=2)


def pictures():
    """Two pictures of half one colour and half another."""
    result = [0.2 * images(1, 48, 40)[0], 0.2 * images(1, 48, 40)[0].flip(2)]
    for index, picture in enumerate(result):
        picture[index, :, :20] += 2
        picture[2 - index, :, 20:] -= 2
    return torch.stack(result)


@pytest.mark.parametrize("name", ["sam", "sam_points"])
def test_a_batch_gets_what_each_image_gets_alone(sam_folder, method, name):
    source = build_mask_source(name, method, sam_model=sam_folder, sam_grid=3)
    shown = torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    sizes = [(48, 40)] * 2
    together = source(list(shown), sizes, method.visual(pictures(), method.taps))
    for index, found in enumerate(together):
        assert found.shape == (48, 40)
        assert found.dtype == torch.int64
        alone = source([shown[index]], sizes[:1], method.visual(pictures()[index : index + 1], method.taps))
        assert torch.equal(found, alone[0])


def test_points_give_cliptrases_regions_the_boundaries_of_sam(sam_folder, method):
    features = method.visual(pictures(), method.taps)
    sizes = [(48, 40)] * 2
    own = method.partitions(features, sizes)
    found = build_mask_source("sam_points", method, sam_model=sam_folder)(
        list(torch.rand(2, 3, 48, 40)), sizes, features
    )
    assert any(not torch.equal(a, b) for a, b in zip(own, found, strict=True))
    for mine, refined in zip(own, found, strict=True):
        assert set(refined.unique().tolist()) <= set(mine.unique().tolist())


def test_points_need_one_clustering(sam_folder, method, monkeypatch):
    calls = []
    monkeypatch.setattr(method, "maps", lambda *given, maps=method.maps: calls.append(1) or maps(*given))
    features = method.visual(pictures(), method.taps)
    build_mask_source("sam_points", method, sam_model=sam_folder)(
        list(torch.rand(2, 3, 48, 40)), [(48, 40)] * 2, features
    )
    assert calls == [1]


@pytest.mark.parametrize("name", ["sam", "sam_points"])
@pytest.mark.parametrize("classify", [name for name in CLASSIFY if name != "patches"])
def test_its_regions_are_classified_in_every_way(sam_folder, name, classify):
    clip = tiny_clip(interpolate_offset=0.1)
    method = Cliptrase(clip.visual, eps=0.4, min_samples=2, classify=classify, cls_layer=-3)
    source = build_mask_source(name, method, sam_model=sam_folder, sam_grid=3)
    features, sizes = method.visual(pictures(), method.taps), [(48, 40)] * 2
    regions = source(list(torch.rand(2, 3, 96, 80)), sizes, features)
    text = clip.text(["grass", "water", "brick"], templates="none")
    found = method.segment(features, text, sizes, regions=regions)
    scores = list(method.scores(features, text, sizes, regions=regions))
    for labels, score, own in zip(found, scores, regions, strict=True):
        assert all(len(labels[own == region].unique()) == 1 for region in own.unique())
        assert torch.equal(score.argmax(0), labels)


def test_masks_that_sam_finds_become_regions_on_top_of_cliptrases(sam_folder, method, monkeypatch):
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
    source = build_mask_source("sam", method, sam_model=sam_folder, sam_grid=3)
    features = method.visual(pictures()[:1], method.taps)
    (found,) = source([torch.rand(3, 96, 80)], [(48, 40)], features)
    (own,) = method.partitions(features, [(48, 40)])
    masks = torch.stack([torch.as_tensor(mask) for mask in seen[0]["masks"]])
    assert masks.shape[1:] == (96, 80)
    best = torch.nn.functional.avg_pool2d(masks[seen[0]["scores"].argmax()][None].float(), 2)[0] > 0.5
    assert best.any()
    assert len(found[best].unique()) == 1
    rest = ~torch.nn.functional.max_pool2d(masks.any(0)[None].float(), 2)[0].bool()
    assert len(torch.stack([found[rest], own[rest]]).unique(dim=1)[0]) == len(own[rest].unique())


def test_a_sam_that_is_not_there_says_what_to_download(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(WeightsError, match=r"could not be loaded.*model.safetensors.*MODEL.CLIPTRASE.SAM_MODEL"):
        load_sam(str(tmp_path))
