import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from san_cliptrase.clip.batches import image_batch
from san_cliptrase.errors import OptionError
from san_cliptrase.meta_arch import SAN
from san_cliptrase.san.model import DIVISIBILITY

LOSSES = {"loss_ce", "loss_mask", "loss_dice"}


def losses(model, entries, iteration=0):
    """Losses of a batch and what the model logged."""
    torch.manual_seed(0)
    with EventStorage(iteration) as storage:
        return model.train()(entries), storage.latest()


def test_it_is_found_by_its_name():
    assert META_ARCH_REGISTRY.get("SAN") is SAN


@pytest.mark.parametrize("name", ["off", "tokens_prior"])
def test_a_training_batch_of_mixed_sizes_has_losses_of_every_supervised_block(world, name):
    entries = world.batch(count=3)
    assert len({entry["image"].shape for entry in entries}) > 1
    found, logged = losses(world.model(model__san__query_init__name=name), entries)
    assert found.keys() == LOSSES | {f"{key}_0" for key in LOSSES}
    assert all(loss.isfinite() and loss > 0 for loss in found.values())
    assert ("regions/mean_count" in logged) == (name != "off")


@pytest.mark.parametrize("name", ["san", "san_cliptrase"])
def test_the_scale_of_vit_l14_leaves_pixels_over(world, name):
    """At 0.7 the canvas is no multiple of the patch, as on ViT-L/14 in most test images; SAN leaves the rest out."""
    model, entries = world.model(name, model__clip__resolution=0.7).eval(), world.batch(train=False, count=1)
    batch = image_batch([entry["image"] for entry in entries], model.clip, DIVISIBILITY)
    height, width = (int(side * 0.7) // 8 for side in batch.tensor.shape[-2:])
    assert any(int(side * 0.7) % 8 for side in batch.tensor.shape[-2:])
    assert model.clip_features(batch).grid == (height, width)
    assert model(entries)[0]["sem_seg"].isfinite().all()


def test_kept_features_change_nothing_and_are_forgotten_with_the_weights(world):
    entries = world.batch(count=2)
    names = {"model__san__query_init__name_strength": 1.0, "model__cliptrase__attention": "clip_surgery"}
    kept = world.model("san_cliptrase", model__clip__cache_gb=0.1, **names)
    plain = world.model("san_cliptrase", **names)
    plain.load_state_dict(kept.state_dict())
    expected = losses(plain, entries)[0]
    for _ in range(2):  # computed, then remembered
        found = losses(kept, entries)[0]
        assert all(torch.isclose(found[key], expected[key], rtol=1e-3) for key in expected)
    state = dict(kept.state_dict())
    state["clip.visual.vision.conv1.weight"] = -3 * state["clip.visual.vision.conv1.weight"]
    for model in (kept, plain):
        model.load_state_dict(state)
    changed = losses(plain, entries)[0]["loss_ce"]
    assert not torch.isclose(changed, expected["loss_ce"], rtol=1e-4)
    assert torch.isclose(losses(kept, entries)[0]["loss_ce"], changed, rtol=1e-5)


def test_every_supervised_block_is_scored_by_its_own_recognition(world, monkeypatch):
    model, entries, scored = world.model("san_cliptrase").train(), world.batch(), []
    monkeypatch.setattr(model.criterion, "forward", lambda given, *_: scored.extend(given) or {})
    classified = []
    classify, network = model.classify, model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda *args: classified.append(network(*args)) or classified[-1])
    monkeypatch.setattr(model, "classify", lambda *args: classified.append(args) or classify(*args))
    losses(model, entries)
    predictions, (_, features, text) = classified
    assert len(scored) == len(predictions) == 2
    for (logits, masks), prediction in zip(scored, predictions, strict=True):
        torch.testing.assert_close(logits, classify([prediction], features, text)[0])
        assert masks is prediction.mask_logits


def test_a_step_trains_the_side_adapter_and_leaves_clip_as_it_was(world):
    model = world.model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(losses(model, world.batch())[0].values()).backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert not {key for key in changed if key.startswith("clip.")}
    assert "classifier.background" in changed
    for part in (
        "network.adapter.blocks.0",
        "network.adapter.fusion",
        "network.decoder",
        "network.adapter.query_embed",
    ):
        assert any(key.startswith(part) for key in changed), part


def test_parameters_of_clip_named_in_the_configuration_are_trained(world):
    model = world.model(model__clip__trainable=("positional_embedding",), model__clip__cache_gb=0)
    sum(losses(model, world.batch())[0].values()).backward()
    grads = {key for key, p in model.clip.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert grads == {"visual.vision.positional_embedding"}


@torch.no_grad()
def test_a_query_is_called_what_clip_calls_its_region_and_without_one_as_before(world, monkeypatch):
    plain, model = (
        world.model(
            "san_cliptrase", model__san__query_init__repeat=False, model__san__query_init__name_strength=n
        ).eval()
        for n in (0.0, 1.0)
    )
    model.load_state_dict(plain.state_dict(), strict=False)
    (entry,) = world.batch(train=False, count=1)
    text = model.clip.text(entry["vocabulary"], model.templates)

    def logits(model):
        batch, features, prediction = model.predict([entry["image"]])
        regions = model.find_regions(features, [entry["image"]], batch)
        return model.classify([prediction], features, text)[0][0], regions.masks[0]

    def patch_scores(features, words):  # word k + 1 for all patches of the k-th largest region
        return torch.nn.functional.pad(ranked.flatten(1).T[None], (1, len(words) - 1 - len(ranked)))

    expected, masks = logits(plain)
    ranked = masks[masks.sum((1, 2)).argsort(descending=True, stable=True)]
    assert 1 < len(ranked) < 8
    monkeypatch.setattr(model.names, "patch_scores", patch_scores)
    found, _ = logits(model)
    assert found[: len(ranked)].argmax(1).tolist() == list(range(1, len(ranked) + 1))
    assert torch.equal(found[len(ranked) :], expected[len(ranked) :])
    assert torch.equal(found[:, -1], expected[:, -1]), "the background"
    model.network.query_init.prior.name_strength.zero_()
    assert torch.equal(logits(model)[0], expected)


@pytest.mark.parametrize(
    ("attention", "reason"), [("cliptrase+truth", "looks at the ground truth"), ("cliper", "no cosines")]
)
def test_rules_that_cannot_name_queries_are_refused(world, attention, reason):
    with pytest.raises(OptionError, match=f"MODEL.CLIPTRASE.ATTENTION is '{attention}'.*{reason}".replace("+", r"\+")):
        world.model("san_cliptrase", model__cliptrase__attention=attention, model__san__query_init__name_strength=0.25)


def test_the_strengths_of_the_prior_are_trained(world):
    names = {"model__san__query_init__name_strength": 0.25, "model__cliptrase__attention": "clip_surgery"}
    model = world.model("san_cliptrase", **names)
    sum(losses(model, world.batch())[0].values()).backward()
    prior = model.network.query_init.prior
    assert prior.mask_strength.grad != 0
    assert prior.bias_strength.grad != 0
    assert prior.name_strength.grad != 0


def test_annealed_regions_are_for_the_first_part_of_the_schedule_alone(world, monkeypatch):
    schedule = {"model__san__query_init__anneal": 0.5, "solver__max_iter": 20}
    model, kept, plain = world.model("san_cliptrase", **schedule), world.model("san_cliptrase"), world.model("san")
    weights = model.state_dict()
    kept.load_state_dict(weights)
    plain.load_state_dict({key: weights[key] for key in plain.state_dict()})
    plain.criterion = kept.criterion
    entries = [{**entry, "draw_seed": seed} for seed, entry in enumerate(world.batch())]
    assert losses(model, entries, 0)[0] == losses(kept, entries)[0]
    assert losses(model, entries, 5)[0] not in (losses(kept, entries)[0], losses(plain, entries)[0])
    monkeypatch.setattr(model, "find_regions", None)
    assert losses(model, entries, 10)[0] == losses(plain, entries)[0]
    with torch.no_grad():
        tests = world.batch(train=False)
        found, expected = (one.eval()(tests) for one in (model, plain))
    assert all(torch.equal(a["sem_seg"], b["sem_seg"]) for a, b in zip(found, expected, strict=True))


def test_the_share_of_annealed_queries_follows_the_iteration_and_their_choice_the_image(world):
    model = world.model("san_cliptrase", model__san__query_init__anneal=1.0, model__san__num_queries=1000)
    model.anneal_iterations = 100

    def drawn(iteration, *seeds):
        with EventStorage(iteration):
            return model._annealed([{"draw_seed": seed} for seed in seeds])

    assert [round(drawn(i, 1).float().mean().item(), 1) for i in (0, 30, 80, 100)] == [0.0, 0.3, 0.8, 1.0]
    assert torch.equal(drawn(30, 1, 2), torch.cat([drawn(30, 1), drawn(30, 2)]))
    assert not torch.equal(drawn(30, 1), drawn(30, 2))
    assert (drawn(80, 1) >= drawn(30, 1)).all()


@pytest.mark.parametrize("name", ["off", "tokens_prior"])
def test_pseudo_masks_are_of_what_has_no_label(world, name, monkeypatch):
    init = {"model__san__query_init__name": name}
    model, plain = world.model(**init, model__san__pseudo_masks=1.0), world.model(**init)
    plain.load_state_dict(model.state_dict())
    entries = [{**entry, "draw_seed": seed} for seed, entry in enumerate(world.batch())]
    found, logged = losses(model, entries)
    assert found == losses(plain, entries)[0]
    assert logged["regions/pseudo_masks"][0] == 0
    entries[0]["sem_seg"] = torch.full_like(entries[0]["sem_seg"], 255)
    entries[0]["instances"] = entries[0]["instances"][:0]
    found, logged = losses(model, entries)
    assert logged["regions/pseudo_masks"][0] > 0
    assert found["loss_mask"] > losses(plain, entries)[0]["loss_mask"]
    entries[0]["shown_size"] = _, width = entries[0]["sem_seg"].shape[0], entries[0]["sem_seg"].shape[1] - 4
    monkeypatch.setattr(model.criterion, "forward", lambda _, targets, *rest: targets)
    masks = losses(model, entries)[0][0].masks
    assert masks[..., :width].any() and not masks[..., width:].any(), "filling is no object"


def test_an_image_without_any_labelled_pixel_is_no_obstacle(world):
    entries = world.batch()
    size = entries[0]["sem_seg"].shape
    nothing = Instances(size, gt_classes=torch.zeros(0, dtype=torch.int64), gt_masks=BitMasks(torch.zeros(0, *size)))
    for batch in ([{**entries[0], "instances": nothing}, entries[1]], [{**entries[0], "instances": nothing}]):
        found, _ = losses(world.model(), batch)
        total = sum(found.values())
        total.backward()
        assert total.isfinite()


def test_maps_have_the_size_asked_for(world):
    model = world.model("san_cliptrase").eval()
    entries = world.batch(train=False, count=3)
    entries[0].update(height=30, width=50)
    results = model(entries)
    assert results[0]["sem_seg"].shape == (24, 30, 50)
    for entry, result in zip(entries[1:], results[1:], strict=True):
        assert result["sem_seg"].shape == (24, *entry["sem_seg"].shape)


@torch.no_grad()
@pytest.mark.parametrize(("name", "follows"), [("san_cliptrase", True), ("san", False)])
def test_iteration_zero_segments_by_the_regions_that_cliptrase_found(world, monkeypatch, name, follows):
    patch = 8  # of CLIP, and here of the side adapter too
    side = {"model__san__side__patch_size": patch, "model__regions__eps": 0.7, "model__regions__min_samples": 3}
    side["model__regions__refine"] = "none"  # refined ones end inside patches
    finder = world.model("san_cliptrase", model__san__query_init__mask_strength=1e4, **side).eval()
    model = finder if follows else world.model(name, **side).eval()
    # Query q says class q: the map then shows which query has which pixel.
    one_class_each = [50 * torch.eye(8, 25)[None]]
    monkeypatch.setattr(model, "classify", lambda *_: one_class_each)
    agree = []
    for entry in world.batch(train=False, count=3):
        height, width = entry["image"].shape[-2:]
        batch = image_batch([entry["image"]], finder.clip, DIVISIBILITY)
        masks = finder.find_regions(finder.clip_features(batch), [entry["image"]], batch, [entry["sem_seg"]]).masks[0]
        assert 1 < len(masks) <= 8
        largest_first = masks[masks.sum((1, 2)).argsort(descending=True, stable=True)]
        labels = model([{**entry, "height": height, "width": width}])[0]["sem_seg"].argmax(0)
        centres = labels[patch // 2 :: patch, patch // 2 :: patch]
        expected = largest_first.argmax(0)[: centres.shape[0], : centres.shape[1]]
        agree.append(bool((centres == expected).all()))
    assert all(agree) if follows else not any(agree)


def test_cliptrase_is_needed_only_where_queries_start_from_regions(world):
    assert world.model().region_source is None
    assert world.model("san_cliptrase").region_source is not None


def test_inference_needs_no_training_set(world):
    model = world.model(datasets__train=()).eval()
    assert model.criterion is None
    assert model(world.batch(train=False, count=1))[0]["sem_seg"].shape[0] == 24


@pytest.mark.parametrize("name", ["map_add", "map_replace", "tokens", "prior"])
def test_every_other_initialisation_trains(world, name):
    found, _ = losses(world.model(model__san__query_init__name=name), world.batch())
    sum(found.values()).backward()
    assert sum(found.values()).isfinite()


@pytest.mark.parametrize(
    ("key", "value", "layer"),
    [
        ("MODEL.SAN.SIDE.FUSION", ((9, 0),), 9),
        ("MODEL.SAN.QUERY_INIT.MAP_LAYER", -9, -9),
        ("MODEL.SAN.RECOGNITION_LAYER", -9, -9),
    ],
)
def test_a_layer_that_does_not_exist_is_told_with_its_key(world, key, value, layer):
    with pytest.raises(ValueError, match=f"{key}: layer {layer} does not exist: with 6 blocks"):
        world.model("san_cliptrase", **{key.replace(".", "__").lower(): value})


@pytest.mark.parametrize(
    "test",
    [{}, {"scales": (1.0, 1.5), "flip": True}, {"refine": "laplacian"}, {"protocol": "slide", "slide__window": 48}],
    ids=lambda test: "-".join(test) or "plain",
)
def test_semantic_maps_say_what_label_maps_say(world, test):
    """Also in a batch of mixed sizes, where padding is part of the canvas."""
    test = {**test, "slide__stride": 24}
    names = {"model__san__query_init__name_strength": 0.25}
    model = world.model("san_cliptrase", **names, **{f"test__{key}": value for key, value in test.items()}).eval()
    with torch.no_grad():  # the masks of an untrained decoder are the same everywhere
        for parameter in model.network.decoder.parameters():
            parameter.mul_(2.5)
    entries = world.batch(train=False)
    labels = model.label_maps(entries)
    assert len({own.shape for own in labels}) > 1 and any(len(own.unique()) > 1 for own in labels)
    for found, own in zip(model(entries), labels, strict=True):
        assert found["sem_seg"].shape[1:] == own.shape
        assert torch.equal(found["sem_seg"].argmax(0), own)
    if model.scoring.is_plain:
        pairs = model.label_and_query_maps(entries)
        assert all(torch.equal(own, same) for own, (same, _) in zip(labels, pairs, strict=True))


@pytest.mark.parametrize(
    ("source", "changes"), [("truth", {"test__flip": True}), ("shuffled", {"test__refine": "pamr"})]
)
def test_views_are_refused_where_regions_come_from_beyond_the_image(world, source, changes):
    with pytest.raises(OptionError, match="TEST.SCALES, FLIP and REFINE cannot have them"):
        world.model("san_cliptrase", model__regions__source=source, model__regions__refine="none", **changes)
