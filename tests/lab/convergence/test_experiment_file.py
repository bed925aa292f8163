import os

import pytest
import yaml

from san_cliptrase.errors import ConfigError, CurveError
from san_cliptrase.lab.convergence.curves import read_curve
from san_cliptrase.lab.convergence.experiment_file import read_experiment
from san_cliptrase.lab.convergence.study import _read_config
from tests.conftest import ROOT

BASE = str(ROOT / "configs" / "demo" / "san.yaml")


@pytest.fixture
def read(tmp_path):
    """Function of changes to a valid experiment (None removes a key): reads it."""

    def run(**changes):
        variants = {"san": {"title": "plain"}, "tokens": {"overrides": {"MODEL.SAN.QUERY_INIT.NAME": "tokens"}}}
        data = {"base": BASE, "output": "out", "baseline": "san", "seeds": [0, 1], "variants": variants, **changes}
        path = tmp_path / "lab.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}, sort_keys=False))
        return read_experiment(path)

    return run


def test_the_experiment_of_the_repository_can_be_read():
    experiment = read_experiment(ROOT / "configs" / "demo" / "convergence.yaml")
    assert experiment.baseline == "san"
    assert experiment.dataset in experiment.config("san", 0).DATASETS.TEST


def test_runs_go_seed_by_seed_with_the_baseline_first(read):
    variants = {"tokens": {"seeds": [1]}, "prior": None, "san": None}
    experiment = read(variants=variants)
    assert experiment.runs() == [("san", 0), ("prior", 0), ("san", 1), ("tokens", 1), ("prior", 1)]
    assert experiment.runs(["prior"], [1]) == [("prior", 1)]


def test_a_run_has_the_overrides_its_seed_and_its_folder(read):
    own = {"MODEL.SAN.QUERY_INIT.NAME": "prior", "SOLVER.BASE_LR": 1, "MODEL.SAN.SIDE.SUPERVISED": [4]}
    experiment = read(overrides={"SOLVER.MAX_ITER": 60}, variants={"san": None, "prior": {"overrides": own}})
    cfg = experiment.config("prior", 1)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SEED) == (60, 1.0, 1)
    assert cfg.MODEL.SAN.QUERY_INIT.NAME == "prior"
    assert list(cfg.MODEL.SAN.SIDE.SUPERVISED) == [4]
    assert str(experiment.folder("prior", 1)) == cfg.OUTPUT_DIR
    assert cfg.is_frozen()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": False}, "baseline is False.*quotes"),
        ({"baseline": "sam"}, "did you mean san"),
        ({"baseline": None}, "baseline is missing"),
        ({"levles": [1]}, "unknown key 'levles'.*did you mean levels"),
        ({"levels": ["high"]}, "levels: 'high'"),
        ({"levels": []}, "levels: name at least one"),
        ({"levels": [101]}, "neither a share.*nor percent"),
        ({"references": {"prior": 3}}, "references.prior is 3; it needs percent"),
        ({"references": {"prior": {"mIoU": 3, "mIoU sen": 3}}}, "unknown metric 'mIoU sen'; did you mean mIoU seen"),
        ({"references": {"prior": {"mIoU": "3"}}}, "mIoU is '3', which is not percent"),
        ({"seeds": [0, 0]}, "seeds is"),
        ({"seeds": [True]}, "seeds is"),
        ({"variants": {False: None}}, "variant name False.*quotes"),
        ({"variants": {"../up": None}}, "cannot be a folder"),
        ({"variants": {"san": {"titel": "x"}}}, "variants.san: unknown key 'titel'.*title"),
        ({"variants": {"san": {"seeds": [7]}}}, "not a subset"),
        ({"variants": {"san": {"overrides": {"SEED": 3}}}}, "SEED, which the experiment sets"),
        ({"overrides": {"OUTPUT_DIR": "x"}}, "OUTPUT_DIR, which the experiment sets"),
        ({"overrides": {"SOLVER": {"MAX_ITER": 3}}}, "write whole keys"),
        ({"overrides": {"SOLVER.MAXITER": 3}}, "variant san.*did you mean SOLVER.MAX_ITER"),
        ({"overrides": {"TEST.EVAL_PERIOD": 0}}, "EVAL_PERIOD is 0"),
        ({"overrides": {"MODEL.META_ARCHITECTURE": "CLIPtrase"}}, "nothing is trained"),
        ({"dataset": "demo_scenes_vla"}, "not in DATASETS.TEST.*did you mean demo_scenes_val"),
        ({"unequal": ["SOLVER.BASE_LR"]}, "unequal names 'SOLVER.BASE_LR'"),
        ({"variants": {"san": None, "long": {"overrides": {"SOLVER.MAX_ITER": 900}}}}, "long: SOLVER.MAX_ITER is 900"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(read, changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read(**changes)
    assert "lab.yaml" in str(caught.value)


def test_unequal_schedules_can_be_allowed(read):
    variants = {"san": None, "long": {"overrides": {"SOLVER.MAX_ITER": 900}}}
    assert read(variants=variants, unequal=["SOLVER.MAX_ITER"]).config("long", 0).SOLVER.MAX_ITER == 900


def test_a_variant_that_comes_twice_is_refused(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text(f"base: {BASE}\noutput: o\nbaseline: san\nseeds: [0]\nvariants:\n  san: {{}}\n  san: {{}}\n")
    with pytest.raises(ConfigError, match="'san' is there twice"):
        read_experiment(path)


def test_nothing_in_the_file_is_executed(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text("base: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not plain YAML"):
        read_experiment(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the experiment .*none.yaml"):
        read_experiment(tmp_path / "none.yaml")


def test_aliases_pipes_and_escape_sequences(tmp_path, read):
    """The lab reads its files as runs read their configurations."""
    path = tmp_path / "bomb.yaml"
    path.write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n")
    with pytest.raises(ConfigError, match="aliases upon aliases"):
        read_experiment(path)
    with pytest.raises(ConfigError, match="aliases upon aliases"):
        _read_config(_folder_with(tmp_path / "run", path.read_text()))
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="it is not a regular file but a pipe"):
        read_experiment(tmp_path / "pipe.yaml")
    os.mkfifo(tmp_path / "evaluations.csv")
    with pytest.raises(CurveError, match="it is not a regular file but a pipe"):
        read_curve(tmp_path / "evaluations.csv")
    assert read(variants={"san": {"title": "\x1b[31mred"}}).variants["san"].title == r"\x1b[31mred"


def _folder_with(folder, config):
    folder.mkdir()
    (folder / "config.yaml").write_text(config)
    return folder
