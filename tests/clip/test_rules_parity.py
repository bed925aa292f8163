"""Equal numbers with the authors' own code of dense rules and refinements, which made ``fixtures/rules_parity.npz``."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.parity_rules import TOLERANCE, RuleNumbers, deviation, quantities, split_key


@pytest.fixture(scope="module")
def reference():
    return dict(np.load(Path(__file__).parents[1] / "fixtures" / "rules_parity.npz"))


@pytest.fixture(scope="module")
def ours(reference):
    """Of each array the first rows, as they are in the fixtures."""
    compute = RuleNumbers(reference)
    return {key: compute(key)[: len(reference[key])] for key in quantities(reference)}


def test_equals_the_authors_numbers(ours, reference):
    assert len(ours) == 21
    found = {key: deviation(split_key(key)[0], value, reference[key]) for key, value in ours.items()}
    assert {key: value for key, value in found.items() if not value <= TOLERANCE} == {}


def test_a_deviation_is_seen(ours, reference):
    key = "pearl/features/112/0"
    assert deviation("pearl/features", ours[key] + 1e-3, reference[key]) > TOLERANCE
    assert deviation("scclip/outliers", np.array([11, 12]), np.array([11, 12, 18])) == np.inf
    assert not deviation("pearl/features", ours[key] * np.nan, reference[key]) <= TOLERANCE
