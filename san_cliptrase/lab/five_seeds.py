"""What five seeds of ``configs/demo/frontier.yaml`` gave: the evaluations that the demo and figure 1 show."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from san_cliptrase.lab.convergence.curves_file import study_of_table
from san_cliptrase.lab.convergence.frontier import comparison, frontier_of, in_words

FIVE_SEEDS = Path(__file__).with_name("five_seeds.csv")
"""``docs/convergence/demo_frontier/curves.csv``, for who has the package without the documentation."""
SHOWN = "regions"


def claim(metrics: Collection[str]) -> list[str]:
    """The shortest training from regions against plain SAN with four times its iterations and with the most.

    Args:
        metrics: which to tell.
    """
    frontier = frontier_of(study_of_table(FIVE_SEEDS))
    budget = frontier.budgets[SHOWN][0]
    own = frontier.budgets[frontier.baseline]
    longer = [plain for plain in own if plain in (4 * budget, own[-1])]
    return [in_words(frontier, comparison(frontier, SHOWN, budget, plain), metrics) for plain in longer]
