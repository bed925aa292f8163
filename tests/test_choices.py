"""Names that --help lists are those that the package knows."""

from san_cliptrase import choices
from san_cliptrase.clip.readings import READINGS
from san_cliptrase.clip.templates import TEMPLATES
from san_cliptrase.lab.reproduce.command import EXHIBITS
from san_cliptrase.refine import REFINEMENTS
from san_cliptrase.regions.build import ONE_IMAGE


def test_listed_names_are_the_known_ones():
    assert [*choices.ATTENTION_RULES] == [*READINGS]
    assert [*choices.TEMPLATES] == [*TEMPLATES]
    assert [*choices.REGION_SOURCES] == [*ONE_IMAGE]
    assert [*choices.REFINEMENTS] == [*REFINEMENTS]
    assert [*choices.EXHIBITS] == [*EXHIBITS]
