"""An experiment: which variants of a training configuration run with which seeds."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from san_cliptrase.engine.defaults import load_config
from san_cliptrase.errors import ConfigError

EQUAL = (
    "SOLVER.MAX_ITER",
    "SOLVER.IMS_PER_BATCH",
    "TEST.EVAL_PERIOD",
    "TEST.MAX_IMAGES",
    "DATASETS.TRAIN",
    "DATASETS.TEST",
)
"""What variants must share with the baseline, or else the comparison is of something else too."""
LEVELS = (0.8, 0.9, 0.95, 1.0)
"""Times are taken to levels that are the same for all seeds: up to :data:`MOST_SHARE`, shares of the baseline's final
value, the mean over its seeds; above, percent of the metric itself."""
MOST_SHARE = 2.0


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        name: of its folder.
        title: in the report.
        overrides: configuration keys -> values.
        seeds: which it runs with.
    """

    name: str
    title: str
    overrides: Mapping[str, Any]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Experiment:
    """What to run and what to report.

    Attributes:
        path: the YAML file.
        base: training configuration.
        output: folder of runs and report.
        baseline: name of the variant that the others are compared with.
        levels: see :data:`LEVELS`.
        dataset: whose metrics are reported.
        overrides: of all runs.
        variants: by name, the baseline first.
        unequal: keys of :data:`EQUAL` in which variants may differ.
        keep_checkpoints: also of finished runs.
        references: what needs no training, beside the runs: title -> metric -> percent.
    """

    path: Path
    base: Path
    output: Path
    baseline: str
    levels: tuple[float, ...]
    dataset: str
    overrides: Mapping[str, Any]
    variants: Mapping[str, Variant]
    unequal: tuple[str, ...]
    keep_checkpoints: bool
    references: Mapping[str, Mapping[str, float]]

    def folder(self, name: str, seed: int) -> Path:
        """Where a run lies."""
        return self.output / name / f"seed_{seed}"

    def config(self, name: str, seed: int) -> CfgNode:
        """The frozen configuration of a run.

        Raises:
            ConfigError: if the base or the overrides are wrong.
        """
        own = {"SEED": seed, "OUTPUT_DIR": str(self.folder(name, seed))}
        values = {**self.overrides, **self.variants[name].overrides, **own}
        try:
            cfg = load_config(self.base, [str(part) for pair in values.items() for part in pair])
        except ConfigError as error:
            raise ConfigError(f"{self.path}, variant {name}: {error}") from error
        cfg.freeze()
        return cfg

    def runs(self, names: Collection[str] = (), seeds: Collection[int] = ()) -> list[tuple[str, int]]:
        """The runs, all variants of a seed before the next seed, so that whole pairs exist early.

        Args:
            names: only these variants; all if empty.
            seeds: only these seeds; all if empty.
        """
        every = dict.fromkeys(seed for variant in self.variants.values() for seed in variant.seeds)
        return [
            (name, seed)
            for seed in every
            if not seeds or seed in seeds
            for name, variant in self.variants.items()
            if seed in variant.seeds and (not names or name in names)
        ]


def method_of(variant: str) -> str:
    """The method of a variant of a frontier, which is called ``METHOD_ITERATIONS``; another name as it is."""
    return re.sub(r"_\d+$", "", variant)


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of a nested configuration; tuples as lists, as YAML has only these."""
    flat = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = _listed(value)
    return flat


def _listed(value: Any) -> Any:
    return [_listed(part) for part in value] if isinstance(value, list | tuple) else value
