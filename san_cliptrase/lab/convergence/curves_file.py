"""``curves.csv``: all evaluations of a study, from which its report can be made again."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from san_cliptrase.errors import CurveError
from san_cliptrase.lab.convergence.curves import ABOUT, METRICS, curve_of_rows, read_rows
from san_cliptrase.lab.convergence.experiment import LEVELS, Variant
from san_cliptrase.lab.convergence.experiment_file import check_references
from san_cliptrase.lab.convergence.study import Run, Study
from san_cliptrase.texts import exact


def table_of(study: Study) -> str:
    """``curves.csv``: all evaluations of all runs, unchanged; references are rows without a variant and a seed."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*ABOUT, *study.metrics])
    for name, runs in study.runs.items():
        for seed, run in runs.items():
            columns = (run.curve.iterations.astype(int), run.curve.seconds, *map(run.curve.metrics.get, study.metrics))
            for iteration, seconds, *values in zip(*map(np.ndarray.tolist, columns), strict=True):
                writer.writerow([name, study.variants[name].title, seed, iteration, seconds, study.dataset, *values])
    for title, scores in study.references.items():
        writer.writerow(["", title, "", "", "", study.dataset, *(scores.get(name, "") for name in study.metrics)])
    return table.getvalue()


def study_of_table(path: str | Path, levels: Sequence[float] = LEVELS) -> Study:
    """The runs in a ``curves.csv``, whose first variant is the baseline.

    Args:
        path: the file.
        levels: see :data:`san_cliptrase.lab.convergence.experiment.LEVELS`.

    Raises:
        CurveError: if it is no such table, or seeds of a variant were evaluated at different iterations.
        ConfigError: if a reference is not percent.
    """
    found: dict[str, dict[int, list[dict[str, str]]]] = {}
    titles, references = {}, {}
    rows = read_rows(path, ABOUT)
    try:
        for row in rows:
            if row["variant"]:
                titles[row["variant"]] = exact(row["title"])
                found.setdefault(row["variant"], {}).setdefault(int(row["seed"]), []).append(row)
            else:
                references[row["title"]] = {name: float(row[name]) for name in METRICS if row.get(name)}
    except ValueError as error:
        raise CurveError(f"{path}: {error}") from error
    if not found or len({row["dataset"] for row in rows}) > 1:
        raise CurveError(f"{path} holds no runs, or those of several data sets")
    runs = {
        name: {seed: Run(curve_of_rows(own, f"{path}: {name} seed {seed}"), {}) for seed, own in seeds.items()}
        for name, seeds in found.items()
    }
    for name, seeds in runs.items():
        if len({tuple(run.curve.iterations) for run in seeds.values()}) > 1:
            raise CurveError(f"{path}: the seeds of {name} were evaluated at different iterations: are rows missing?")
    variants = {name: Variant(name, titles[name], {}, tuple(seeds)) for name, seeds in runs.items()}
    baseline, dataset = next(iter(runs)), rows[0]["dataset"]
    references = check_references(references, f"{path}: reference")
    return Study(Path(path).name, "", {}, baseline, variants, tuple(levels), dataset, runs, references)
