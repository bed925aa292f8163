import pytest
import torch
import torch.nn.functional as F

from benchmarks.published_structure import recognise_in_one_sequence
from san_cliptrase.clip.recognition import recognition_taps
from san_cliptrase.san.recognition import MaskClassifier, recognise_masks
from tests.san import tiny

HEADS = 2


def features_of(clip, pixels, sizes=None):
    return clip(pixels, recognition_taps(clip, tiny.CLIP_BLOCKS), sizes)


def random_bias(batch=2, sets=1, heads=HEADS, grid=(8, 8)):
    shape = (batch, sets, heads, tiny.QUERIES, *grid)
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.double)


def test_equals_one_sequence_of_all_tokens_under_an_attention_mask(clip):
    """The paper's form: [SOS], [CLS] and patches in one sequence, -inf where a token must not look."""
    features, bias = features_of(clip, tiny.images()), random_bias()
    expected = recognise_in_one_sequence(clip, features, bias, tiny.CLIP_BLOCKS)
    torch.testing.assert_close(recognise_masks(clip, features, bias, tiny.CLIP_BLOCKS), expected)


def test_strong_bias_makes_a_query_see_its_patches_only(clip):
    pixels = tiny.images(batch=1)
    changed = pixels.clone()
    changed[..., :8, :8] += 1
    bias = torch.full((1, 1, 1, tiny.QUERIES, 4, 4), -1e4, dtype=torch.double)
    bias[..., 0, 0, 0], bias[..., 1, 3, 3] = 1e4, 1e4
    # Features of the first block's input, so that patches have not mixed yet.
    before, after = (
        recognise_masks(clip, clip(image, range(clip.depth)), bias, num_blocks=clip.depth)[0]
        for image in (pixels, changed)
    )
    one = [recognise_masks(clip, clip(pixels, range(4)), bias[:, :, :, [q, q]], clip.depth)[0, 0] for q in (0, 1)]
    torch.testing.assert_close(torch.stack(one), before[:2])
    assert (before[0] - after[0]).norm() > 10 * (before[1] - after[1]).norm()


def test_padded_patches_are_not_seen(clip):
    alone = tiny.images(batch=1)
    padded = F.pad(alone, (0, 16, 0, 8))
    bias = random_bias(batch=1)
    expected = recognise_masks(clip, features_of(clip, alone), bias, tiny.CLIP_BLOCKS)
    wide = F.pad(bias, (0, 4, 0, 2), value=50.0)
    found = recognise_masks(clip, features_of(clip, padded, sizes=[(32, 32)]), wide, tiny.CLIP_BLOCKS)
    torch.testing.assert_close(found, expected)


def test_one_set_is_shared_and_several_go_to_their_blocks(clip):
    features, bias = features_of(clip, tiny.images()), random_bias(sets=2)
    shared = recognise_masks(clip, features, bias[:, :1], tiny.CLIP_BLOCKS)
    repeated = recognise_masks(clip, features, bias[:, [0, 0]], tiny.CLIP_BLOCKS)
    torch.testing.assert_close(shared, repeated)
    own = recognise_masks(clip, features, bias, tiny.CLIP_BLOCKS)
    swapped = recognise_masks(clip, features, bias.flip(1), tiny.CLIP_BLOCKS)
    assert not torch.allclose(own, shared)
    assert not torch.allclose(own, swapped)


def test_queries_recognised_together_get_what_they_get_apart(clip):
    features, bias = features_of(clip, tiny.images()), random_bias()
    apart = [recognise_masks(clip, features, part, tiny.CLIP_BLOCKS) for part in (bias, bias.flip(3) - 1)]
    together = recognise_masks(clip, features, torch.cat([bias, bias.flip(3) - 1], dim=3), tiny.CLIP_BLOCKS)
    torch.testing.assert_close(together, torch.cat(apart, dim=1))


def test_bias_that_fits_no_clip_block_is_refused(clip):
    features = features_of(clip, tiny.images())
    with pytest.raises(ValueError, match="3 sets and 5 heads.*1 or 2 sets and 1 or 2 heads"):
        recognise_masks(clip, features, random_bias(sets=3, heads=5), tiny.CLIP_BLOCKS)
    with pytest.raises(ValueError, match="CLIP has 4 blocks"):
        recognition_taps(clip, 5)


def test_classifier_scores_cosines_with_the_background_last():
    classifier = MaskClassifier(4)
    with torch.no_grad():
        classifier.background.copy_(torch.tensor([[0.0, 0.0, 0.0, 7.0]]))
    text = torch.eye(4)[:2]
    logits = classifier(F.normalize(torch.tensor([[[3.0, 0.0, 0.0, 4.0]]]), dim=-1), text, 100.0)
    torch.testing.assert_close(logits, torch.tensor([[[60.0, 0.0, 80.0]]]))
