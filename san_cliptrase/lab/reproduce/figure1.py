"""Figure 1 of the supplement: how fast SAN converges, plain and from CLIPtrase's regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from san_cliptrase.errors import ConfigError
from san_cliptrase.files import write_whole
from san_cliptrase.lab.convergence.command import run_experiment
from san_cliptrase.lab.convergence.curves_file import study_of_table
from san_cliptrase.lab.convergence.experiment_file import read_experiment
from san_cliptrase.lab.convergence.frontier import Frontier, frontier_of, savings_in_words
from san_cliptrase.lab.convergence.markdown import headline
from san_cliptrase.lab.convergence.plots import plot_curves, plot_frontier
from san_cliptrase.lab.convergence.report import build_report
from san_cliptrase.lab.convergence.study import Study, study_of_experiment
from san_cliptrase.lab.convergence.worker import cores, now
from san_cliptrase.lab.reproduce.exhibit import Exhibit, Row
from san_cliptrase.lab.reproduce.request import Request


def figure1(request: Request) -> Exhibit:
    """The convergence plot of an experiment: a budget frontier, or curves where all schedules are equal.

    Args:
        request: ``config`` is a ``curves.csv`` of the convergence lab, or an experiment (YAML), which is run as far as
            it is not finished.

    Raises:
        ConfigError, CurveError: the file is neither, or the experiment did not finish.
    """
    study = _study(request.config)
    frontier = frontier_of(study)
    picture = request.output / f"figure1_{'frontier' if frontier else 'curves'}.png"
    rows, said = _frontier(frontier, study.dataset, picture) if frontier else _curves(study, picture)
    return Exhibit(
        name="figure1",
        title="Figure 1: convergence of SAN, plain and from CLIPtrase's regions",
        rows=rows,
        about=[f"experiment of the convergence lab: {request.config.parent.name}/{request.config.name}"],
        notes=[
            *said,
            "The paper shows one curve and says that the speed of convergence doubles on specific data sets, without "
            "numbers; its data and settings are not given.",
        ],
        figures=[picture],
        bars=False,
    )


def _study(path: Path) -> Study:
    if path.suffix == ".csv":
        return study_of_table(path)
    experiment = read_experiment(path)
    if run_experiment(experiment, experiment.runs(), jobs=1, threads=cores()):
        raise ConfigError(f"the experiment {path} did not finish; what it said stands above")
    return study_of_experiment(experiment)


def _frontier(frontier: Frontier, dataset: str, picture: Path) -> tuple[list[Row], Sequence[str]]:
    write_whole(picture, lambda path: plot_frontier(frontier, path))
    rows = [
        Row(
            f"{title}, {budget} iterations",
            dataset,
            {metric: frontier.mean(method, budget, metric).value for metric in frontier.metrics},
        )
        for method, title in frontier.titles.items()
        for budget in frontier.budgets[method]
    ]
    return rows, savings_in_words(frontier)


def _curves(study: Study, picture: Path) -> tuple[list[Row], Sequence[str]]:
    report = build_report(study, None, now())
    write_whole(picture, lambda path: plot_curves(report, path))
    rows = [
        Row(
            variant["title"],
            study.dataset,
            {f"final {metric}": variant["metrics"][metric]["final"]["value"] for metric in study.metrics},
        )
        for variant in report["variants"].values()
    ]
    return rows, [headline(report, name) for name in report["variants"] if name != study.baseline]
