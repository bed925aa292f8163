"""Regions of another ViT: a random one of timm, three times smaller than the smallest."""

import os

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from san_cliptrase.errors import WeightsError
from san_cliptrase.regions.timm_vit import TimmRegions, load_timm, patch_correlation
from tests.regions.given import empty_features, save_vit

SIZES = [(48, 32), (30, 61)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_timm(save_vit(tmp_path_factory.mktemp("vit")).removeprefix("timm:"))


def halves(height, width):
    """Left half red, right half blue."""
    image = torch.zeros(3, height, width)
    image[0, :, : width // 2] = image[2, :, width // 2 :] = 0.9
    return image


def test_two_halves_share_no_region_at_the_size_asked_for_alone_and_in_a_batch(model):
    source, pictures = TimmRegions(model, min_samples=3), [halves(96, 64), halves(60, 122)]
    together = source(pictures, empty_features(*SIZES, patch=8))
    for index, (height, width) in enumerate(SIZES):
        found = together.labels[index]
        assert found.shape == (height, width)
        left, right = found[:, : width // 2 - 4].unique(), found[:, width // 2 + 4 :].unique()
        assert not set(left.tolist()) & set(right.tolist())
        alone = source([pictures[index]], empty_features(SIZES[index], patch=8))
        assert torch.equal(found, alone.labels[0])
        assert together.valid[index].sum() == alone.valid.sum() == found.max() + 1


def test_tokens_are_the_models_own_under_its_own_normalisation(model):
    image = torch.rand(3, 48, 32)
    tokens, grid = TimmRegions(model).tokens(image, (48, 32))
    assert grid == (6, 4)
    torch.testing.assert_close(tokens, model.forward_features((image[None] - 0.5) / 0.5), rtol=1e-4, atol=1e-5)
    correlation = patch_correlation(tokens)[0]
    expected = torch.nn.functional.cosine_similarity(tokens[0, :, None], tokens[0, None], dim=-1)
    torch.testing.assert_close(correlation, expected, rtol=1e-4, atol=1e-5)


def test_a_weights_file_gives_the_weights_in_it_and_random_is_asked_for(tmp_path):
    torch.manual_seed(1)
    wanted = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(wanted.state_dict(), path)
    loaded = load_timm("vit_tiny_patch16_224", str(path))
    other = load_timm("vit_tiny_patch16_224", "random")
    assert torch.equal(loaded.blocks[3].attn.qkv.weight, wanted.blocks[3].attn.qkv.weight)
    assert not torch.equal(other.blocks[3].attn.qkv.weight, wanted.blocks[3].attn.qkv.weight)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_what_cannot_be_used_is_refused_with_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no model 'vit_smal_patch16_224.dino'.*vit_small_patch16_224.dino"):
        load_timm("vit_smal_patch16_224.dino")
    with pytest.raises(ValueError, match="'resnet18' is no ViT"):
        load_timm("resnet18", "random")
    with pytest.raises(ValueError, match=r"no \[CLS\] token"):
        load_timm("vit_pwee_patch16_reg1_gap_256", "random")
    (tmp_path / "bad.pth").write_bytes(b"text")
    with pytest.raises(WeightsError, match="is 'default', 'random' or a weights file; .*bad.pth' is a text"):
        load_timm("vit_small_patch16_224.dino", str(tmp_path / "bad.pth"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # nothing is tried again and again
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set.*small_patch16_224.dino/resolve.*REGIONS.PRETRAINED"):
        load_timm("vit_small_patch16_224.dino")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: os.mkfifo(path), "is a named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "holds Python objects"),
    ],
)
def test_a_wrong_weights_file_is_told_for_what_it_is(tmp_path, write, message):
    write(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message) as caught:
        load_timm("vit_pwee_patch16_reg1_gap_256", str(tmp_path / "w.pth"))
    assert "weights_only=False" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    name = save_vit(tmp_path).removeprefix("timm:")
    weights = tmp_path / "model.safetensors"
    state = safetensors.torch.load_file(weights)
    state["norm.bias"][0] = torch.inf
    safetensors.torch.save_file(state, weights)
    with pytest.raises(WeightsError, match="numbers in norm.bias are NaN or infinite"):
        load_timm(name)


def test_a_folder_with_a_pipe_is_not_waited_for(tmp_path):
    name = save_vit(tmp_path).removeprefix("timm:")
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(WeightsError, match="not a regular file but a pipe"):
        load_timm(name)
