import pytest
import torch

from san_cliptrase.engine.solver import build_optimizer, build_scheduler

SETTINGS = {
    "solver__base_lr": 1e-3,
    "solver__weight_decay": 0.1,
    "solver__weight_decay_norm": 0.02,
    "solver__weight_decay_embed": 0.003,
    "solver__clip_multiplier": 0.5,
    "solver__strength_multiplier": 10.0,
    "model__clip__trainable": ("positional_embedding", "ln_post.weight"),
    "model__clip__cache_gb": 0,
}


@pytest.fixture
def found(world):
    """Parameter name -> (learning rate, weight decay)."""
    model = world.model("san_cliptrase", **SETTINGS)
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    groups = build_optimizer(world.config("san_cliptrase", **SETTINGS), model).param_groups
    listed = [names.pop(id(p)) for group in groups for p in group["params"]]
    assert not names, "every trainable parameter is in a group, once"
    rates = [(group["lr"], group["weight_decay"]) for group in groups for _ in group["params"]]
    return dict(zip(listed, rates, strict=True))


@pytest.mark.parametrize(
    ("name", "rate", "decay"),
    [
        ("network.adapter.blocks.0.attn.qkv.weight", 1e-3, 0.1),
        ("network.adapter.blocks.0.norm1.weight", 1e-3, 0.02),
        ("network.adapter.fusion.0.norm.bias", 1e-3, 0.1),
        ("network.adapter.fusion.1.norm.weight", 1e-3, 0.1),
        ("network.adapter.pos_embed", 1e-3, 0.003),
        ("network.adapter.query_embed", 1e-3, 0.003),
        ("network.adapter.query_pos_embed", 1e-3, 0.003),
        ("network.query_init.prior.mask_strength", 1e-2, 0.003),
        ("network.query_init.prior.bias_strength", 1e-2, 0.003),
        ("clip.visual.vision.positional_embedding", 5e-4, 0.003),
        ("clip.visual.vision.ln_post.weight", 5e-4, 0.02),
    ],
)
def test_parameters_have_the_rate_and_decay_of_their_kind(found, name, rate, decay):
    assert found[name] == pytest.approx((rate, decay))


def test_weight_decay_is_that_of_the_published_run(world):
    changes = {"model__clip__trainable": ("positional_embedding",), "model__clip__cache_gb": 0}
    model = world.model("san", **changes)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = build_optimizer(world.config("san", **changes), model).param_groups
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    # Of the table "Optimizer Info" in resources/san_vit_b_16.log, renamed, for the two blocks of the test's adapter.
    kinds = ("weight", "bias")
    norms = [f"network.adapter.blocks.{i}.norm{k}.{kind}" for i in (0, 1) for k in (1, 2) for kind in kinds]
    embeddings = [f"network.adapter.{name}" for name in ("query_embed", "query_pos_embed", "pos_embed")]
    undecayed = {*norms, *embeddings, "clip.visual.vision.positional_embedding"}
    assert {name for name, decay in decays.items() if decay == 0} == undecayed
    assert {decay for name, decay in decays.items() if name not in undecayed} == {1e-4}
    fusion = {f"network.adapter.fusion.{i}.norm.{kind}" for i in (0, 1) for kind in kinds}
    assert fusion | {"classifier.background", "network.decoder.bias_scaling.bias"} <= decays.keys() - undecayed


def test_frozen_parameters_are_left_out(found):
    assert sorted(name for name in found if name.startswith("clip.")) == [
        "clip.visual.vision.ln_post.weight",
        "clip.visual.vision.positional_embedding",
    ]


def test_the_schedule_is_polynomial(world):
    cfg = world.config(solver__max_iter=10, solver__poly_power=0.9)
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 2.0}, {"params": [torch.ones(1)], "lr": 0.5}])
    scheduler = build_scheduler(cfg, optimizer)
    for i in range(10):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([2.0 * (1 - i / 10) ** 0.9, 0.5 * (1 - i / 10) ** 0.9])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("solver__optimizer", "SGD", "SOLVER.OPTIMIZER; it is gone"),
        ("solver__clip_gradients__clip_type", "value", "CLIP_TYPE is 'value'"),
    ],
)
def test_what_san_is_not_trained_with_is_refused(world, key, value, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(world.config(**{key: value}), torch.nn.Linear(1, 1))
