"""What was asked for on the command line, and the configuration and images that it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from san_cliptrase.engine.defaults import load_config
from san_cliptrase.errors import ConfigError
from san_cliptrase.evaluation.evaluate import dataset_records


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line.

    Attributes:
        config: configuration file.
        overrides: KEY, VALUE, ... for every configuration of the exhibit.
        output: folder.
        resume: keep rows that were finished with the same configuration.
        sources: of regions, values of MODEL.REGIONS.SOURCE, for ``table2``; (): those of the paper.
    """

    config: Path
    overrides: tuple[str, ...]
    output: Path
    resume: bool = False
    sources: tuple[str, ...] = ()

    def title(self) -> str:
        """Configuration and overrides, for the reader; without the folders above, which are of one machine."""
        return " ".join(["configuration", "/".join(self.config.parts[-2:]), *self.overrides])


def request_config(request: Request, overrides: Sequence[str] = (), cliptrase: bool = True) -> CfgNode:
    """The configuration of a request.

    Args:
        request: see :class:`Request`.
        overrides: KEY, VALUE, ... after those of the request.
        cliptrase: the model must be CLIPtrase.

    Raises:
        ConfigError: it names a key or value that does not exist, the model is another, or no data set is named.
    """
    cfg = load_config(request.config, [*request.overrides, *overrides])
    if cliptrase and cfg.MODEL.META_ARCHITECTURE != "CLIPtrase":
        raise ConfigError(
            f"{request.config} describes {cfg.MODEL.META_ARCHITECTURE}; this exhibit needs CLIPtrase, such as "
            "configs/cliptrase.yaml or configs/demo/cliptrase.yaml"
        )
    if not cfg.DATASETS.TEST:
        raise ConfigError(f"{request.config}: DATASETS.TEST is empty, so there are no images and no words")
    return cfg


def evaluated_records(cfg: CfgNode, dataset: str) -> list[dict]:
    """The records that are looked at: all of a data set, or the first TEST.MAX_IMAGES.

    Raises:
        DataError, FileNotFoundError: they are not there. Ask before anything is computed.
    """
    return dataset_records(dataset, cfg.TEST.MAX_IMAGES)
