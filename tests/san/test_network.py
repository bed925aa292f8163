import pytest
import torch

from san_cliptrase.clip.batches import canvas_for_clip, resize_for_clip
from san_cliptrase.san import QUERY_INITS, recognise_masks
from tests.san import tiny


@pytest.mark.parametrize("zero_init", [False, True])
@pytest.mark.parametrize("name", QUERY_INITS)
def test_trains_under_automatic_mixed_precision(name, zero_init):
    clip, san = tiny.tiny_clip().float(), tiny.tiny_san(name, zero_init=zero_init).float()
    pixels = tiny.images().float()
    regions = tiny.partition(torch.arange(16).reshape(1, 4, 4).expand(2, -1, -1) // 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = san(pixels, tiny.encode(clip, pixels, san), regions)
        embeddings = [
            recognise_masks(clip, tiny.encode(clip, pixels, san), bias, tiny.CLIP_BLOCKS) for _, bias, _ in outputs
        ]
    exact = san(pixels, tiny.encode(clip, pixels, san), regions)[-1].mask_logits
    assert (outputs[-1].mask_logits - exact).abs().max() < 0.05 * exact.abs().max()
    sum(
        found.float().sum() + masks.float().sum() for found, (masks, *_) in zip(embeddings, outputs, strict=True)
    ).backward()
    gradients = [p.grad for p in san.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in gradients)


def test_network_names_every_tap_it_needs(clip):
    assert tiny.tiny_san("off").taps == (0, 1, 2)
    assert tiny.tiny_san("map_add").taps == (0, 1, 2, 3)
    san = tiny.tiny_san("map_add")
    regions = tiny.partition(torch.zeros(2, 4, 4, dtype=torch.long))
    assert len(san(tiny.images(), clip(tiny.images(), san.taps), regions)) == 2


def test_clip_sees_the_image_at_its_scale():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resize_for_clip(image, 1.0) is image
    assert resize_for_clip(image[..., :1, :], 0.5).shape[-2:] == (1, image.shape[-1] // 2)
    # Half the size, bilinear without anti-aliasing or aligned corners: the mean of each 2x2 block.
    torch.testing.assert_close(resize_for_clip(image, 0.5), torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))


def test_what_is_left_beside_whole_patches_does_not_reach_clip(clip):
    """As CLIP's first convolution leaves it out in SAN's code: the grid, and every patch, is the convolution's."""
    pixels = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    seen = canvas_for_clip(pixels, 0.7, clip.patch_size)
    assert seen.shape[-2:] == (64, 40)  # of 67x44 pixels, whole patches of 8
    expected = clip.vision.conv1(resize_for_clip(pixels, 0.7))
    assert clip(seen, [0]).grid == tuple(expected.shape[-2:])
    torch.testing.assert_close(clip.vision.conv1(seen), expected)
    assert canvas_for_clip(pixels, 0.5, (14, 14)).shape[-2:] == (42, 28)
    assert canvas_for_clip(pixels[..., :8, :8], 0.5, (8, 8)).shape[-2:] == (4, 4), "less than a patch stays"
