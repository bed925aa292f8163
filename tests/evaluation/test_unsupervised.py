import pytest
import torch

from san_cliptrase.errors import ConfigError
from san_cliptrase.evaluation.unsupervised import fit_clusters, image_features

CHANGES = {"test__protocol": "unsupervised", "test__size": 64}


def halves(seed):
    """An image of two noisy colours, one on either side."""
    image = torch.randint(30, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    image[0, :, :32] += 200
    image[2, :, 32:] += 200
    return {"image": image, "height": 64, "width": 64, "vocabulary": ("left", "right")}


@pytest.mark.parametrize("kind", ["regions", "patches"])
def test_every_patch_has_one_feature_of_length_one(world, kind):
    model = world.model("cliptrase", **CHANGES).eval()
    small = {**halves(1), "image": halves(1)["image"][:, :48, :40]}
    for entry, (rows, members) in zip((halves(0), small), image_features(model, [halves(0), small], kind), strict=True):
        side = model.clip.visual.patch_size[0]
        assert members.shape == tuple(-(-n // side) for n in entry["image"].shape[1:])
        assert set(members.unique().tolist()) == set(range(len(rows)))
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    if kind == "patches":
        assert len(rows) == members.numel()


@pytest.mark.parametrize("kind", ["regions", "patches"])
@pytest.mark.parametrize("at_once", [8, 4096])
def test_what_looks_alike_gets_one_cluster_in_all_images(world, monkeypatch, kind, at_once):
    monkeypatch.setattr("san_cliptrase.evaluation.unsupervised.ROWS_AT_ONCE", at_once)
    changes = {**CHANGES, "model__clip__pretrained": "scenes", "model__regions__eps": 0.8}
    model = world.model("cliptrase", **changes).eval()
    cfg = world.config("cliptrase", test__unsupervised__features=kind, **changes)
    batches = [[halves(0), halves(1)], [halves(2), halves(3)], [halves(4)]]
    predict = fit_clusters(cfg, model, batches, clusters=2)
    maps = torch.stack([labels for batch in batches for labels in predict(batch)])
    left, right = maps[:, :, :24], maps[:, :, 40:]
    assert (left == left.mode().values.mode().values.mode().values).float().mean() > 0.9
    assert (right == 1 - left.flatten().mode().values).float().mean() > 0.9


def test_fewer_features_than_clusters(world):
    model = world.model("cliptrase", **CHANGES).eval()
    cfg = world.config("cliptrase", test__unsupervised__features="patches", **CHANGES)
    with pytest.raises(ConfigError, match="too few for 1000 clusters"):
        fit_clusters(cfg, model, [[halves(0)]], clusters=1000)
