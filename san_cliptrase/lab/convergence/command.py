"""The command: ``python -m san_cliptrase.lab.convergence``.

With --config it runs an experiment, variants times seeds, and reports; the same command again goes on where it was cut
off. With --compare it reports on output folders of train_net.py, the baseline's first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from san_cliptrase.errors import ConfigError, SanCliptraseError
from san_cliptrase.lab.convergence.cost import cached_cost, cost_of
from san_cliptrase.lab.convergence.curves import METRICS
from san_cliptrase.lab.convergence.experiment import Experiment
from san_cliptrase.lab.convergence.experiment_file import read_experiment
from san_cliptrase.lab.convergence.markdown import headline, render_markdown
from san_cliptrase.lab.convergence.plots import plot_curves, plot_speedups
from san_cliptrase.lab.convergence.report import build_report
from san_cliptrase.lab.convergence.runner import run_all
from san_cliptrase.lab.convergence.study import Study, study_of_experiment, study_of_folders
from san_cliptrase.lab.convergence.tensorboard import write_layout, write_runs
from san_cliptrase.lab.convergence.worker import cores, now, write_json, write_text


def write_report(study: Study, cost: Mapping[str, Any] | None, output: Path) -> dict[str, Any]:
    """Writes ``report.json``, ``report.md``, ``curves.png`` and, if there is more than one variant, ``speedups.png``.

    Args:
        study: finished runs.
        cost: of their iterations, if it was measured.
        output: folder.

    Returns:
        What ``report.json`` holds.
    """
    output.mkdir(parents=True, exist_ok=True)
    report = build_report(study, cost, now())
    write_json(output / "report.json", report)
    plot_curves(report, output / "curves.png")
    pictures = ["curves.png"]
    if len(report["variants"]) > 1:
        plot_speedups(report, output / "speedups.png")
        pictures.append("speedups.png")
    write_text(output / "report.md", render_markdown(report, pictures))
    for name in report["variants"]:
        if name != report["baseline"]:
            sys.stdout.write(headline(report, name).replace("**", "") + "\n")
    for line in report["missing"]:
        sys.stdout.write(f"missing: {line}\n")
    sys.stdout.write(f"report: {output / 'report.md'}\n")
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 0, 1 if something failed, 130 if it was stopped."""
    args = _parser().parse_args(argv)
    try:
        return _compare(args) if args.compare else _experiment(args)
    except SanCliptraseError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from the last checkpoints\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m san_cliptrase.lab.convergence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, help="experiment, such as configs/demo/convergence.yaml")
    what.add_argument("--compare", nargs="+", metavar="DIR", help="output folders; the first is the baseline")
    parser.add_argument("--output", type=Path, help="folder of the report, and of an experiment's runs")
    parser.add_argument(
        "--variants", nargs="+", default=[], help="run only these; with --report-only, report only these"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="likewise")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--threads", type=int, help="torch threads of a run (default: cores / jobs)")
    parser.add_argument("--report-only", action="store_true", help="run nothing, report what is finished")
    parser.add_argument("--cost", action="store_true", help="measure the cost of an iteration again")
    parser.add_argument("--labels", nargs="+", default=[], help="with --compare: titles of the folders")
    parser.add_argument("--dataset", default="", help="with --compare: whose metrics")
    return parser


def _compare(args: argparse.Namespace) -> int:
    if len(args.compare) < 2:
        raise ConfigError("--compare needs two folders or more, the baseline's first")
    study = study_of_folders(args.compare, args.labels, args.dataset)
    write_report(study, None, args.output or Path("output/comparison"))
    return 0


def _experiment(args: argparse.Namespace) -> int:
    if args.jobs < 1 or (args.threads is not None and args.threads < 1):
        raise ConfigError("--jobs and --threads count from 1")
    experiment = read_experiment(args.config, args.output)
    every = experiment.runs()
    _known(args.variants, list(experiment.variants), "--variants")
    _known(args.seeds, sorted({seed for _, seed in every}), "--seeds")
    threads = args.threads or max(1, cores() // args.jobs)
    if args.report_only:
        study = study_of_experiment(experiment, args.variants, args.seeds)
        cost = _cost(experiment, study, threads) if args.cost else cached_cost(experiment)
        _report(experiment, study, cost)
        return 0
    experiment.output.mkdir(parents=True, exist_ok=True)
    write_layout(experiment.output, experiment.dataset, list(METRICS))
    failed = run_all(experiment, experiment.runs(args.variants, args.seeds), args.jobs, threads)
    study = study_of_experiment(experiment, failed=failed)
    try:
        cost = _cost(experiment, study, threads, args.cost)
    except ConfigError:
        _report(experiment, study, None)  # what was trained is not held back by what could not be measured
        raise
    _report(experiment, study, cost)
    return 1 if failed else 0


def _cost(experiment: Experiment, study: Study, threads: int, again: bool = True) -> dict[str, Any]:
    sys.stdout.write("the cost of an iteration\n")
    return cost_of(experiment, list(study.variants), threads, again)


def _report(experiment: Experiment, study: Study, cost: Mapping[str, Any] | None) -> None:
    write_runs(experiment, write_report(study, cost, experiment.output))
    sys.stdout.write(f"curves: python -m tensorboard.main --logdir {experiment.output}\n")


def _known(given: Collection, known: Sequence, option: str) -> None:
    unknown = [str(value) for value in given if value not in known]
    if unknown:
        raise ConfigError(f"{option}: {', '.join(unknown)} is not in the experiment: {', '.join(map(str, known))}")
