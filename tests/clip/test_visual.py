import open_clip
import pytest
import torch

from san_cliptrase.clip.visual import ClipVisualEncoder, resolve_layer
from tests.clip.tiny import images, pad_together, tiny_open_clip


@pytest.fixture(scope="module")
def encoder():
    return ClipVisualEncoder(tiny_open_clip().visual)


def test_equals_open_clip(encoder):
    features = encoder(images(), [encoder.depth])
    torch.testing.assert_close(encoder.head(features.tokens[4])[:, 0], encoder.vision(images()), atol=1e-5, rtol=1e-5)


def test_describes_the_model(encoder):
    described = encoder.depth, encoder.width, encoder.heads, encoder.patch_size, encoder.embed_dim, encoder.grid
    assert described == (4, 32, 2, (8, 8), 16, (4, 4))


def test_taps_count_from_the_end_and_chain(encoder):
    features = encoder(images(), [-2, -1, 4, 0])
    assert set(features.tokens) == {0, 2, 3, 4}
    torch.testing.assert_close(encoder.run(features.tokens[2], -2, -1), features.tokens[3])
    torch.testing.assert_close(encoder.run(features.tokens[0], 0, 4), features.tokens[4])


def test_runs_no_further_than_the_last_tap(encoder, monkeypatch):
    ran = []
    monkeypatch.setattr("san_cliptrase.clip.visual.run_block", lambda block, tokens, **_: ran.append(block) or tokens)
    encoder(images(), [1, 2])
    assert ran == list(encoder.blocks[:2])


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_a_padded_batch_gives_what_each_image_alone_gives(offset):
    encoder = ClipVisualEncoder(tiny_open_clip().visual, interpolate_offset=offset)
    alone = [images(1, 40, 24)[0], images(1, 17, 50)[0], images(1, 32, 32)[0]]
    batch = encoder(*_with_taps(pad_together(alone)))
    assert batch.grid == (5, 7)
    for index, picture in enumerate(alone):
        single = encoder(picture[None], [4])
        h, w = single.grid
        assert single.valid.all()
        assert batch.valid[index].sum() == h * w
        torch.testing.assert_close(batch.patch_map(4)[index, :, :h, :w], single.patch_map(4)[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(batch.tokens[4][index, 0], single.tokens[4][0, 0], atol=1e-5, rtol=1e-5)


def _with_taps(batch):
    canvas, sizes = batch
    return canvas, [4], sizes


def test_stays_frozen(encoder):
    encoder.train()
    assert not encoder.training
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())


def test_one_parameter_can_be_trained():
    encoder = ClipVisualEncoder(tiny_open_clip().visual, trainable=("positional_embedding",))
    features = encoder(images(2, 24, 40), [2], [(24, 40), (20, 33)])
    features.tokens[2].square().sum().backward()
    assert [n for n, p in encoder.vision.named_parameters() if p.grad is not None] == ["positional_embedding"]
    with pytest.raises(ValueError, match="no parameter named pos_embed"):
        ClipVisualEncoder(tiny_open_clip().visual, trainable=("pos_embed",))


def test_without_padding_there_is_no_bias(encoder):
    valid = torch.ones(2, 6, dtype=torch.bool)
    assert encoder.key_bias(valid) is None
    valid[1, 4:] = False
    bias = encoder.key_bias(valid)
    assert bias.shape == (2, 1, 1, 7)
    assert bias[1, 0, 0].tolist() == [0, 0, 0, 0, 0, -torch.inf, -torch.inf]


@pytest.mark.parametrize("index", [-5, 5])
def test_a_layer_that_does_not_exist(index):
    with pytest.raises(ValueError, match=f"layer {index} does not exist: with 4 blocks, taps go from -4 to 4"):
        resolve_layer(index, 4)


def test_refuses_bad_input(encoder):
    with pytest.raises(ValueError, match="no taps"):
        encoder(images(), [])
    with pytest.raises(ValueError, match="1 sizes were given for a batch of 2"):
        encoder(images(), [1], [(32, 32)])
    with pytest.raises(ValueError, match=r"image size \(33, 32\) does not fit the padded batch of 32x32"):
        encoder(images(), [1], [(32, 32), (33, 32)])


def test_refuses_towers_that_it_cannot_run():
    text = open_clip.model.CLIPTextCfg(vocab_size=16, width=16, heads=2, layers=1)
    resnet = open_clip.CLIP(16, open_clip.model.CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32), text)
    with pytest.raises(ValueError, match=r"ModifiedResNet is not supported.*ViT-B-16"):
        ClipVisualEncoder(resnet.visual)
    with pytest.raises(ValueError, match="pools by attention"):
        ClipVisualEncoder(tiny_open_clip(attentional_pool=True, attn_pooler_heads=2).visual)
    with pytest.raises(ValueError, match=r"not its \[CLS\] token"):
        ClipVisualEncoder(tiny_open_clip(pool_type="avg").visual)
