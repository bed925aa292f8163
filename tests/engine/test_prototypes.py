import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from san_cliptrase.engine.trainer import Trainer

MODE = {"model__san__query_init__name": "prototypes", "model__san__num_queries": 4}


@pytest.fixture
def build(world):
    def run(resume=False, **changes):
        torch.manual_seed(0)
        return Trainer(world.config("san", **changes), resume)

    return run


def test_queries_begin_at_the_centres_of_the_training_sets_regions(build, world):
    trainer, plain = build(**MODE), build(model__san__num_queries=4)
    entries = world.batch(count=6)
    with torch.no_grad():
        tokens = trainer.model.eval().region_tokens([e["image"] for e in entries], [e["sem_seg"] for e in entries])
    assert tokens.shape[1] == 32
    centres = KMeans(4, n_init=1, random_state=0).fit(tokens.numpy()).cluster_centers_
    found = trainer.model.network.adapter.query_embed[0].detach().numpy()
    np.testing.assert_allclose(found, centres, atol=1e-4)
    ours, theirs = trainer.model.state_dict(), plain.model.state_dict()
    assert ours.keys() == theirs.keys(), "checkpoints are those of plain SAN"
    changed = {key for key in ours if not torch.equal(ours[key], theirs[key])}
    assert changed == {"network.adapter.query_embed"}


def test_with_regions_the_learned_queries_begin_at_the_same_centres(build):
    name = "model__san__query_init__name"
    alone, beside = build(**MODE), build(**{**MODE, name: "tokens_prior+prototypes"})
    found, expected = (trainer.model.network.adapter.query_embed for trainer in (beside, alone))
    torch.testing.assert_close(found, expected)
    assert beside.model.network.query_init.needs_regions


def test_a_resumed_run_keeps_the_queries_that_it_has_learned(build):
    trainer = build(**MODE, solver__max_iter=2)
    trainer.train()
    learned = trainer.model.network.adapter.query_embed.detach().clone()
    resumed = build(resume=True, **MODE, solver__max_iter=4)
    assert resumed.start_iter == 2
    assert torch.equal(resumed.model.network.adapter.query_embed, learned)


def test_iterations_cost_no_regions(build, monkeypatch):
    trainer = build(**MODE, solver__max_iter=1)
    monkeypatch.setattr(trainer.model, "find_regions", None)
    trainer.train()


def test_fewer_regions_than_queries_are_refused(build):
    with pytest.raises(ValueError, match="fewer than MODEL.SAN.NUM_QUERIES 400: raise .*PROTOTYPE_IMAGES"):
        build(model__san__query_init__name="prototypes", model__san__num_queries=400)
