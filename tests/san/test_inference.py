import torch

from san_cliptrase.san.inference import semantic_map


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
