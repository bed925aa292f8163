"""Everything that can be chosen by a name, in all combinations: it runs, and a batch gets what images get alone."""

import copy

import open_clip
import pytest
import torch
from detectron2.utils.events import EventStorage

from san_cliptrase.clip.attention import ATTENTION_RULES
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.cliptrase import TrainingFreeReader
from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.engine.prototypes import initialise_prototypes
from san_cliptrase.refine import REFINEMENTS
from san_cliptrase.regions.build import SOURCES, build_region_source
from san_cliptrase.regions.controls import canvas_labels
from san_cliptrase.san.query_init import QUERY_INITS
from tests.clip.tiny import TEXT, pad_together, tiny_open_clip

RULES = (*ATTENTION_RULES, "cliptrase+truth+cosine")
SIZES = ((32, 32), (24, 40))
SAM = ("sam", "sam_points")
READINGS = [
    ("cliptrase", "patches"),  # which ask no source
    *((name, classify) for name in SOURCES for classify in CLASSIFY if classify != "patches"),
]
ALONE = [init for init in QUERY_INITS if "+" not in init]
STARTS = [
    ("off", "cliptrase", "none"),  # which asks no source
    *((init, name, "none") for init in ALONE if init != "off" for name in ("cliptrase", "timm:MODEL", "grid")),
    *((init, "sam", "none") for init in ("map_add", "tokens_prior")),
    *(("tokens_prior", "cliptrase", refine) for refine in REFINEMENTS if refine != "none"),
    ("map_add", "timm:MODEL", "laplacian"),
]


def tiny_source(request, name):
    """The name of a source and the keys of its tiny model."""
    if name == "timm:MODEL":
        return {"name": request.getfixturevalue("tiny_vit")}
    if name in SAM:
        return {"name": name, "sam_model": request.getfixturevalue("tiny_sam"), "sam_grid": 2}
    return {"name": name}


@pytest.fixture(scope="module")
def clip():
    """Six blocks, as many as CLIP Surgery reads."""
    tokenizer = open_clip.SimpleTokenizer(context_length=TEXT["context_length"])
    return FrozenClip(tiny_open_clip(layers=6), tokenizer, interpolate_offset=0.1)


@pytest.fixture(scope="module")
def text(clip):
    return clip.text(["grass", "water", "brick"], templates="none")


@pytest.fixture(scope="module")
def batches(clip):
    """Features, images in [0, 1] and padded label maps: of both images together, and of each alone."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 2 * h, 2 * w, generator=generator) for h, w in SIZES]
    for image in images:
        image[:, : image.shape[1] // 2] *= 0.2
    seen = [clip.normalize(image[:, ::2, ::2]) for image in images]
    labels = [(torch.arange(h * w) // (7 * w)).view(h, w) for h, w in SIZES]

    def batch(*chosen):
        canvas, sizes = pad_together([seen[i] for i in chosen])
        features = clip.visual(canvas, range(clip.visual.depth + 1), sizes)
        whole = tuple(n * p for n, p in zip(features.grid, features.patch_size, strict=True))
        return features, [images[i] for i in chosen], [canvas_labels(labels[i], whole, 255) for i in chosen]

    return batch(0, 1), batch(0), batch(1)


@pytest.mark.parametrize(("name", "classify"), READINGS)
def test_every_rule_way_to_classify_and_source(request, clip, text, batches, name, classify):
    source = build_region_source(visual=clip.visual, eps=0.4, min_samples=2, **tiny_source(request, name))
    together, *alone = batches
    for rule in ("cliptrase",) if name in SAM else RULES:  # SAM is slow
        reader = TrainingFreeReader(clip.visual, source, attention=rule, classify=classify)

        def read(features, images, labels, method):
            torch.manual_seed(0)  # of random
            return list(method(features, text, images, labels=labels))

        found, scores = read(*together, reader.segment), read(*together, reader.scores)
        for size, own, score in zip(SIZES, found, scores, strict=True):
            assert own.shape == size and score.shape == (len(text), *size)
            assert score.isfinite().all()
            assert torch.equal(score.argmax(0), own)
        if source.needs_batch and reader.uses_regions:
            continue
        # The second image's random cells are drawn after the first's.
        for own, one in zip(found[:1] if name == "random" else found, alone, strict=name != "random"):
            assert torch.equal(read(*one, reader.segment)[0], own), rule


@pytest.mark.parametrize(("init", "name", "refine"), STARTS)
def test_every_query_initialisation_and_source(request, world, tmp_path, init, name, refine):
    source = tiny_source(request, name)
    keys = {"source": source.pop("name"), "refine": refine, **source}
    model = world.model(
        model__san__query_init__name=init,
        model__san__query_init__name_strength=0.25 if "prior" in init else 0.0,
        model__san__query_init__repeat=False,
        model__san__num_queries=4 if init == "prototypes" else 12,  # some images have fewer regions than queries
        model__clip__cache_gb=0.0,
        **{f"model__regions__{key}": value for key, value in keys.items()},
    )
    fresh, entries = copy.deepcopy(model), world.batch()
    if init == "prototypes":
        initialise_prototypes(model, entries, lambda entry: entry, len(entries), seed=0)
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    with EventStorage():
        sum(model.train()(entries).values()).backward()
    assert [key for key, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [key for key, p in trained.items() if not p.grad.any()] == []
    torch.optim.SGD(trained.values(), lr=0.01).step()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    tests = world.batch(train=False)
    expected = [found["sem_seg"] for found in model.eval()(tests)]
    assert any(not torch.equal(a["sem_seg"], b) for a, b in zip(fresh.eval()(tests), expected, strict=True))
    fresh.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    for found, wanted in zip(fresh(tests), expected, strict=True):
        assert wanted.isfinite().all()
        assert torch.equal(found["sem_seg"], wanted)
