import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from san_cliptrase.clip.attention import ATTENTION_RULES, attention_rule
from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.meta_arch import CLIPtrase

RULES = (*ATTENTION_RULES, "sclip-mlp+neighbours", "qk+dual3")


def test_it_is_found_by_its_name():
    assert META_ARCH_REGISTRY.get("CLIPtrase") is CLIPtrase


def entry(rows, columns, seed, **more):
    image = torch.randint(256, (3, rows, columns), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return {"image": image, "vocabulary": ("grass", "water", "lava"), **more}


@pytest.mark.parametrize("resolution", [1.0, 0.5])
@pytest.mark.parametrize("classify", CLASSIFY)
def test_a_batch_of_mixed_sizes_gives_what_each_image_gives_alone(world, resolution, classify):
    model = world.model("cliptrase", model__clip__resolution=resolution, model__cliptrase__classify=classify).eval()
    # Odd sides: half of them is not a whole number of pixels.
    entries = [entry(99, 97, 0), entry(64, 127, 1), entry(131, 80, 2, height=50, width=40)]
    together = [result["sem_seg"] for result in model(entries)]
    alone = [model([one])[0]["sem_seg"] for one in entries]
    for batched, single in zip(together, alone, strict=True):
        assert torch.equal(batched, single)


def test_maps_have_the_size_asked_for_or_that_of_the_image(world):
    model = world.model("cliptrase", model__clip__resolution=0.5).eval()
    asked, unasked = model([entry(96, 64, 0, height=30, width=50), entry(96, 64, 0)])
    assert asked["sem_seg"].shape == (3, 30, 50)
    assert unasked["sem_seg"].shape == (3, 96, 64)
    assert (asked["sem_seg"].sum(0) == 1).all()


def test_settings_reach_the_method(world):
    changes = {"model__cliptrase__attention": "sclip", "model__cliptrase__cls_prior": True}
    changes["model__regions__scales"] = (0.5, 1.0)
    reader = world.model("cliptrase", model__regions__eps=0.5, model__regions__min_samples=4, **changes).reader
    assert reader.rule == attention_rule("sclip")
    assert reader.cls_prior
    assert (reader.source.eps, reader.source.min_samples, reader.source.scales) == (0.5, 4, (0.5, 1.0))
    for min_samples in (0, 4):
        keys = {"model__regions__eps": 0.0, "model__regions__min_samples": min_samples}
        source = world.model("cliptrase", **keys).reader.source
        assert (source.eps, source.min_samples) == (None, min_samples or None)


@pytest.mark.parametrize("rule", RULES)
def test_attention_rules_run_by_name(world, rule):
    model = world.model("cliptrase", model__cliptrase__attention=rule, model__cliptrase__classify="patches").eval()
    assert model([entry(64, 64, 0)])[0]["sem_seg"].shape == (3, 64, 64)


def test_background_words_together_are_the_last_class(world):
    model = world.model(
        "cliptrase", model__cliptrase__background=("wall", "shadow"), model__cliptrase__classify="patches"
    )
    one = {**entry(64, 64, 0), "vocabulary": ("grass", "water", "background")}
    with_words = model.eval()([one])[0]["sem_seg"]
    assert with_words.shape == (3, 64, 64)
    as_classes = world.model("cliptrase", model__cliptrase__classify="patches").eval()
    singly = as_classes([{**one, "vocabulary": ("grass", "water", "wall", "shadow")}])[0]["sem_seg"]
    assert torch.equal(with_words[2], singly[2] + singly[3])
    with pytest.raises(ValueError, match="'background' as the dataset's last class, not 'lava'"):
        model([entry(64, 64, 0)])


def test_training_it_is_refused(world):
    with pytest.raises(RuntimeError, match="nothing to train.*--eval-only"):
        world.model("cliptrase").train()([entry(64, 64, 0)])


@pytest.mark.parametrize("vocabularies", [[("grass",), ("water",)], [(), ()]])
@pytest.mark.parametrize("name", ["cliptrase", "san"])
def test_a_batch_has_one_vocabulary(world, name, vocabularies):
    entries = [{**entry(64, 64, 0), "vocabulary": words} for words in vocabularies]
    with pytest.raises(ValueError, match="same non-empty 'vocabulary'"):
        world.model(name).eval()(entries)


def test_attention_inside_the_ground_truth_gives_a_batch_what_each_image_gets_alone(world):
    changes = {"model__cliptrase__classify": "patches", "model__clip__resolution": 0.5}
    model = world.model("cliptrase", model__cliptrase__attention="sclip+truth", **changes).eval()
    entries = [entry(99, 97, 0, height=99, width=97), entry(64, 127, 1, height=32, width=64)]
    for one in entries:
        one["sem_seg"] = torch.full((one["height"], one["width"]), 1)
        one["sem_seg"][: one["height"] // 2], one["sem_seg"][0] = 0, 255
    together = model.label_maps(entries)
    for labels, one in zip(together, entries, strict=True):
        assert torch.equal(labels, model.label_maps([one])[0])
    other = world.model("cliptrase", model__cliptrase__attention="sclip", **changes).eval()
    assert any(not torch.equal(a, b) for a, b in zip(together, other.label_maps(entries), strict=True))
    with pytest.raises(ValueError, match="no label map"):
        model.label_maps([entry(64, 64, 0)])


def test_attention_inside_the_ground_truth_does_not_slide(world):
    with pytest.raises(ValueError, match="whole images"):
        world.model("cliptrase", model__cliptrase__attention="sclip+truth", test__protocol="slide")


@pytest.mark.parametrize(
    ("protocol", "classify"), [("whole", "vote"), ("slide", "vote"), ("whole", "cls"), ("slide", "pooled")]
)
def test_regions_come_from_antiny_vit_by_one_line(world, tiny_vit, protocol, classify):
    changes = {"test__protocol": protocol, "test__slide__window": 64, "test__slide__stride": 32}
    changes["model__cliptrase__classify"] = classify
    model = world.model("cliptrase", model__regions__source=tiny_vit, **changes).eval()
    entries = [entry(64, 96, 0), entry(80, 64, 1)]
    together = model.label_maps(entries)
    for labels, one in zip(together, entries, strict=True):
        assert torch.equal(labels, model.label_maps([one])[0])
    own = world.model("cliptrase", **changes).eval().label_maps(entries)
    assert any(not torch.equal(a, b) for a, b in zip(own, together, strict=True))
    # The other ViT is not a part of what a checkpoint must have.
    assert model.state_dict().keys() == world.model("cliptrase").state_dict().keys()


def test_a_source_that_does_not_exist_is_refused(world):
    known = "cliptrase, timm:MODEL, sam"
    for name in ("cliptrase", "san"):
        with pytest.raises(ValueError, match=f"unknown source of regions 'dino'; choose one of: {known}"):
            world.config(name, model__regions__source="dino")


def test_patches_build_no_other_model(world):
    keys = {"model__regions__source": "timm:no_such_model", "model__cliptrase__classify": "patches"}
    assert world.model("cliptrase", **keys).reader.source is None
