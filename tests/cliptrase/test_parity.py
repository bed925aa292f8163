"""Equal numbers with the published CLIPtrase script (2b7de61), which made ``fixtures/cliptrase_parity.npz``."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.parity_cliptrase import build_parity_clip, compare, reference_quantities


@pytest.fixture(scope="module")
def reference():
    return np.load(Path(__file__).parents[1] / "fixtures" / "cliptrase_parity.npz")


@pytest.fixture(scope="module")
def numbers(reference):
    meta = json.loads(str(reference["meta"]))
    clip = build_parity_clip(meta["clip_config"], meta["weights_seed"])
    ours = dict(reference_quantities(clip, reference, meta["images"], meta))
    return {key: value for key, value in ours.items() if key in reference}


def test_equals_the_published_script(numbers, reference):
    rows = compare(numbers.items(), reference)
    # 3 of text, and at both sizes 4 intermediate quantities and 3 kinds of prediction.
    assert len(rows) == 3 + 2 * 7
    assert [row for row in rows if not row.passed] == []


def test_a_deviation_is_seen(numbers, reference):
    key = "correlation/112/2"
    wrong = compare([(key, numbers[key] + 1e-3)], reference)
    assert [row.passed for row in wrong] == [False]
    label_key = "labels/112/2"
    changed = numbers[label_key].copy()
    changed[0] += 1
    assert not compare([(label_key, changed)], reference)[0].passed
    assert not compare([(key, numbers[key] * np.nan)], reference)[0].passed
    assert not compare([(key, numbers[key][:1])], reference)[0].passed
