import pytest
import torch

from san_cliptrase.san import QUERY_INITS, build_query_init
from san_cliptrase.structures import Regions
from tests.san import tiny

ACTIVE = [name for name in QUERY_INITS if name not in ("off", "prototypes")]


def labels(batch=2, count=4, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, count, (batch, 4, 4), generator=generator)


def run(name, clip, pixels, regions, final=True, **init):
    san = tiny.tiny_san(name, **init)
    outputs = san(pixels, tiny.encode(clip, pixels, san), regions)
    return outputs[-1] if final else outputs


def test_off_and_missing_regions_are_plain_san(clip):
    pixels, regions = tiny.images(), tiny.partition(labels())
    plain = run("off", clip, pixels, None)
    assert all(map(torch.equal, run("off", clip, pixels, regions)[:2], plain[:2]))
    for name in ACTIVE:
        san = tiny.tiny_san(name)
        san.load_state_dict(tiny.tiny_san("off").state_dict(), strict=False)
        found = san(pixels, tiny.encode(clip, pixels, san), None)[-1]
        assert all(map(torch.equal, found[:2], plain[:2])), name


@pytest.mark.parametrize("name", ACTIVE)
def test_regions_change_the_masks(clip, name):
    pixels, regions = tiny.images(), tiny.partition(labels())
    assert not torch.allclose(run(name, clip, pixels, regions)[0], run(name, clip, pixels, None)[0])


@pytest.mark.parametrize("name", QUERY_INITS)
def test_with_zero_init_every_mode_begins_as_plain_san_bit_for_bit(clip, name):
    pixels, regions = tiny.images(), tiny.partition(labels())
    plain, san = tiny.tiny_san("off"), tiny.tiny_san(name, zero_init=True)
    san.load_state_dict(plain.state_dict(), strict=False)
    found = san(pixels, tiny.encode(clip, pixels, san), regions)
    for ours, theirs in zip(found, plain(pixels, tiny.encode(clip, pixels, plain), None), strict=True):
        assert torch.equal(ours.mask_logits, theirs.mask_logits)
        assert torch.equal(ours.attn_bias, theirs.attn_bias)
    assert san.query_init.begins_as_plain_san


@pytest.mark.parametrize("name", ACTIVE)
def test_with_zero_init_regions_come_in_by_learning(clip, name):
    pixels, regions = tiny.images(), tiny.partition(labels())
    san = tiny.tiny_san(name, zero_init=True)
    optimizer = torch.optim.SGD(san.query_init.parameters(), lr=1e-3)
    features = tiny.encode(clip, pixels, san)
    for _ in range(2):  # in the first step a factor that is 0 may hide another from the gradient
        before = {key: value.clone() for key, value in san.query_init.named_parameters()}
        optimizer.zero_grad()
        masks, bias, _ = san(pixels, features, regions)[-1]
        (masks.square().mean() + bias.square().mean()).backward()
        optimizer.step()
    assert all(not torch.equal(value, before[key]) for key, value in san.query_init.named_parameters())
    assert not torch.allclose(
        san(pixels, features, regions)[-1].mask_logits, san(pixels, features, None)[-1].mask_logits
    )


def test_a_strength_of_zero_is_left_out_with_zero_init_too(clip):
    prior = build_query_init("prior", zero_init=True, mask_strength=2.0, bias_strength=0.0).prior
    assert (prior.mask_strength.requires_grad, prior.bias_strength.requires_grad) == (True, False)


@pytest.mark.parametrize("name", ACTIVE)
def test_without_zero_init_regions_count_at_once(name):
    init = build_query_init(name)
    assert not init.begins_as_plain_san
    assert init.content_strength is None


@pytest.mark.parametrize("name", ["tokens_prior", "prior"])
def test_at_iteration_0_the_masks_are_the_regions(clip, name):
    """Every supervised block, every pixel: the winning query is that of the region, largest first."""
    pixels, label_map = tiny.images(), labels()
    regions = tiny.partition(label_map)
    rank = regions.masks.flatten(2).sum(-1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    expected = torch.stack([rank[i][label_map[i]] for i in range(2)])
    expected = expected.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for masks, *_ in run(name, clip, pixels, regions, final=False, mask_strength=50.0):
        assert torch.equal(masks.argmax(dim=1), expected)
        assert (masks[:, 4:] < 0).all(), "queries without a region start pushed down"


def test_prior_moves_bias_by_the_signed_mask_and_only_of_queries_with_a_region(clip):
    pixels = tiny.images(batch=1)
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.double)
    masks[..., :2] = 1
    regions = Regions(masks, torch.ones(1, 1, dtype=torch.bool))
    found, plain = (run("prior", clip, pixels, given, bias_strength=3.0) for given in (regions, None))
    moved = (found.attn_bias - plain.attn_bias)[0, 0]
    torch.testing.assert_close(moved[:, 0, :, 0], torch.full_like(moved[:, 0, :, 0], 3.0))
    torch.testing.assert_close(moved[:, 0, :, -1], torch.full_like(moved[:, 0, :, -1], -3.0))
    assert moved[:, 1:].abs().max() == 0


def test_names_are_the_mean_over_the_region_and_have_no_parameter_unless_asked_for(clip):
    regions = tiny.partition(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [1, 1, -1, -1]])[None])
    pixels = tiny.images(batch=1)
    expected = torch.zeros(1, tiny.QUERIES, 16, dtype=torch.double)
    expected[:, 0, :10], expected[:, 1, 10:14] = 0.5 / 10, 0.5 / 4
    for prediction in run("prior", clip, pixels, regions, final=False, name_strength=0.5):
        torch.testing.assert_close(prediction.votes, expected)
    assert not run("prior", clip, pixels, regions, name_strength=0.5, zero_init=True).votes.any()
    assert run("prior", clip, pixels, regions).votes is None
    assert "prior.name_strength" not in build_query_init("prior").state_dict()


def test_names_without_a_prior_are_refused():
    with pytest.raises(ValueError, match="NAME_STRENGTH is 0.5.*'tokens' has no prior.* to tokens_prior or prior"):
        build_query_init("tokens", name_strength=0.5)


def test_an_annealed_query_gets_nothing_from_its_region(clip):
    pixels, regions = tiny.images(), tiny.partition(labels())
    annealed = torch.zeros(2, tiny.QUERIES, dtype=torch.bool)
    annealed[0, :2] = annealed[1, -1] = True  # with regions, and one that has none
    san = tiny.tiny_san("prior", name_strength=0.5)
    features = tiny.encode(clip, pixels, san)
    plain, prior = san(pixels, features)[-1], san(pixels, features, regions)[-1]
    found = san(pixels, features, regions, annealed)[-1]
    assert torch.equal(found.votes, prior.votes.masked_fill(annealed[..., None], 0))
    for image in range(2):
        for query, gone in enumerate(annealed[image]):
            expected = plain if gone else prior
            assert torch.equal(found.mask_logits[image, query], expected.mask_logits[image, query])
            assert torch.equal(found.attn_bias[image, :, :, query], expected.attn_bias[image, :, :, query])


@pytest.mark.parametrize("name", ACTIVE)
def test_with_all_queries_annealed_every_mode_is_plain_san(clip, name):
    pixels, regions, san = tiny.images(), tiny.partition(labels()), tiny.tiny_san(name)
    everything = torch.ones(2, tiny.QUERIES, dtype=torch.bool)
    features = tiny.encode(clip, pixels, san)
    for found, plain in zip(san(pixels, features, regions, everything), san(pixels, features), strict=True):
        torch.testing.assert_close(found, plain)


def test_more_regions_than_queries_keeps_the_largest(clip):
    label_map = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [7, 7, 6, 5], [4, 3, 2, 1]])[None]
    regions = tiny.partition(label_map)  # region 0 has one patch, 7 has three, the other six two
    pixels = tiny.images(batch=1)
    masks = run("prior", clip, pixels, regions, mask_strength=50.0).mask_logits
    assert masks.shape[1] == tiny.QUERIES
    winners = masks.argmax(1)[0, ::2, ::2]
    assert (winners[label_map[0] == 7] == 0).all()
    assert (masks[0, :, 0, 0] < 0).all(), "the smallest region has no query"


@pytest.mark.parametrize("name", ACTIVE)
def test_order_of_regions_does_not_matter_except_between_equals(clip, name):
    pixels = tiny.images(batch=1)
    label_map = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 2, 2]])[None]  # areas 6, 4, 6
    regions = tiny.partition(label_map)
    shuffled = Regions(regions.masks[:, [1, 0, 2]], regions.valid[:, [1, 0, 2]])
    swapped = Regions(regions.masks[:, [2, 1, 0]], regions.valid[:, [2, 1, 0]])
    found = run(name, clip, pixels, regions)
    assert all(map(torch.equal, run(name, clip, pixels, shuffled)[:2], found[:2]))
    if name == "prior":
        plain = run(name, clip, pixels, None).mask_logits
        moved, exchanged = found.mask_logits - plain, run(name, clip, pixels, swapped).mask_logits - plain
        torch.testing.assert_close(exchanged[:, [1, 0, 2]], moved[:, :3])


def test_equal_regions_exchanged_exchange_their_queries_content(clip):
    regions = tiny.partition(torch.tensor([[0] * 4, [0] * 4, [1] * 4, [1] * 4])[None])
    swapped = Regions(regions.masks.flip(1), regions.valid)
    pixels = tiny.images(batch=1)
    san = tiny.tiny_san("tokens")
    san.adapter.query_pos_embed.data.zero_()
    features = tiny.encode(clip, pixels, san)
    found, exchanged = (san(pixels, features, given)[-1].mask_logits for given in (regions, swapped))
    torch.testing.assert_close(exchanged[:, [1, 0]], found[:, :2])


@pytest.mark.parametrize("name", QUERY_INITS)
def test_batch_equals_each_image_alone(clip, name):
    pixels = tiny.images()
    label_map = labels()
    label_map[1].clamp_(max=1)  # fewer regions than the other image
    regions = tiny.partition(label_map)
    together = run(name, clip, pixels, regions)
    for i in range(2):
        count = int(regions.valid[i].sum())
        own = Regions(regions.masks[i : i + 1, :count], regions.valid[i : i + 1, :count])
        alone = run(name, clip, pixels[i : i + 1], own)
        for batched, single in zip(together[:2], alone[:2], strict=True):
            torch.testing.assert_close(batched[i], single[0])


def test_image_without_regions_keeps_learned_queries(clip):
    regions = Regions(torch.zeros(2, 3, 4, 4, dtype=torch.double), torch.zeros(2, 3, dtype=torch.bool))
    pixels = tiny.images()
    for name in ("map_add", "map_replace", "tokens"):
        torch.testing.assert_close(run(name, clip, pixels, regions), run(name, clip, pixels, None))


def test_gradient_reaches_strengths_and_not_the_regions(clip):
    regions = tiny.partition(labels())
    regions.masks.requires_grad_()
    pixels = tiny.images()
    san = tiny.tiny_san("tokens_prior")
    for masks, bias, _ in san(pixels, tiny.encode(clip, pixels, san), regions):
        (masks.square().mean() + bias.square().mean()).backward(retain_graph=True)
    prior = san.query_init.prior
    assert prior.mask_strength.grad.abs() > 0
    assert prior.bias_strength.grad.abs() > 0
    assert regions.masks.grad is None


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'token'.*off, map_add"):
        build_query_init("token")
