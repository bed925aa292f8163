"""Names that --help lists are those that the package knows."""

import pytest

from san_cliptrase import choices
from san_cliptrase.clip.readings import READINGS
from san_cliptrase.clip.templates import TEMPLATES
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.lab.reproduce.command import EXHIBITS
from san_cliptrase.refine import REFINEMENTS
from san_cliptrase.regions.build import ONE_IMAGE
from tests.conftest import ROOT


def test_listed_names_are_the_known_ones():
    assert [*choices.ATTENTION_RULES] == [*READINGS]
    assert [*choices.TEMPLATES] == [*TEMPLATES]
    assert [*choices.REGION_SOURCES] == [*ONE_IMAGE]
    assert [*choices.REFINEMENTS] == [*REFINEMENTS]
    assert [*choices.EXHIBITS] == [*EXHIBITS]


@pytest.mark.parametrize("folder", ["configs", "configs/demo"])
@pytest.mark.parametrize(("file", "name"), [("training_free", choices.DEFAULT_READING), ("cliptrase", "cliptrase")])
def test_configurations_read_clip_as_the_api_does(folder, file, name):
    cfg = load_config(ROOT / folder / f"{file}.yaml", [])
    found = (cfg.MODEL.CLIPTRASE.ATTENTION, cfg.MODEL.CLIPTRASE.CLASSIFY, cfg.TEST.REFINE)
    assert found == choices.READINGS[name][1:]
