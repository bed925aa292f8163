"""What five seeds of ``configs/demo/longer.yaml`` gave: the part of that report which the demo and figure 1 show."""

from __future__ import annotations

import json
from pathlib import Path

from san_cliptrase.lab.convergence.markdown import headline

FIVE_SEEDS = Path(__file__).with_name("five_seeds.json")
SHOWN = "tokens_prior"
"""The variant that the demo trains."""


def claim() -> str:
    """The headline of the report."""
    return headline(json.loads(FIVE_SEEDS.read_text(encoding="utf-8")), SHOWN).replace("**", "")
