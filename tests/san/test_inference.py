import pytest
import torch
import torch.nn.functional as F

from san_cliptrase.san.inference import mask_strips, semantic_map


def test_classes_fill_their_masks_and_the_background_has_no_channel():
    pred_logits = torch.tensor([[50.0, 0, 0], [0, 50.0, 0], [0, 0, 50.0]])
    masks = torch.full((3, 2, 4), -50.0)
    masks[0, :, :2], masks[1, :, 2:], masks[2] = 50, 50, 50
    found = semantic_map(pred_logits, masks, padded=(2, 4), size=(2, 4), output=(2, 4))
    expected = torch.zeros(2, 2, 4)
    expected[0, :, :2], expected[1, :, 2:] = 1, 1
    torch.testing.assert_close(found, expected)


def test_padding_is_cut_off_before_the_image_is_resized():
    masks = torch.full((1, 4, 4), -50.0)
    masks[:, :2, :2] = 50
    found = semantic_map(torch.tensor([[50.0, 0.0]]), masks, padded=(4, 4), size=(2, 2), output=(6, 8))
    torch.testing.assert_close(found, torch.ones(1, 6, 8))


@pytest.mark.parametrize("output", [(7, 9), (12, 20), (37, 41), (50, 13)])
@pytest.mark.parametrize("rows", [1, 5, 50])
def test_strips_are_those_of_the_masks_resized_as_a_whole(output, rows):
    logits, padded, size = torch.randn(3, 4, 6), (16, 24), (12, 20)
    strips = list(mask_strips(logits, padded, size, output, rows))
    assert max(strip.shape[1] for strip in strips) <= rows
    canvas = F.interpolate(logits[None], size=padded, mode="bilinear", align_corners=False)[..., :12, :20]
    whole = F.interpolate(canvas, size=output, mode="bilinear", align_corners=False)[0].sigmoid()
    torch.testing.assert_close(torch.cat(strips, dim=1), whole)
