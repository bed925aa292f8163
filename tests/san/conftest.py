from pathlib import Path

import pytest

from tests.san import tiny


@pytest.fixture(scope="package")
def clip():
    return tiny.tiny_clip()


@pytest.fixture
def fixtures():
    return Path(__file__).parents[1] / "fixtures"
