"""Results as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from san_cliptrase.text_tables import plain_table
from san_cliptrase.texts import exact

CLASSES_SHOWN, CONFUSIONS_SHOWN = 60, 5


def format_results(
    results: Mapping[str, Mapping[str, float]], title: str = "", settings: Mapping[str, Mapping[str, str]] | None = None
) -> str:
    """A table of metrics, rows by name; a row without a metric has an empty cell there.

    Args:
        results: row -> metric -> percent.
        title: stands over the table; says by which protocol the numbers were made.
        settings: row -> how it was made, in words: columns before those of the metrics.
    """
    about = settings or {}
    words = list(dict.fromkeys(column for setting in about.values() for column in setting))
    metrics = list(dict.fromkeys(metric for scores in results.values() for metric in scores))
    rows = [
        [
            name,
            *(about.get(name, {}).get(column, "") for column in words),
            *(f"{scores[metric]:.2f}" if metric in scores else "" for metric in metrics),
        ]
        for name, scores in results.items()
    ]
    table = plain_table(["", *words, *metrics], rows, right=range(1 + len(words), 1 + len(words) + len(metrics)))
    return f"{title}\n{table}" if title else table


def format_classes(classes: Sequence[Mapping[str, Any]]) -> str:
    """IoU, recall, precision and share of the pixels, a row a class, the first :data:`CLASSES_SHOWN`."""
    total = max(1, sum(row["pixels"] for row in classes))
    rows = [
        [exact(row["class"]), *(_percent(row[key]) for key in ("IoU", "recall", "precision")), _percent(share)]
        for row in classes[:CLASSES_SHOWN]
        for share in [100 * row["pixels"] / total]
    ]
    table = plain_table(["", "IoU", "recall", "precision", "pixels"], rows, right=range(1, 5))
    more = len(classes) - CLASSES_SHOWN
    return f"{table}\n... and {more} more in the CSV file" if more > 0 else table


def format_confusions(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The most frequent confusions, a line each."""
    return "\n".join(
        f"{pair['share']:5.1f} % of {exact(pair['truth'])} is taken for {exact(pair['predicted'])}"
        for pair in pairs[:CONFUSIONS_SHOWN]
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
