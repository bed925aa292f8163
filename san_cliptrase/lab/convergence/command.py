"""The command: ``san-cliptrase convergence``.

With --config it runs an experiment, variants times seeds, and reports; the same command again goes on where it was cut
off. With --compare it reports on output folders of train_net.py, the baseline's first; with --csv on the evaluations
that an earlier report has kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from san_cliptrase.errors import ConfigError, LaunchError
from san_cliptrase.files import remove_unfinished
from san_cliptrase.lab.convergence.cost import cached_cost, cost_of
from san_cliptrase.lab.convergence.curves import METRICS
from san_cliptrase.lab.convergence.curves_file import study_of_table, table_of
from san_cliptrase.lab.convergence.experiment import LEVELS, Experiment, method_of
from san_cliptrase.lab.convergence.experiment_file import check_levels, read_experiment
from san_cliptrase.lab.convergence.frontier import frontier_of, render_frontier, savings_in_words
from san_cliptrase.lab.convergence.markdown import headline, render_markdown
from san_cliptrase.lab.convergence.plots import plot_curves, plot_frontier, plot_speedups
from san_cliptrase.lab.convergence.report import build_report, describe
from san_cliptrase.lab.convergence.runner import run_all
from san_cliptrase.lab.convergence.study import Study, on_other_test_sets, study_of_experiment, study_of_folders
from san_cliptrase.lab.convergence.tensorboard import write_layout, write_runs, write_summary
from san_cliptrase.lab.convergence.worker import cores, now, write_json, write_text
from san_cliptrase.locks import only_run_in

COMPARISON = Path("output/comparison")
CURVES = "curves.csv"


def write_report(study: Study, cost: Mapping[str, Any] | None, output: Path) -> dict[str, Any]:
    """Writes ``curves.csv``, and a frontier or a report with its plots, whichever the study is of.

    A frontier is ``frontier.md`` and ``frontier.png``. A report is ``report.json``, ``report.md``, ``curves.png`` and,
    if there is more than one variant, ``speedups.png``.

    Args:
        study: finished runs.
        cost: of their iterations, if it was measured.
        output: folder.

    Returns:
        What ``report.json`` holds, of a frontier without results.
    """
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / CURVES, table_of(study))
    frontier = frontier_of(study)
    if frontier:
        report, path = describe(study, cost, now()), output / "frontier.md"
        plot_frontier(frontier, output / "frontier.png")
        text = render_frontier(frontier, report, ["frontier.png"])
        said = savings_in_words(frontier)
    else:
        report, path = build_report(study, cost, now()), output / "report.md"
        write_json(output / "report.json", report)
        plot_curves(report, output / "curves.png")
        pictures = ["curves.png"]
        if len(report["variants"]) > 1:
            plot_speedups(report, output / "speedups.png")
            pictures.append("speedups.png")
        text = render_markdown(report, pictures)
        said = [headline(report, name).replace("**", "") for name in report["variants"] if name != report["baseline"]]
    write_text(path, text)
    sys.stdout.writelines(f"{line}\n" for line in [*said, *(f"missing: {run}" for run in report["missing"])])
    sys.stdout.write(f"report: {path}\n")
    return report


def execute(args: argparse.Namespace) -> int:
    """What ``convergence`` does; returns the exit status: 1 if a run failed."""
    if args.compare or args.csv:
        levels = check_levels(args.levels or list(LEVELS), "--levels")
        if args.csv:
            study = study_of_table(args.csv, levels)
        else:
            study = study_of_folders(args.compare, args.labels, args.dataset, levels)
        write_report(study, None, args.output or COMPARISON)
        return 0
    experiment = read_experiment(args.config, args.output)
    _known(args.variants, list(experiment.variants), "--variants")
    _known(args.seeds, sorted({seed for _, seed in experiment.runs()}), "--seeds")
    threads = args.threads or max(1, cores() // (args.jobs * args.num_gpus))
    if args.report_only:  # also of what is there while the lab is at work
        study = study_of_experiment(experiment, args.variants, args.seeds)
        cost = _cost(experiment, study, threads) if args.cost else cached_cost(experiment)
        _report(experiment, study, cost)
        return 0
    _enough_gpus(experiment, args.num_gpus)
    with only_run_in(experiment.output, "--output"):
        remove_unfinished(experiment.output, only_one=True)
        runs = experiment.runs(args.variants, args.seeds)
        return run_experiment(experiment, runs, args.jobs, threads, args.num_gpus, args.cost)


def run_experiment(
    experiment: Experiment,
    runs: Sequence[tuple[str, int]],
    jobs: int,
    threads: int,
    gpus: int = 1,
    cost_again: bool = False,
) -> int:
    """Runs what is not finished of an experiment and reports on all of it.

    Args:
        experiment: variants and seeds.
        runs: the (variant, seed) to run.
        jobs: runs at a time.
        threads: of a process.
        gpus: of a run, a process each.
        cost_again: measure the cost of an iteration although it is known.

    Returns:
        0, or 1 if a run failed.
    """
    experiment.output.mkdir(parents=True, exist_ok=True)
    write_layout(experiment.output, experiment.dataset, METRICS)  # to look on while it runs
    failed = run_all(experiment, runs, jobs, threads, gpus)
    study = study_of_experiment(experiment, failed=failed)
    try:
        cost = _cost(experiment, study, threads, cost_again)
    except ConfigError:
        _report(experiment, study, None)  # what was trained is not held back by what could not be measured
        raise
    _report(experiment, study, cost)
    return 1 if failed else 0


def _cost(experiment: Experiment, study: Study, threads: int, again: bool = True) -> dict[str, Any]:
    sys.stdout.write("the cost of an iteration\n")
    names = list(study.variants)
    if frontier_of(study):  # an iteration costs the same with every budget
        names = list({method_of(name): name for name in reversed(names)}.values())
    return cost_of(experiment, names, threads, again)


def _report(experiment: Experiment, study: Study, cost: Mapping[str, Any] | None) -> None:
    report = write_report(study, cost, experiment.output)
    write_layout(experiment.output, study.dataset, study.metrics)
    write_runs(experiment, report)
    write_summary(experiment.output / "summary", study)
    for other in on_other_test_sets(experiment, study):
        sys.stdout.write(f"on {other.dataset}:\n")
        write_report(other, cost, experiment.output / other.dataset)
    sys.stdout.write(f"curves: python -m tensorboard.main --logdir {experiment.output}\n")


def _enough_gpus(experiment: Experiment, gpus: int) -> None:
    """As train_net.py: processes share a CPU only where that is asked for."""
    there = torch.cuda.device_count()
    if 1 < gpus > there and experiment.overrides.get("MODEL.DEVICE") != "cpu":
        raise LaunchError(
            f"--num-gpus {gpus}, but this machine has {there} GPUs (with MODEL.DEVICE: cpu among the overrides of the "
            "experiment, they share the CPU)"
        )


def _known(given: Collection, known: Sequence, option: str) -> None:
    unknown = [str(value) for value in given if value not in known]
    if unknown:
        raise ConfigError(f"{option}: {', '.join(unknown)} is not in the experiment: {', '.join(map(str, known))}")
