"""Everything a report says, as one structure that JSON can hold; Markdown and images only show it.

Nothing here reads a file or a clock: the report is a function of the study, the cost and the date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from san_cliptrase.lab.convergence.curves import area, final, first_reach, kept, late_gain, smoothed, start
from san_cliptrase.lab.convergence.experiment import MOST_SHARE
from san_cliptrase.lab.convergence.statistics import (
    Estimate,
    Pair,
    band,
    geometric_mean,
    mean_over_seeds,
    pair_times,
    paired_difference,
)
from san_cliptrase.lab.convergence.study import Run, Study

_REACHES = {"first": first_reach, "kept": kept}
_HOST = ("processor", "cores", "gpu", "torch", "python", "threads", "jobs", "processes")


def build_report(study: Study, cost: Mapping[str, Any] | None, date: str) -> dict[str, Any]:
    """The report of a study of variants with equal schedules.

    Args:
        study: finished runs.
        cost: what ``cost.measure`` returns; None if it has not been measured.
        date: of the report.

    Returns:
        A dictionary of strings, numbers, None, lists and dictionaries; no NaN.
    """
    report = describe(study, cost, date)
    for name, variant in report["variants"].items():
        variant["metrics"] = {metric: _scores(study, name, metric, cost) for metric in study.metrics}
    base_runs = study.runs[study.baseline]
    plateau = {
        m: _estimate(mean_over_seeds([late_gain(r.curve, m) for r in base_runs.values()])) for m in study.metrics
    }
    return {**report, "levels": [level_name(level) for level in study.levels], "plateau": plateau}


def describe(study: Study, cost: Mapping[str, Any] | None, date: str) -> dict[str, Any]:
    """What a report says of a study besides its results: see :func:`build_report`."""
    first = next(iter(study.runs[study.baseline].values()))
    return {
        "date": date,
        "source": study.source,
        "base": study.base,
        "overrides": {key: str(value) for key, value in study.overrides.items()},
        "dataset": study.dataset,
        "baseline": study.baseline,
        "metrics": study.metrics,
        "references": {title: dict(scores) for title, scores in study.references.items()},
        "images_per_batch": first.config.get("SOLVER.IMS_PER_BATCH"),
        "training_sets": first.config.get("DATASETS.TRAIN"),
        "machines": _machines(study),
        "missing": list(study.missing),
        "unequal": study.unequal,
        "cost": dict(cost) if cost else None,
        "variants": {name: _describe_variant(study, name) for name in study.variants},
    }


def _describe_variant(study: Study, name: str) -> dict[str, Any]:
    variant, runs = study.variants[name], study.runs[name]
    first = next(iter(runs.values()))
    seconds = np.mean([run.curve.seconds[-1] / run.curve.schedule for run in runs.values()])
    return {
        "title": variant.title,
        "overrides": {key: str(value) for key, value in variant.overrides.items()},
        "learning_rate": first.config.get("SOLVER.BASE_LR"),
        "query_init": first.config.get("MODEL.SAN.QUERY_INIT.NAME"),
        "seeds": sorted(runs),
        "iterations": first.curve.schedule,
        "evaluation_period": first.curve.period,
        # NaN where the time of a run was not recorded.
        "logged_seconds_per_iteration": None if np.isnan(seconds) else float(seconds),
    }


def _scores(study: Study, name: str, metric: str, cost: Mapping[str, Any] | None) -> dict[str, Any]:
    runs, baseline = study.runs[name], study.runs[study.baseline]
    pairs = sorted(runs.keys() & baseline.keys())
    return {
        "curve": _mean_curve(runs, metric),
        "start": _estimate(mean_over_seeds([start(run.curve, metric) for run in runs.values()])),
        "start_difference": _difference(baseline, runs, metric, start),
        "final": _estimate(mean_over_seeds([final(run.curve, metric) for run in runs.values()])),
        "final_by_seed": {str(s): final(run.curve, metric) for s, run in runs.items()},
        "final_difference": _difference(baseline, runs, metric, final),
        "area": _estimate(mean_over_seeds([area(run.curve, metric) for run in runs.values()])),
        "area_by_seed": {str(s): area(run.curve, metric) for s, run in runs.items()},
        "area_difference": _difference(baseline, runs, metric, area),
        "levels": [_level(study, name, metric, level, pairs, cost) for level in study.levels],
    }


def _level(
    study: Study, name: str, metric: str, level: float, seeds: Sequence[int], cost: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Times of one variant to one level, and how much faster than the baseline that is, by both ways of reaching."""
    end = float(np.mean([final(run.curve, metric) for run in study.runs[study.baseline].values()]))
    value = level * end if level <= MOST_SHARE else level
    entry: dict[str, Any] = {"level": level_name(level), "value": value}
    costs = (cost or {}).get("variants", {})
    own, base = costs.get(name), costs.get(study.baseline)
    for way, reach in _REACHES.items():
        found, pairs, logged = {}, [], []
        for seed in seeds:
            reference, curve = (smoothed(study.runs[v][seed].curve) for v in (study.baseline, name))
            found[seed] = reach(curve, metric, value)
            pair = pair_times(reference, curve, metric, value, reach)
            pairs.append(pair)
            logged.append((reference.seconds_at(pair.baseline), curve.seconds_at(pair.variant)))
        reached = [x for x in found.values() if x is not None]
        entry[way] = {
            "iterations": float(np.mean(reached)) if reached else None,
            "by_seed": {str(seed): x for seed, x in found.items()},
            "never": len(found) - len(reached),
            "speedup": None if name == study.baseline else _speedup(pairs, 1.0),
            "speedup_seconds": None if name == study.baseline else _speedup(pairs, _ratio(base, own, "seconds")),
            "speedup_flops": None if name == study.baseline else _speedup(pairs, _ratio(base, own, "flops")),
            "speedup_logged_seconds": None if name == study.baseline else _logged(pairs, logged),
        }
    return entry


def _speedup(pairs: Sequence[Pair], factor: float | None) -> dict[str, Any] | None:
    """Geometric mean of paired ratios, times what an iteration of the baseline costs relative to the variant's."""
    if not pairs or factor is None:
        return None
    return _bounded(pairs, [pair.ratio * factor for pair in pairs])


def _logged(pairs: Sequence[Pair], seconds: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    if not pairs or not all(min(both) > 0 for both in seconds):
        return None
    return _bounded(pairs, [reference / own for reference, own in seconds])


def _bounded(pairs: Sequence[Pair], ratios: Sequence[float]) -> dict[str, Any]:
    bounds = [pair.bound for pair in pairs]
    return {
        **_estimate(geometric_mean(ratios)),
        "by_seed": list(ratios),
        "bounds": {kind: bounds.count(kind) for kind in ("exact", "lower", "upper", "unresolved")},
        "variant_never": sum(pair.variant_never for pair in pairs),
        "baseline_never": sum(pair.baseline_never for pair in pairs),
    }


def _ratio(base: Mapping[str, Any] | None, own: Mapping[str, Any] | None, key: str) -> float | None:
    if not base or not own or base.get(key) is None or own.get(key) is None:
        return None
    # Times are compared within rounds of the measurement, which takes out what slows both.
    return 1 / own["seconds_ratio"]["median"] if key == "seconds" else _amount(base, key) / _amount(own, key)


def _amount(cost: Mapping[str, Any], key: str) -> float:
    value = cost[key]
    return float(value["median"] if isinstance(value, Mapping) else value)


def _difference(baseline: Mapping[int, Run], runs: Mapping[int, Run], metric: str, measure: Any) -> dict | None:
    if baseline is runs:
        return None
    values = ({seed: measure(run.curve, metric) for seed, run in group.items()} for group in (baseline, runs))
    return _estimate(paired_difference(*values))


def _mean_curve(runs: Mapping[int, Run], metric: str) -> dict[str, Any]:
    curves = [run.curve for run in runs.values()]
    mean, width = band([curve.metrics[metric] for curve in curves])
    return {
        "iterations": curves[0].iterations.tolist(),
        "mean": mean.tolist(),
        "half_width": None if width is None else width.tolist(),
    }


def level_name(level: float) -> str:
    """A level as tables call it: a share of the baseline's end, or percent of the metric."""
    return f"{100 * level:.4g}%" if level <= MOST_SHARE else f"{level:.4g} mIoU"


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else vars(estimate).copy()


def _machines(study: Study) -> list[dict[str, Any]]:
    """The different machines and settings that runs ran with, with how many parts of runs each had."""
    counted: dict[tuple, int] = {}
    for runs in study.runs.values():
        for run in runs.values():
            for part in run.parts:
                key = tuple(part.get(name) for name in _HOST)
                counted[key] = counted.get(key, 0) + 1
    return [dict(zip(_HOST, key, strict=True)) | {"runs": count} for key, count in counted.items()]
