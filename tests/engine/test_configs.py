"""Every configuration of the repository."""

from functools import partial

import pytest
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from san_cliptrase.clip.attention import attention_rule
from san_cliptrase.data.table import DATASETS
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.engine.solver import build_optimizer
from san_cliptrase.evaluation.paper import paper_numbers
from san_cliptrase.evaluation.protocol import config_value
from san_cliptrase.lab.convergence.experiment_file import read_experiment
from san_cliptrase.san.query_init import QUERY_INITS
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
FILES = {str(path.relative_to(CONFIGS)): path.read_text() for path in sorted(CONFIGS.rglob("*.yaml"))}
# Experiments of the convergence lab, which name variants, are read by another reader.
EXPERIMENTS = [name for name, text in FILES.items() if "\nvariants:" in text]
ALL = [name for name in FILES if name not in EXPERIMENTS]


def test_there_are_those_that_the_readme_speaks_of():
    assert {"san.yaml", "san_cliptrase.yaml", "cliptrase.yaml"} <= set(ALL)
    for folder in ("demo", "camvid", "ccp"):
        assert {f"{folder}/san.yaml", f"{folder}/san_cliptrase.yaml", f"{folder}/cliptrase.yaml"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_it_loads_and_names_what_exists(name):
    cfg = load_config(CONFIGS / name)
    assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
    assert cfg.MODEL.META_ARCHITECTURE in {"SAN", "CLIPtrase"}
    assert cfg.MODEL.SAN.QUERY_INIT.NAME in QUERY_INITS
    assert attention_rule(cfg.MODEL.CLIPTRASE.ATTENTION)


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith(("demo/", "camvid/", "ccp/"))])
def test_the_small_models_and_optimisers_are_built(name):
    # CamVid's and CCP's CLIP is an experiment's by-product: the shipped one, without its weights, stands in for it.
    stand_in = ["MODEL.CLIP.NAME", "scenes_vit", "MODEL.CLIP.PRETRAINED", ""]
    cfg = load_config(CONFIGS / name, [*stand_in, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    assert type(model).__name__ == cfg.MODEL.META_ARCHITECTURE
    if cfg.MODEL.META_ARCHITECTURE == "SAN":
        assert build_optimizer(cfg, model).param_groups


@pytest.mark.parametrize("kind", ["san", "san_cliptrase"])
def test_the_short_name_is_the_configuration_for_vit_b16(kind):
    assert load_config(CONFIGS / f"{kind}.yaml") == load_config(CONFIGS / f"{kind}_vit_b16.yaml")


@pytest.mark.parametrize("kind", ["san", "san_cliptrase"])
def test_vit_l14_differs_from_vit_b16_as_sans_own_configurations_do(kind):
    base, large = (load_config(CONFIGS / f"{kind}_{size}.yaml") for size in ("vit_b16", "vit_l14_336"))
    assert (large.MODEL.CLIP.NAME, large.MODEL.CLIP.RESOLUTION) == ("ViT-L-14-336", 0.7)
    assert [tuple(pair) for pair in large.MODEL.SAN.SIDE.FUSION] == [(0, 0), (6, 1), (12, 2), (18, 3)]
    assert 24 + large.MODEL.SAN.RECOGNITION_LAYER == 18  # SAN's FEATURE_LAST_LAYER_IDX
    for cfg in (base, large):
        cfg.MODEL.CLIP.NAME = cfg.OUTPUT_DIR = ""
        cfg.MODEL.CLIP.RESOLUTION = 0.0
        cfg.MODEL.SAN.SIDE.FUSION, cfg.MODEL.SAN.RECOGNITION_LAYER = (), 0
    assert base == large


@pytest.mark.parametrize("name", ["san.yaml", "san_cliptrase.yaml"])
def test_the_full_recipe_is_san_as_published(name):
    cfg = load_config(CONFIGS / name)
    assert (cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, cfg.MODEL.CLIP.RESOLUTION) == ("ViT-B-16", "openai", 0.5)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (60000, 32, 1e-4)
    assert (cfg.INPUT.CROP.ENABLED, tuple(cfg.INPUT.CROP.SIZE)) == (True, (640, 640))
    assert (cfg.MODEL.SAN.NUM_QUERIES, cfg.MODEL.SAN.SIDE.WIDTH, cfg.MODEL.SAN.SIDE.DEPTH) == (100, 240, 8)
    assert cfg.DATASETS.TRAIN == ["coco_stuff171_train"] or cfg.DATASETS.TRAIN == ("coco_stuff171_train",)


@pytest.mark.parametrize("size", [224, 336])
def test_one_configuration_is_one_table_of_the_paper(size):
    cfg = load_config(CONFIGS / "tables" / f"cliptrase_{size}.yaml")
    published = {name for name in DATASETS if paper_numbers(name, partial(config_value, cfg))}
    assert set(cfg.DATASETS.TEST) == published
    assert len(cfg.DATASETS.TEST) == 9


def test_plain_san_and_san_from_regions_differ_in_nothing_else():
    for place in ("{}", "{}_vit_l14_336", "camvid/{}", "ccp/{}"):
        plain, ours = (load_config(CONFIGS / f"{place.format(name)}.yaml") for name in ("san", "san_cliptrase"))
        assert plain.MODEL.SAN.QUERY_INIT.NAME == "off"
        assert ours.MODEL.SAN.QUERY_INIT.NAME == "tokens_prior"
        for cfg in (plain, ours):
            cfg.OUTPUT_DIR = ""
            # How queries begin, and what is made of regions.
            cfg.MODEL.SAN.QUERY_INIT = cfg.MODEL.REGIONS = cfg.MODEL.SAN.PSEUDO_MASKS = None
            cfg.MODEL.CLIPTRASE.ATTENTION = ""
        assert plain == ours


def test_the_demo_trains_what_the_lab_has_measured():
    experiment = read_experiment(CONFIGS / "demo" / "frontier.yaml")
    for name, variant in (("san", "san_300"), ("san_cliptrase", "regions_300")):
        demo, measured = load_config(CONFIGS / "demo" / f"{name}.yaml"), experiment.config(variant, 0).clone()
        measured.defrost()
        for cfg in (demo, measured):
            cfg.OUTPUT_DIR, cfg.VIS_IMAGES = "", 0
            cfg.TEST.EVAL_PERIOD, cfg.TEST.MASKS, cfg.SOLVER.AMP.ENABLED = 0, False, False
            cfg.SOLVER.POLY_POWER = 0.0  # the demo's is that of configs/demo/tuning.yaml, for both runs
        assert demo == measured


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_can_be_read(name):
    """Reading one checks the configurations of all its variants."""
    experiment = read_experiment(CONFIGS / name)
    assert experiment.config(experiment.baseline, 0).MODEL.SAN.QUERY_INIT.NAME == "off"
