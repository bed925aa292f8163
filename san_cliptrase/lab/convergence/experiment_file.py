"""Reads an experiment from a YAML file and checks it before anything runs.

The keys are those of :data:`KEYS`; ``configs/demo/convergence.yaml`` shows them all.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from san_cliptrase.errors import ConfigError, suggest
from san_cliptrase.lab.convergence.curves import METRICS
from san_cliptrase.lab.convergence.experiment import EQUAL, LEVELS, Experiment, Variant, flatten
from san_cliptrase.texts import exact
from san_cliptrase.yaml_files import read_yaml

KEYS = (
    "base",
    "output",
    "baseline",
    "seeds",
    "levels",
    "dataset",
    "overrides",
    "variants",
    "unequal",
    "keep_checkpoints",
    "references",
)
VARIANT_KEYS = ("title", "overrides", "seeds")
_OWN = ("SEED", "OUTPUT_DIR")


def read_experiment(path: str | Path, output: str | Path | None = None) -> Experiment:
    """Reads and checks an experiment, with the configurations of all its variants.

    Args:
        path: YAML file.
        output: instead of the file's output folder.

    Raises:
        ConfigError: naming file and key, if something is missing, unknown or of the wrong kind, or a variant differs
            from the baseline in a key of :data:`EQUAL` that ``unequal`` does not list.
    """
    path = Path(path)
    data = _load(path)
    _check_keys(data, KEYS, str(path))
    base, baseline = (_typed(data, key, str, str(path)) for key in ("base", "baseline"))
    output = Path(output or _typed(data, "output", str, str(path)))
    seeds = _seeds(_typed(data, "seeds", list, str(path)), f"{path}: seeds")
    variants = _variants(_typed(data, "variants", dict, str(path)), seeds, str(path))
    if baseline not in variants:
        raise ConfigError(f"{path}: baseline {baseline!r} is none of the variants; {suggest(str(baseline), variants)}")
    experiment = Experiment(
        path=path,
        base=path.parent / base,
        output=output,
        baseline=baseline,
        levels=check_levels(_typed(data, "levels", list, str(path), list(LEVELS)), f"{path}: levels"),
        dataset=_typed(data, "dataset", str, str(path), ""),
        overrides=_overrides(data, str(path)),
        variants={baseline: variants.pop(baseline), **variants},
        unequal=tuple(_typed(data, "unequal", list, str(path), [])),
        keep_checkpoints=_typed(data, "keep_checkpoints", bool, str(path), False),
        references=check_references(_typed(data, "references", dict, str(path), {}), f"{path}: references"),
    )
    for key in experiment.unequal:
        if key not in EQUAL:
            raise ConfigError(f"{path}: unequal names {key!r}, which is not among {', '.join(EQUAL)}")
    return _check_configs(experiment)


def check_levels(levels: list, where: str) -> tuple[float, ...]:
    """Levels in increasing order.

    Raises:
        ConfigError: if one is not a positive number.
    """
    for level in levels:
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level <= 100:
            raise ConfigError(
                f"{where}: {level!r} is neither a share of the baseline's final value, such as 0.9, nor percent, as 60"
            )
    if not levels:
        raise ConfigError(f"{where}: name at least one, such as 0.9")
    return tuple(sorted({float(level) for level in levels}))


def check_references(data: dict, where: str) -> dict[str, dict[str, float]]:
    """What needs no training: title -> metric -> percent.

    Raises:
        ConfigError: if one has no mIoU, another metric, or a value that is not percent.
    """
    found = {}
    for title, scores in data.items():
        if not isinstance(title, str) or not isinstance(scores, dict) or "mIoU" not in scores:
            raise ConfigError(f"{where}.{title} is {scores!r}; it needs percent, such as {{mIoU: 2.5, mIoU seen: 3.3}}")
        for name, value in scores.items():
            if name not in METRICS:
                raise ConfigError(f"{where}.{title}: unknown metric {name!r}; {suggest(str(name), METRICS)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
                raise ConfigError(f"{where}.{title}: {name} is {value!r}, which is not percent")
        found[exact(title)] = {name: float(value) for name, value in scores.items()}
    return found


def _load(path: Path) -> dict:
    try:
        data = read_yaml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"cannot read the experiment {path}: {error.strerror}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not an experiment: it has no keys such as {', '.join(KEYS[:3])}")
    return data


def _check_keys(data: dict, known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {suggest(str(key), known)}")


def _typed(data: dict, key: str, kind: type, where: str, default: Any = None) -> Any:
    value = data.get(key, default)
    if value is None:
        raise ConfigError(f"{where}: the key {key} is missing")
    if not isinstance(value, kind):
        raise ConfigError(f"{where}: {key} is {value!r}, not a {kind.__name__}{_quote(value)}")
    return value


def _quote(value: Any) -> str:
    return " (YAML reads off, no, on and yes as false and true: put the word in quotes)" * isinstance(value, bool)


def _seeds(seeds: list, where: str) -> tuple[int, ...]:
    wrong = [seed for seed in seeds if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0]
    if wrong or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where} is {seeds!r}: name different whole numbers from 0, such as [0, 1, 2]")
    return tuple(seeds)


def _variants(data: dict, seeds: tuple[int, ...], where: str) -> dict[str, Variant]:
    variants = {}
    for name, entry in data.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
            raise ConfigError(
                f"{where}: the variant name {name!r} cannot be a folder's: use letters, digits and _ . + -"
                f"{_quote(name)}"
            )
        own = f"{where}: variants.{name}"
        entry = {} if entry is None else entry
        if not isinstance(entry, dict):
            raise ConfigError(f"{own} is {entry!r}; it needs keys such as {', '.join(VARIANT_KEYS)}")
        _check_keys(entry, VARIANT_KEYS, own)
        subset = _seeds(_typed(entry, "seeds", list, own, list(seeds)), f"{own}.seeds")
        if not set(subset) <= set(seeds):
            raise ConfigError(f"{own}.seeds is {list(subset)}, which is not a subset of seeds {list(seeds)}")
        title = exact(_typed(entry, "title", str, own, name))
        variants[name] = Variant(name, title, _overrides(entry, own), subset)
    return variants


def _overrides(data: dict, where: str) -> dict[str, Any]:
    found = _typed(data, "overrides", dict, where, {})
    for key, value in found.items():
        if key in _OWN:
            raise ConfigError(f"{where}: overrides has {key}, which the experiment sets for every run")
        if not isinstance(key, str) or isinstance(value, dict):
            raise ConfigError(f"{where}: overrides.{key} is {value!r}: write whole keys, such as SOLVER.BASE_LR: 0.001")
    return found


def _check_configs(experiment: Experiment) -> Experiment:
    where = experiment.path
    configs = {name: experiment.config(name, variant.seeds[0]) for name, variant in experiment.variants.items()}
    shared = flatten(configs[experiment.baseline])
    for name, cfg in configs.items():
        if cfg.MODEL.META_ARCHITECTURE == "CLIPtrase" or not cfg.DATASETS.TRAIN:
            raise ConfigError(f"{where}, variant {name}: nothing is trained ({experiment.base})")
        if not 0 < cfg.TEST.EVAL_PERIOD <= cfg.SOLVER.MAX_ITER:
            raise ConfigError(
                f"{where}, variant {name}: TEST.EVAL_PERIOD is {cfg.TEST.EVAL_PERIOD}, but a curve needs evaluations "
                f"within SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}"
            )
        flat = flatten(cfg)
        for key in EQUAL:
            if flat[key] != shared[key] and key not in experiment.unequal:
                raise ConfigError(
                    f"{where}, variant {name}: {key} is {flat[key]!r}, the baseline's {shared[key]!r}. Make them "
                    f"equal, or allow it with `unequal: [{key}]`, and the report will say so"
                )
        if experiment.dataset and experiment.dataset not in cfg.DATASETS.TEST:
            raise ConfigError(
                f"{where}: dataset {experiment.dataset!r} is not in DATASETS.TEST of {name}: "
                f"{', '.join(cfg.DATASETS.TEST)}; {suggest(experiment.dataset, cfg.DATASETS.TEST)}"
            )
    if experiment.dataset:
        return experiment
    return replace(experiment, dataset=configs[experiment.baseline].DATASETS.TEST[0])
