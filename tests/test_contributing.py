"""CONTRIBUTING.md's worked examples: each one's code and test, as they stand there."""

import inspect
import re
from unittest.mock import patch

import pytest

from san_cliptrase.clip.attention import ATTENTION_RULES
from san_cliptrase.data.table import DATASETS
from tests.conftest import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def examples():
    """Names that the blocks define, run one after the other; what they register is forgotten afterwards."""
    names = {"__name__": "contributing"}
    with patch.dict(ATTENTION_RULES), patch.dict(DATASETS):
        for code in EXAMPLES:
            exec(compile(code, "CONTRIBUTING.md", "exec"), names)
        yield names


@pytest.mark.parametrize("name", re.findall(r"^def (test_\w+)", PAGE, flags=re.MULTILINE))
def test_an_example_passes_its_own_test(examples, request, name):
    fixtures = inspect.signature(examples[name]).parameters
    examples[name](*map(request.getfixturevalue, fixtures))


def test_every_kind_of_addition_has_an_example_and_a_test():
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    worked = [section.splitlines()[0] for section in sections if "```python" in section and "def test_" in section]
    assert worked == ["An attention rule", "A source of regions", "A data set", "A query initialisation"]
