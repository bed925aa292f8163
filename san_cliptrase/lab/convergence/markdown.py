"""The report as Markdown: headlines, tables, and what every word in them means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from san_cliptrase.text_tables import markdown_table

_WAYS = {"first": "first reached", "kept": "reached for good"}
_DEFINITIONS = """\
- **Level**: a share of the final value of the baseline's run *of the same seed*. **Final**: the mean of the last three
  evaluations.
- **First reached**: iterations until the mean of three evaluations in a row, straight between evaluations, first meets
  the level; one evaluation alone is noisy, and the first to touch a level is the luckiest. **For good**: the earliest
  iteration from which on it never falls below again; not given for 100 %, below which nothing that ends there can say
  since when. Iterations are means over the seeds that get there; "k of n never" counts those that do not.
- **Speed-up**: iterations of the baseline / iterations of the variant, seed by seed, then the geometric mean; **least**
  is the smallest of a seed. Above 1 the variant is faster.
- A time below one evaluation period counts as that period, so what starts above a level is only known to be at least so
  fast; a run that never gets there counts with the schedule's length. **>=**: variant early or baseline never, the
  factor is a lower bound; **<=**: variant never or baseline early, an upper one. "Of the pairs" counts them. Where both
  kinds occur, or a pair is both (**?**), no factor is given.
- **Intervals**: 95 % over seeds, in brackets the percentile bootstrap (10000 resamples of the paired values, fixed
  random seed), which is too narrow with few seeds (with five it covers about 84 %); Student's t of the logarithms
  beside it. None with fewer than two seeds. Bands in the pictures: pointwise mean +- Student-t 95 %.
- **Area**: mean of the metric over the schedule, by trapezoids. **Differences**: variant minus baseline within seeds.
- **Seconds, FLOPs to a level**: iterations times the median cost of one iteration, measured side by side; the intervals
  are over seeds and leave out how well that cost is known. What happens before the first iteration (prototypes) is in
  none of them. **Logged seconds**: from the runs' own clocks, evaluations not counted; noisy where runs shared a
  machine.
"""


def render_markdown(report: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """The report as text.

    Args:
        report: what ``report.build_report`` returns.
        images: files to show, relative to the report.
    """
    parts = [
        f"# Convergence on {report['dataset']}",
        *_headlines(report),
        *(f"![{name.removesuffix('.png')}]({name})" for name in pictures),
        "## What ran",
        *_what_ran(report),
        *(part for metric in report["metrics"] for part in _levels(report, metric)),
        "## Area under the curve and final value",
        _ends(report),
        "## Cost of an iteration",
        *_cost(report),
        "## Has the baseline converged?",
        *_plateau(report),
        "## Definitions",
        _DEFINITIONS,
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def headline(report: Mapping[str, Any], name: str) -> str:
    """One sentence on a variant: how fast it gets to the highest level, and where it ends."""
    baseline = report["variants"][report["baseline"]]["title"]
    variant = report["variants"][name]
    scores = variant["metrics"]["mIoU"]
    entry = scores["levels"][-1]
    speedup = entry["first"]["speedup"]
    if speedup is None:
        return f"**{variant['title']}** shares no seed with {baseline}: nothing can be compared."
    level = f"{entry['level']:.4g} x {baseline}'s final mIoU" if entry["level"] != 1 else f"{baseline}'s final mIoU"
    count = speedup["seeds"]
    end = f"it ends {_signed(scores['final_difference'])} mIoU; {count} seed{'s' * (count != 1)}."
    if speedup["variant_never"]:
        return f"**{variant['title']}** does not reach {level} in {speedup['variant_never']} of {count} seeds; {end}"
    if not _factor(speedup):
        return f"**{variant['title']}**: its speed to {level} cannot be told from these evaluations; {end}"
    base = report["variants"][report["baseline"]]["metrics"]["mIoU"]["levels"][-1]["first"]["iterations"]
    own = entry["first"]["iterations"]
    words = "at least " if speedup["bounds"]["lower"] else ""
    times = _factor(entry["first"]["speedup_seconds"])
    student = f" (Student's t: {_student(speedup)})" if _student(speedup) else ""
    return (
        f"**{variant['title']}** reaches {level} {words}{_estimate(speedup, 1)} times as fast{student}: "
        f"after {own:.0f} iterations instead of {base:.0f}{f' (in time: {times})' if times else ''}; {end}"
    )


def _headlines(report: Mapping[str, Any]) -> list[str]:
    lines = [f"- {headline(report, name)}" for name in _others(report)]
    missing = (
        [f"**Missing runs**, not in any number below: {'; '.join(report['missing'])}."] if report["missing"] else []
    )
    unequal = [f"**Unequal settings**: {'; '.join(report['unequal'])}."] if report["unequal"] else []
    return ["\n".join(lines) or "There is no variant but the baseline.", *missing, *unequal]


def _what_ran(report: Mapping[str, Any]) -> list[str]:
    schedule = report["schedule"]
    where = [
        f"{m['gpu'] or m['processor']}, {m['cores']} cores, {m['threads']} threads a {_process(m)}, "
        f"{m['jobs']} runs at a time, torch {m['torch']}, Python {m['python']} ({m['runs']} runs or parts of runs)"
        for m in report["machines"]
    ]
    several = ["The runs did not all have the same machine, threads and jobs."] if len(where) > 1 else []
    base = f"`{report['base']}`" if report["base"] else "see each folder's config.yaml"
    facts = [
        f"- report of {report['date']}, from `{report['source']}`",
        f"- training configuration: {base}{_overrides(report['overrides'], ' with ')}",
        f"- schedule: {schedule['iterations']:.0f} iterations of {schedule['images_per_batch']} images of "
        f"{', '.join(schedule['training_sets'] or [])}, evaluated on {report['dataset']} every "
        f"{schedule['evaluation_period']:.0f}",
        *(f"- {line}" for line in where or ["machine not recorded"]),
        *(f"- {line}" for line in several),
    ]
    rows = [
        [v["title"], f"`{name}`", _overrides(v["overrides"]) or "none", f"{v['learning_rate']:g}", _seeds(v["seeds"])]
        for name, v in report["variants"].items()
    ]
    return ["\n".join(facts), markdown_table(["variant", "name", "overrides", "learning rate", "seeds"], rows)]


def _process(machine: Mapping[str, Any]) -> str:
    count = machine["processes"] or 1  # not in what ran before runs had several
    return "run" if count == 1 else f"process, {count} processes a run"


def _levels(report: Mapping[str, Any], metric: str) -> list[str]:
    heading, shares = f"## How fast: {metric}", [f"{100 * level:.4g}%" for level in report["levels"]]
    if metric != "mIoU":
        rows = [
            [v["title"], *(_with_bounds(entry["first"]["speedup"]) for entry in v["metrics"][metric]["levels"])]
            for v in _others(report).values()
        ]
        text = f"Speed-up in iterations until a share of the baseline's final {metric} is first reached:"
        return [heading, text, markdown_table(["", *shares], rows)]
    found = []
    for way, words in _WAYS.items():
        rows = [
            [v["title"], *(_reached(entry[way]) if entry[way] else "" for entry in v["metrics"][metric]["levels"])]
            for v in report["variants"].values()
        ]
        found += [
            f"Iterations until a share of the baseline's final {metric} is {words}:",
            markdown_table(["", *shares], rows),
        ]
    text = "Speed-up over the baseline, first reached unless it says for good:"
    return [heading, *found, *_times(report, shares), text, _speedups(report)]


def _times(report: Mapping[str, Any], shares: Sequence[str]) -> list[str]:
    """Seconds and FLOPs to the levels of mIoU."""
    keys, unit = ("seconds", "logged_seconds", "flops"), {"flops": 1e12}
    rows = []
    for v in report["variants"].values():
        cells = []
        for entry in v["metrics"]["mIoU"]["levels"]:
            values = [(entry["first"][key], unit.get(key, 1)) for key in keys]
            cells.append(" / ".join("-" if value is None else f"{value / scale:.1f}" for value, scale in values))
        rows.append([v["title"], *cells])
    text = "Until first reached, by the same seeds: seconds by the side-by-side cost / logged seconds / TFLOPs:"
    return [text, markdown_table(["", *shares], rows)]


def _speedups(report: Mapping[str, Any]) -> str:
    rows = []
    for v in _others(report).values():
        for entry in v["metrics"]["mIoU"]["levels"]:
            own = entry["first"]
            iterations = own["speedup"]
            rows.append(
                [
                    v["title"],
                    f"{100 * entry['level']:.4g}%",
                    _factor(iterations),
                    _student(iterations),
                    f"{iterations['least']:.2f}" if iterations else "",
                    _bounds(iterations),
                    *(_factor(own[f"speedup_{kind}"]) for kind in ("seconds", "flops", "logged_seconds")),
                    _with_bounds(entry["kept"]["speedup"]) if entry["kept"] else "",
                ]
            )
    head = ["", "level", "iterations", "Student's t", "least", "of the pairs", "seconds", "FLOPs", "logged seconds"]
    return markdown_table([*head, "iterations, for good"], rows)


def _ends(report: Mapping[str, Any]) -> str:
    head, rows = ["", *(f"{kind}, {m}" for m in report["metrics"] for kind in ("area", "final"))], []
    for v in report["variants"].values():
        cells = []
        for scores in v["metrics"].values():
            for kind in ("area", "final"):
                change = scores[f"{kind}_difference"]
                cells.append(f"{scores[kind]['value']:.1f}" + (f" ({_signed(change)})" if change else ""))
        rows.append([v["title"], *cells])
    return markdown_table(head, rows)


def _cost(report: Mapping[str, Any]) -> list[str]:
    cost, variants = report["cost"], report["variants"]
    if not cost:
        rows = [[v["title"], f"{v['logged_seconds_per_iteration']:.3f}"] for v in variants.values()]
        return ["Not measured side by side; from the runs' own clocks:", markdown_table(["", "logged seconds"], rows)]
    rows = []
    for name, v in variants.items():
        if name not in cost["variants"]:
            continue
        c = cost["variants"][name]
        rows.append(
            [
                v["title"],
                _spread(c["seconds"], 3),
                _spread(c["seconds_ratio"], 2),
                f"{c['regions_share']:.1%}",
                f"{c['flops'] / 1e9:.2f}",
                f"{v['logged_seconds_per_iteration']:.3f}",
            ]
        )
    host = cost["machine"]
    text = (
        f"One training iteration without loading data, {cost['rounds']} rounds in which the variants take turns, on "
        f"{host['gpu'] or host['processor']} with {cost['threads']} threads, {cost['date']}. Median and quartiles; "
        f"the ratio is to the baseline of the same round. {cost['flops_note']}"
    )
    head = ["", "seconds", "ratio", "share of finding regions", "GFLOPs", "logged seconds"]
    return [text, markdown_table(head, rows)]


def _spread(values: Mapping[str, float], digits: int) -> str:
    return f"{values['median']:.{digits}f} [{values['low']:.{digits}f}, {values['high']:.{digits}f}]"


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


def _estimate(estimate: Mapping[str, Any] | None, digits: int) -> str:
    if estimate is None:
        return ""
    interval = "" if estimate["low"] is None else f" [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"
    return f"{estimate['value']:.{digits}f}{interval}"


def _factor(speedup: Mapping[str, Any] | None) -> str:
    """A speed-up with its interval, and the sign of the bound that it is; "" where pairs bound it from both sides."""
    if speedup is None:
        return ""
    lower, upper = speedup["bounds"]["lower"], speedup["bounds"]["upper"]
    if speedup["bounds"]["unresolved"] or (lower and upper):
        return ""
    return (">= " if lower else "<= " if upper else "") + _estimate(speedup, 2)


def _student(speedup: Mapping[str, Any] | None) -> str:
    if speedup is None or speedup["student_low"] is None or not _factor(speedup):
        return ""
    return f"{speedup['student_low']:.2f} to {speedup['student_high']:.2f}"


def _signed(estimate: Mapping[str, Any]) -> str:
    interval = "" if estimate["low"] is None else f" [{estimate['low']:+.1f}, {estimate['high']:+.1f}]"
    return f"{estimate['value']:+.1f}{interval}"


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


def _overrides(values: Mapping[str, str], before: str = "") -> str:
    return before * bool(values) + ", ".join(f"`{key} {value}`" for key, value in values.items())


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)
