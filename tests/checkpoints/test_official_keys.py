import open_clip
import pytest
import torch
from torch import nn

from benchmarks.parity_weights import draw_weights
from san_cliptrase.checkpoints.official_keys import POS_EMBED, count_blocks, from_official, is_official, to_official
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.san import MaskClassifier, MaskDecoder, SideAdapter, SideAdapterNetwork
from tests.checkpoints.official_keys import official_shapes

# name -> (CLIP tap of each side block, heads of the attention bias)
RELEASED = {"ViT-B-16": ((0, 3, 6, 9), 12), "ViT-L-14-336": ((0, 6, 12, 18), 16)}


def build(name: str) -> nn.Module:
    taps, heads = RELEASED[name]
    clip = FrozenClip(open_clip.CLIP(**open_clip.get_model_config(name)), tokenizer=list)
    adapter = SideAdapter(clip_width=clip.visual.width, fusion=dict(enumerate(taps)))
    network = SideAdapterNetwork(adapter, MaskDecoder(heads=heads))
    return nn.ModuleDict({"clip": clip, "network": network, "classifier": MaskClassifier(clip.visual.embed_dim)})


def state_of(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in official_shapes(name).items()}


@pytest.mark.parametrize("name", RELEASED)
def test_released_weights_fit_key_by_key_and_shape_by_shape(name):
    with torch.device("meta"):
        ours = {key: tensor.shape for key, tensor in build(name).state_dict().items()}
    theirs = {key: tensor.shape for key, tensor in from_official(state_of(name)).items()}
    assert ours == theirs


@pytest.mark.parametrize("name", RELEASED)
def test_every_released_key_comes_back_with_its_shape(name):
    theirs = state_of(name)
    back = to_official(from_official(theirs), count_blocks(theirs)[0], theirs["criterion.empty_weight"])
    assert {key: tensor.shape for key, tensor in back.items()} == {key: tensor.shape for key, tensor in theirs.items()}


def test_every_value_comes_back_bit_for_bit():
    theirs = draw_weights(official_shapes("parity"), seed=1)
    theirs["ov_classifier.attn_mask"] = torch.full((77, 77), -torch.inf).triu(1)
    ours = from_official(theirs, depth=12)
    assert sum(tensor.numel() for tensor in ours.values()) == sum(
        tensor.numel() for key, tensor in theirs.items() if not key.endswith(("empty_weight", "attn_mask"))
    )
    back = to_official(ours, 9, theirs["criterion.empty_weight"])
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.items())


def test_what_san_does_not_have_is_not_exported():
    ours = from_official(state_of("ViT-B-16"))
    with pytest.raises(ValueError, match=r"network\.query_init\.prior\.mask_strength has no place"):
        to_official({**ours, "network.query_init.prior.mask_strength": torch.ones(())}, 9, torch.ones(172))


def shared_blocks(last):
    """A CLIP of three blocks, all of them in the extractor, the last in the recognition head too."""
    key = "{}.resblocks.{}.ln_1.bias"
    extractor = {key.format("clip_visual_extractor", i): torch.full((1,), float(i)) for i in range(3)}
    return {**extractor, key.format("clip_rec_head", 0): torch.full((1,), last)}


def test_copies_of_a_block_count_once_if_they_are_equal():
    converted = from_official(shared_blocks(last=2.0), depth=3)
    prefix = "clip.visual.vision.transformer.resblocks"
    assert {key: value.item() for key, value in converted.items()} == {f"{prefix}.{i}.ln_1.bias": i for i in range(3)}


def test_copies_of_a_block_that_differ_are_named():
    with pytest.raises(
        ValueError, match=r"extractor\.resblocks\.2\.ln_1\.bias and clip_rec_head\.resblocks\.0\.ln_1\.bias"
    ):
        from_official(shared_blocks(last=2.5), depth=3)


def test_recognition_blocks_follow_the_extractors_blocks():
    converted = from_official(
        {
            "clip_visual_extractor.resblocks.0.ln_1.bias": torch.zeros(1),
            "clip_visual_extractor.resblocks.1.ln_1.bias": torch.ones(1),
            "clip_rec_head.resblocks.0.ln_1.bias": torch.full((1,), 2.0),
        }
    )
    prefix = "clip.visual.vision.transformer.resblocks"
    assert [converted[f"{prefix}.{i}.ln_1.bias"].item() for i in range(3)] == [0, 1, 2]


def test_side_positions_are_resampled_for_another_image_size():
    official = {"side_adapter_network.vit_model.pos_embed": torch.arange(16.0).reshape(1, 16, 1)}
    same = from_official(official, side_grid=(4, 4))[POS_EMBED]
    larger = from_official(official, side_grid=(8, 8))[POS_EMBED]
    assert torch.equal(same, official["side_adapter_network.vit_model.pos_embed"])
    assert larger.shape == (1, 64, 1)
    assert larger.mean().item() == pytest.approx(7.5, abs=1e-4)


def test_another_models_checkpoint_is_refused_by_name():
    assert is_official(state_of("ViT-B-16"))
    assert not is_official({"backbone.stem.conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"backbone\.stem\.conv1\.weight.*another model"):
        from_official({"backbone.stem.conv1.weight": torch.zeros(1)})
