"""Finished runs as the report takes them: of an experiment, or of folders of ``train_net.py``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from san_cliptrase.config import check_keys, with_names_of_today
from san_cliptrase.errors import ConfigError, CurveError
from san_cliptrase.evaluation.protocol import one_protocol
from san_cliptrase.lab.convergence.curves import METRICS, Curve, read_curve
from san_cliptrase.lab.convergence.experiment import EQUAL, LEVELS, Experiment, Variant, flatten, method_of
from san_cliptrase.lab.convergence.worker import finished_parts, flat_defaults, is_finished
from san_cliptrase.texts import exact
from san_cliptrase.yaml_files import read_yaml


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        curve: its evaluations.
        config: its configuration, flat; empty if that is not known.
        parts: where and when it ran, one entry for each time it was continued; empty if that is not known.
    """

    curve: Curve
    config: Mapping[str, Any]
    parts: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Study:
    """What a report is about.

    Attributes:
        source: the YAML file or the folders.
        base: the training configuration, "" if each folder has its own.
        overrides: of all runs.
        baseline: name of the variant that the others are compared with.
        variants: by name, the baseline first.
        levels: see :data:`san_cliptrase.lab.convergence.experiment.LEVELS`.
        dataset: whose metrics.
        runs: variant -> seed -> run.
        references: what needs no training: title -> metric -> percent.
        missing: what is not there, a line each.
    """

    source: str
    base: str
    overrides: Mapping[str, Any]
    baseline: str
    variants: Mapping[str, Variant]
    levels: Sequence[float]
    dataset: str
    runs: Mapping[str, Mapping[int, Run]]
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    missing: Sequence[str] = field(default=())

    @property
    def metrics(self) -> list[str]:
        """Those of ``METRICS`` that all runs have."""
        curves = [run.curve for runs in self.runs.values() for run in runs.values()]
        return [name for name in METRICS if all(name in curve.metrics for curve in curves)]

    @property
    def unequal(self) -> list[str]:
        """Where runs differ from the baseline in what should be equal, a line for each."""
        reference = next(iter(self.runs[self.baseline].values())).config
        lines = {}
        for name, runs in self.runs.items():
            for run in runs.values():
                for key in EQUAL:
                    if run.config.get(key) != reference.get(key):
                        line = f"{name}: {key} is {run.config.get(key)!r}, the baseline's {reference.get(key)!r}"
                        lines[line] = None
        return list(lines)


def study_of_experiment(
    experiment: Experiment, names: Collection[str] = (), seeds: Collection[int] = (), failed: Collection = ()
) -> Study:
    """The finished runs of an experiment.

    Args:
        experiment: whose.
        names: only these variants and the baseline; all if empty.
        seeds: only these; all if empty.
        failed: (variant, seed) of runs that have just failed.

    Raises:
        ConfigError: if no run of the baseline is finished, or a folder holds another configuration's run.
    """
    names = {experiment.baseline, *names} if names else set()
    runs: dict[str, dict[int, Run]] = {}
    missing: dict[tuple[str, str], list[int]] = {}
    for name, seed in experiment.runs(names, seeds):
        cfg, folder = experiment.config(name, seed), experiment.folder(name, seed)
        if is_finished(cfg):
            curve = read_curve(folder / "evaluations.csv", experiment.dataset)
            runs.setdefault(name, {})[seed] = Run(curve, flatten(cfg), finished_parts(folder))
        else:
            state = "failed, see its log.txt" if (name, seed) in failed else "not finished"
            missing.setdefault((name, state), []).append(seed)
    baseline = experiment.baseline
    if baseline not in runs and "SOLVER.MAX_ITER" in experiment.unequal:  # the baseline with another budget
        baseline = next((name for name in runs if method_of(name) == method_of(baseline)), baseline)
    if baseline not in runs:
        raise ConfigError(
            f"{experiment.output}: no run of the baseline {baseline} is finished, so there is nothing to compare with"
        )
    found = [baseline, *(name for name in experiment.variants if name in runs and name != baseline)]
    return Study(
        source=experiment.path.name,
        base=experiment.base.name,
        overrides=experiment.overrides,
        baseline=baseline,
        variants={name: experiment.variants[name] for name in found},
        levels=experiment.levels,
        dataset=experiment.dataset,
        runs={name: runs[name] for name in found},
        references=experiment.references,
        missing=[f"{name} seed {', '.join(map(str, which))}: {state}" for (name, state), which in missing.items()],
    )


def on_other_test_sets(experiment: Experiment, study: Study) -> list[Study]:
    """The same runs on each further test set that all of them were evaluated on.

    Args:
        experiment: whose.
        study: its finished runs on its own test set.

    Raises:
        CurveError: if a run has too few evaluations of one of them.
    """
    every = [run for runs in study.runs.values() for run in runs.values()]
    names = [n for n in every[0].config["DATASETS.TEST"] if all(n in run.config["DATASETS.TEST"] for run in every)]

    def on(name: str, variant: str, seed: int, run: Run) -> Run:
        return replace(run, curve=read_curve(experiment.folder(variant, seed) / "evaluations.csv", name))

    return [
        replace(
            study,
            dataset=name,
            references={},
            runs={v: {s: on(name, v, s, run) for s, run in runs.items()} for v, runs in study.runs.items()},
        )
        for name in names
        if name != study.dataset
    ]


def study_of_folders(
    folders: Sequence[str | Path],
    labels: Sequence[str] = (),
    dataset: str = "",
    levels: Sequence[float] = LEVELS,
) -> Study:
    """The runs in output folders, each with ``evaluations.csv`` and ``config.yaml`` or with subfolders that have them.

    Args:
        folders: one per variant, the baseline first.
        labels: titles instead of the folders' names.
        dataset: whose metrics; "" takes the first of the baseline's DATASETS.TEST.
        levels: see :data:`san_cliptrase.lab.convergence.experiment.LEVELS`.

    Raises:
        ConfigError: if a folder holds no run, two runs of a seed, or no finished run; labels do not fit; or runs were
            evaluated by two protocols.
    """
    paths = [Path(folder) for folder in folders]
    titles = [exact(title) for title in labels or [path.resolve().name for path in paths]]
    if len(titles) != len(paths) or len(set(titles)) < len(titles):
        raise ConfigError(f"{len(paths)} folders need as many different --labels, not {', '.join(titles)}")
    source = ", ".join(path.name for path in paths)
    runs: dict[str, dict[int, Run]] = {}
    missing = []
    for title, path in zip(titles, paths, strict=True):
        for folder in _run_folders(path):
            config = _read_config(folder)
            dataset = dataset or (config.get("DATASETS.TEST") or [""])[0]
            seed, schedule = config.get("SEED"), config.get("SOLVER.MAX_ITER")
            try:
                curve = read_curve(folder / "evaluations.csv", dataset)
            except CurveError as error:  # one that has just begun, for example
                missing.append(f"{title} seed {seed}: {error}")
                continue
            if curve.schedule != schedule:
                missing.append(f"{title} seed {seed}: stopped at {curve.schedule:.0f} of {schedule} iterations")
                continue
            if seed in runs.setdefault(title, {}):
                raise ConfigError(f"{path} holds two runs of SEED {seed}: runs are paired by their seeds")
            runs[title][seed] = Run(curve, config, finished_parts(folder))
        grids = {tuple(run.curve.iterations) for run in runs.get(title, {}).values()}
        if len(grids) > 1:
            raise ConfigError(f"{path}: its seeds were evaluated at different iterations: put them in folders apart")
        if not grids:
            raise ConfigError(f"{path}: no run is finished ({'; '.join(missing)})")
    one_protocol(
        (run.config.get("TEST.PROTOCOL", "whole") for found in runs.values() for run in found.values()), source
    )
    baseline, first = titles[0], next(iter(runs[titles[0]].values())).config
    variants = {
        title: Variant(title, title, _differences(first, next(iter(found.values())).config), tuple(sorted(found)))
        for title, found in runs.items()
    }
    return Study(source, "", {}, baseline, variants, tuple(levels), dataset, runs, {}, missing)


def _run_folders(path: Path) -> list[Path]:
    if (path / "evaluations.csv").is_file():
        return [path]
    found = sorted(file.parent for file in path.glob("*/evaluations.csv"))
    if not found:
        raise ConfigError(
            f"{path} holds no evaluations.csv, nor do its subfolders: name output folders of train_net.py"
        )
    return found


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        config = with_names_of_today(flatten(read_yaml(path)))
    except (OSError, ConfigError, AttributeError) as error:
        raise ConfigError(f"cannot read {path}, which train_net.py writes: {error}") from error
    if not isinstance(config.get("SEED"), int) or not config.get("SOLVER.MAX_ITER"):
        raise ConfigError(f"{path} has no SEED or no SOLVER.MAX_ITER: is it a configuration of train_net.py?")
    config = flat_defaults() | config
    try:
        check_keys(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _differences(reference: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    keys = sorted((reference.keys() | config.keys()) - {"OUTPUT_DIR", "SEED"})
    return {key: config.get(key) for key in keys if config.get(key) != reference.get(key)}
