"""Figure 1 of the supplement: how fast SAN converges, plain and from CLIPtrase's regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from san_cliptrase.errors import ConfigError
from san_cliptrase.files import write_whole
from san_cliptrase.lab.convergence.command import run_experiment
from san_cliptrase.lab.convergence.experiment_file import read_experiment
from san_cliptrase.lab.convergence.markdown import headline
from san_cliptrase.lab.convergence.plots import plot_curves
from san_cliptrase.lab.convergence.report import build_report
from san_cliptrase.lab.convergence.study import study_of_table
from san_cliptrase.lab.convergence.worker import cores, now, read_json
from san_cliptrase.lab.reproduce.exhibit import Exhibit, Row
from san_cliptrase.lab.reproduce.request import Request


def figure1(request: Request) -> Exhibit:
    """The convergence plot of an experiment: its report is read, or the experiment is run first.

    Args:
        request: ``config`` is a report of the convergence lab (JSON), its evaluations (CSV), or an experiment (YAML),
            which is run as far as it is not finished.

    Raises:
        ConfigError: the file is none of these, or the experiment did not finish.
    """
    report = _report(request.config)
    try:
        return _exhibit(request, report)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
    ):  # what a damaged report may lack is without end
        _refuse(request.config)


def _exhibit(request: Request, report: dict[str, Any]) -> Exhibit:
    picture = request.output / "figure1_curves.png"
    write_whole(picture, lambda path: plot_curves(report, path))
    baseline = report["baseline"]
    rows = [
        Row(
            variant["title"],
            report["dataset"],
            {f"final {m}": variant["metrics"][m]["final"]["value"] for m in report["metrics"]},
        )
        for variant in report["variants"].values()
    ]
    return Exhibit(
        name="figure1",
        title="Figure 1: convergence of SAN, plain and from CLIPtrase's regions",
        rows=rows,
        about=[
            f"report of the convergence lab of {report['date']}: {request.config.parent.name}/{request.config.name}"
        ],
        notes=[
            *(headline(report, name) for name in report["variants"] if name != baseline),
            "The paper shows one curve and says that the speed of convergence doubles on specific data sets, without "
            "numbers; its data and settings are not given.",
        ],
        figures=[picture],
    )


def _report(path: Path) -> dict[str, Any]:
    if path.suffix == ".csv":
        return build_report(study_of_table(path), None, now())
    if path.suffix != ".json":
        experiment = read_experiment(path)
        if run_experiment(experiment, experiment.runs(), jobs=1, threads=cores()):
            raise ConfigError(f"the experiment {path} did not finish; what it said stands above")
        path = experiment.output / "report.json"
    try:
        report = read_json(path)
        if {"variants", "baseline", "metrics", "references"} <= report.keys():
            return report
    except AttributeError:
        pass
    _refuse(path)


def _refuse(path: Path) -> NoReturn:
    raise ConfigError(f"{path} is not a report that this version of san-cliptrase convergence writes")
