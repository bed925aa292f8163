"""Checkpoints of models on another CLIP, and what may differ without being one."""

import pytest
import torch
from torch import nn

from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.checkpoints.same_clip import check_official_clip
from san_cliptrase.errors import CheckpointError
from tests.checkpoints.official_keys import official_state
from tests.checkpoints.test_official_keys import build, state_of

VISION = "clip.visual.vision"


class MetaSan(nn.Module):
    """The sizes of a published SAN, without numbers."""

    def __init__(self, name, recognition_blocks):
        super().__init__()
        with torch.device("meta"):
            parts = build(name)
        self.clip, self.recognition_blocks = parts["clip"], recognition_blocks


def test_each_release_belongs_to_its_own_clip():
    models = {"ViT-B-16": MetaSan("ViT-B-16", 3), "ViT-L-14-336": MetaSan("ViT-L-14-336", 6)}
    for name, model in models.items():
        check_official_clip(state_of(name), model)
    with pytest.raises(ValueError, match=r"24 blocks of width 1024.*577.*12 blocks of width 768, patches of 16"):
        check_official_clip(state_of("ViT-L-14-336"), models["ViT-B-16"])
    with pytest.raises(ValueError, match=r"another CLIP.*san_vit_b16\.yaml"):
        check_official_clip(state_of("ViT-B-16"), models["ViT-L-14-336"])


def test_a_recognition_head_of_another_depth_is_told_although_all_shapes_fit():
    with pytest.raises(ValueError, match=r"6 blocks.*this model's 3: set MODEL\.SAN\.RECOGNITION_LAYER -6"):
        check_official_clip(state_of("ViT-L-14-336"), MetaSan("ViT-L-14-336", 3))


@pytest.fixture
def model(world):
    return world.model(model__clip__pretrained="scenes", model__san__recognition_layer=-2)


def saved(model, path, official, **changes):
    """The model's weights on disk, some changed, in our format or in the official one."""
    state = {**model.state_dict(), **{key: change(model.state_dict()[key]) for key, change in changes.items()}}
    torch.save({"model": official_state(state, depth=6, first=4) if official else state}, path)
    return str(path)


def another(weights):
    return torch.randn_like(weights) * weights.std()


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize(
    "key",
    [
        f"{VISION}.transformer.resblocks.0.mlp.c_fc.weight",
        f"{VISION}.transformer.resblocks.5.attn.in_proj_weight",
        "clip.text.model.token_embedding.weight",
    ],
)
def test_another_training_of_the_same_clip_is_refused_by_name(model, tmp_path, official, key):
    path = saved(model, tmp_path / "san.pth", official, **{key: another})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"1 of \d+ frozen parameters.*scenes_vit with weights scenes") as caught:
        SafeCheckpointer(model).load(path)
    assert key in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("official", [True, False])
def test_half_precision_and_trained_positions_are_the_same_clip(model, tmp_path, official):
    positions, weights = f"{VISION}.positional_embedding", f"{VISION}.conv1.weight"
    path = saved(model, tmp_path / "san.pth", official, **{positions: another, weights: torch.Tensor.bfloat16})
    expected = torch.load(path, weights_only=True)["model"]
    SafeCheckpointer(model).load(path)
    found = model.state_dict()[positions]
    assert torch.equal(found, expected["clip_visual_extractor.positional_embedding" if official else positions])


def test_what_the_configuration_trains_may_differ(world, tmp_path):
    changes = {"model__clip__trainable": ("proj",), "model__clip__cache_gb": 0.0}
    model = world.model(model__clip__pretrained="scenes", **changes)
    path = saved(model, tmp_path / "san.pth", official=False, **{f"{VISION}.proj": another})
    SafeCheckpointer(model).load(path)


def test_weights_that_are_no_numbers_are_refused(model, tmp_path):
    path = saved(model, tmp_path / "san.pth", False, **{f"{VISION}.proj": lambda w: w * torch.nan})
    with pytest.raises(CheckpointError, match=rf"{VISION}\.proj"):
        SafeCheckpointer(model).load(path)


def test_a_clip_that_only_the_file_has_is_taken_with_a_warning(world, tmp_path, caplog):
    model = world.model(model__san__recognition_layer=-2)
    path = saved(model, tmp_path / "san.pth", True, **{f"{VISION}.proj": another})
    SafeCheckpointer(model).load(path)
    assert "taken unchecked" in caplog.text
    assert ("scenes_vit-quickgelu" in caplog.text) != model.clip.quick_gelu


def test_a_checkpoint_of_ours_on_a_larger_clip_says_how_large(world, tmp_path):
    model = world.model()
    path = saved(
        model,
        tmp_path / "san.pth",
        False,
        **{f"{VISION}.positional_embedding": lambda w: torch.cat([w, w])},
    )
    with pytest.raises(CheckpointError, match=r"its CLIP has 6 blocks.*290 positions, the configured.*145 pos"):
        SafeCheckpointer(model).load(path)
