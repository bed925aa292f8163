"""The report as Markdown: headlines, tables, and what every word in them means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from san_cliptrase.lab.convergence.curves import METRICS
from san_cliptrase.lab.convergence.runs_and_costs import cost_section, what_ran
from san_cliptrase.text_tables import markdown_table

_DEFINITIONS = """\
- **Final**: the mean of the last three evaluations. **Area**: mean of the metric over the schedule, by trapezoids.
  **Against** the baseline: variant minus baseline within seeds.
- **Level**: the same for all seeds: a share of the baseline's final value, the mean over its seeds, or percent.
- **Reached**: when the mean of three evaluations in a row, straight between evaluations, first meets the level; one
  evaluation alone is noisy, and the first to touch a level is the luckiest. **For good**: the earliest iteration from
  which on it never falls below again. Iterations are means over the seeds that get there; "k of n never" counts those
  that do not.
- **Speed-up**: iterations of the baseline / iterations of the variant, seed by seed, then the geometric mean; **least**
  is the smallest of a seed. Above 1 the variant is faster.
- A time below one evaluation period counts as that period, so what starts above a level is only known to be at least so
  fast; a run that never gets there counts with the schedule's length. **>=**: variant early or baseline never, the
  factor is a lower bound; **<=**: variant never or baseline early, an upper one; the counts of seeds stand behind it,
  and the interval is one of the bound. Where both kinds occur, or a pair is both (**?**), no factor is given.
- **Brackets**: Student's 95 % interval over seeds, `mean +- t(0.975, n - 1) sd / sqrt(n)`; for speed-ups, of their
  logarithms. None with fewer than two seeds. They take the levels as given. Bands in the pictures are the same,
  iteration by iteration.
- **In seconds, FLOPs**: iterations times the median cost of one iteration, measured side by side; the intervals are
  over seeds and leave out how well that cost is known. What happens before the first iteration (prototypes) is not in
  it. **In logged seconds**: from the runs' own clocks, evaluations not counted; noisy where runs shared a machine.
- All of this but costs can be made again from `curves.csv`: `san-cliptrase convergence --csv curves.csv`.
"""


def render_markdown(report: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """The report as text.

    Args:
        report: what ``report.build_report`` returns.
        pictures: files to show, relative to the report.
    """
    parts = [
        f"# Convergence on {report['dataset']}",
        *_headlines(report),
        *(f"![{name.removesuffix('.png')}]({name})" for name in pictures),
        "## What ran",
        *what_ran(report),
        "## Where it ends",
        *_ends(report),
        "## How fast",
        *_levels(report),
        *cost_section(report),
        "## Has the baseline converged?",
        *_plateau(report),
        "## Definitions",
        _DEFINITIONS,
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def headline(report: Mapping[str, Any], name: str) -> str:
    """One sentence on a variant: where it ends, and how fast it gets to the baseline's end."""
    baseline = report["variants"][report["baseline"]]["title"]
    variant = report["variants"][name]
    metrics = variant["metrics"]
    if metrics["mIoU"]["final_difference"] is None:
        return f"**{variant['title']}** shares no seed with {baseline}: nothing can be compared."
    count = metrics["mIoU"]["final_difference"]["seeds"]
    others = [f"{METRICS[m]} {_signed(metrics[m]['final_difference'])}" for m in list(METRICS)[1:4] if m in metrics]
    seeds = f"{count} seed{'s' * (count != 1)}"
    return (
        f"**{variant['title']}** ends {_signed(metrics['mIoU']['final_difference'])} mIoU against {baseline} "
        f"({', '.join([*others, seeds])}){_speed(metrics['mIoU']['levels'], baseline)}."
    )


def _speed(levels: Sequence[Mapping[str, Any]], baseline: str) -> str:
    """The highest share of the baseline's end, and how fast it is reached."""
    shares = [entry for entry in levels if entry["level"].endswith("%")]
    if not shares:
        return ""
    level = f"{shares[-1]['level']} of {baseline}'s mean final mIoU"
    speedup = shares[-1]["first"]["speedup"]
    if speedup["variant_never"]:
        count = speedup["seeds"]
        own, base = (count - speedup[key] for key in ("variant_never", "baseline_never"))
        return f"; it reaches {level} in {own} of {count} seeds, {baseline} in {base}"
    if not _factor(speedup):
        return f"; its speed to {level} cannot be told from these evaluations"
    times = _factor(shares[-1]["first"]["speedup_seconds"])
    words = "at least " if speedup["bounds"]["lower"] else "at most " if speedup["bounds"]["upper"] else ""
    return f"; it reaches {level} {words}{_estimate(speedup, 1)} times as fast{f' (in time: {times})' if times else ''}"


def _headlines(report: Mapping[str, Any]) -> list[str]:
    lines = [f"- {headline(report, name)}" for name in _others(report)]
    unequal = [f"**Unequal settings**: {'; '.join(report['unequal'])}."] if report["unequal"] else []
    return ["\n".join(lines) or "There is no variant but the baseline.", *unequal]


def _ends(report: Mapping[str, Any]) -> list[str]:
    """Tables of variants by classes: final value, area, start, each with its difference from the baseline's."""
    classes = [METRICS[metric] for metric in report["metrics"]]
    parts = [f"In parentheses: against {report['variants'][report['baseline']]['title']}, within seeds."]
    for kind, words in (("final", "final mIoU"), ("area", "area under the curve"), ("start", "before training")):
        rows = []
        for v in report["variants"].values():
            scores = [v["metrics"][metric] for metric in report["metrics"]]
            rows.append([v["title"], *(_with_difference(own[kind], own[f"{kind}_difference"]) for own in scores)])
        if kind == "final":
            for title, values in report["references"].items():
                known = (f"{values[metric]:.1f}" if metric in values else "" for metric in report["metrics"])
                rows.append([f"{title} (needs no training)", *known])
        parts.append(markdown_table([words, *classes], rows))
    return parts


def _with_difference(estimate: Mapping[str, Any], difference: Mapping[str, Any] | None) -> str:
    return f"{estimate['value']:.1f} ({_signed(difference)})" if difference else _estimate(estimate, 1)


def _levels(report: Mapping[str, Any]) -> list[str]:
    baseline = report["variants"][report["baseline"]]
    head, times, speedups = ["classes", *report["levels"]], [], []
    for metric in report["metrics"]:
        values = [f"{entry['value']:.1f}" for entry in baseline["metrics"][metric]["levels"]]
        times.append(["level", METRICS[metric], *values])
        for v in report["variants"].values():
            own = [entry["first"] for entry in v["metrics"][metric]["levels"]]
            times.append([v["title"], METRICS[metric], *map(_reached, own)])
            if v is not baseline:
                speedups.append([v["title"], METRICS[metric], *(_with_bounds(entry["speedup"]) for entry in own)])
    seeds = sorted({seed for v in report["variants"].values() for seed in v["seeds"]})
    by_seed = [
        [v["title"], entry["level"], *(_of_seed(entry["first"]["by_seed"], str(seed)) for seed in seeds)]
        for v in report["variants"].values()
        for entry in v["metrics"]["mIoU"]["levels"]
    ]
    return [
        f"Iterations until a level is reached: shares of {baseline['title']}'s final value, the mean over its seeds.",
        markdown_table(["iterations", *head], times),
        f"How many times as fast as {baseline['title']}, in iterations:",
        markdown_table(["times as fast", *head], speedups),
        "Other measures of the same, for mIoU:",
        _speedups(report),
        "Iterations of each seed, for mIoU:",
        markdown_table(["iterations", "level", *(f"seed {seed}" for seed in seeds)], by_seed),
    ]


def _speedups(report: Mapping[str, Any]) -> str:
    rows = []
    for v in _others(report).values():
        for entry in v["metrics"]["mIoU"]["levels"]:
            own = entry["first"]
            least = f"{own['speedup']['least']:.2f}" if own["speedup"] else ""
            kinds = [_factor(own[f"speedup_{kind}"]) for kind in ("seconds", "flops", "logged_seconds")]
            rows.append([v["title"], entry["level"], least, _with_bounds(entry["kept"]["speedup"]), *kinds])
    return markdown_table(
        ["times as fast", "level", "least", "for good", "in seconds", "in FLOPs", "in logged seconds"], rows
    )


def _plateau(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for metric, gain in report["plateau"].items():
        end = report["variants"][report["baseline"]]["metrics"][metric]["final"]["value"]
        lines.append(f"- {metric}: {_signed(gain)} in the last tenth of the schedule; it ends at {end:.1f}")
    return [
        "What the baseline still gains in the last tenth of its schedule (means of three evaluations, over seeds). "
        "Well above 0, more training would raise the levels above. Near 0 shows less: the learning rate falls to 0, "
        "which flattens every curve, and a longer schedule may still end higher.",
        "\n".join(lines),
    ]


def _others(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in report["variants"].items() if name != report["baseline"]}


def _with_bounds(speedup: Mapping[str, Any] | None) -> str:
    words = _bounds(speedup)
    return f"{_factor(speedup)} ({words})".strip() if words else _factor(speedup)


def _reached(way: Mapping[str, Any]) -> str:
    count = len(way["by_seed"])
    never = f" ({way['never']} of {count} never)" if way["never"] else ""
    return ("never" if count else "") if way["iterations"] is None else f"{way['iterations']:.0f}{never}"


def _of_seed(times: Mapping[str, float | None], seed: str) -> str:
    if seed not in times:
        return ""
    return "never" if times[seed] is None else f"{times[seed]:.0f}"


def _estimate(estimate: Mapping[str, Any] | None, digits: int, sign: str = "") -> str:
    if estimate is None:
        return ""
    low, high = (estimate[end] for end in ("low", "high"))
    interval = "" if low is None else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return f"{estimate['value']:{sign}.{digits}f}{interval}"


def is_bounded_from_one_side(speedup: Mapping[str, Any]) -> bool:
    """Whether pairs tell a speed-up, exactly or as a bound: not where they bound it from both sides."""
    bounds = speedup["bounds"]
    return not bounds["unresolved"] and not (bounds["lower"] and bounds["upper"])


def _factor(speedup: Mapping[str, Any] | None) -> str:
    """A speed-up with its interval, and the sign of the bound that it is; "" where pairs bound it from both sides."""
    if speedup is None or not is_bounded_from_one_side(speedup):
        return ""
    lower, upper = speedup["bounds"]["lower"], speedup["bounds"]["upper"]
    return (">= " if lower else "<= " if upper else "") + _estimate(speedup, 2)


def _signed(estimate: Mapping[str, Any] | None) -> str:
    return _estimate(estimate, 1, "+")


def _bounds(speedup: Mapping[str, Any] | None) -> str:
    if speedup is None:
        return ""
    signs = {"lower": ">=", "upper": "<=", "unresolved": "?"}
    words = [
        f"{signs[kind]} in {n} of {speedup['seeds']}" for kind, n in speedup["bounds"].items() if kind in signs and n
    ]
    never = (("variant_never", "never"), ("baseline_never", "baseline never"))
    words += [f"{text} in {speedup[key]} of {speedup['seeds']}" for key, text in never if speedup[key]]
    return ", ".join(words)
