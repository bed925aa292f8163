"""From a YAML file and the command line to a frozen configuration and a folder to work in."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

import san_cliptrase.meta_arch  # noqa: F401  (registers the models, as the line below registers the datasets)
from san_cliptrase.checkpoints.files import checkpoint_files, names_in, refuse_url
from san_cliptrase.checkpoints.official_keys import is_official
from san_cliptrase.checkpoints.release import SHARE
from san_cliptrase.clip.readings import dense_reading
from san_cliptrase.clip.templates import load_templates
from san_cliptrase.cliptrase.classify import classify_parts
from san_cliptrase.config import REMOVED, add_san_cliptrase_config, check_keys, check_unused
from san_cliptrase.data.datasets import DATASETS
from san_cliptrase.data.mapper import WIDE_IGNORE
from san_cliptrase.data.own import OWN, register_own
from san_cliptrase.data.vocabularies import replacement_words
from san_cliptrase.device import find_device
from san_cliptrase.engine.resume import check_resumed
from san_cliptrase.engine.run_folder import RunFolder
from san_cliptrase.errors import ConfigError, suggest
from san_cliptrase.evaluation.protocol import check_test, config_value, settle_protocol
from san_cliptrase.files import is_plain_name
from san_cliptrase.regions.build import check_source
from san_cliptrase.yaml_files import read_layers

# At the beginning of a value, behind "local-dir:", and behind "NAME@" and "NAME=" of FIGURES.MODELS.
_HOME = re.compile(r"(?:^|(?<=[:@=]))~[^/,]*(?=/|,|$)")

__all__ = ["enter_folder", "load_config", "setup"]

_ALONE = re.compile(
    r"<class 'tuple'> vs\. <class '(str|int|float)'>.* vs\. (.{1,100})\) for config key: (\S+)", re.DOTALL
)
"""yacs's words about one value where a key has several."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Reads a configuration file and the files under its ``_BASE_``; nothing in them is executed.

    Args:
        path: YAML file.
        overrides: KEY, VALUE, KEY, VALUE, ...

    Returns:
        The configuration, with the device decided, not frozen.

    Raises:
        ConfigError: if a file is missing or is not plain YAML (see :func:`read_layers`), or it or the overrides name
            a key or a dataset that does not exist, or a value that its key cannot have.
        CheckpointError: if MODEL.WEIGHTS is an address.
        DataError: if the user's registry of datasets or the file of TEST.VOCABULARY cannot be used.
    """
    cfg = get_cfg()
    add_san_cliptrase_config(cfg)
    layers, source = read_layers(Path(path)), str(path)
    try:
        for layer in layers:
            cfg.merge_from_other_cfg(CfgNode(layer))
        source = f"{path} with overrides"
        cfg.merge_from_list(_with_floats(cfg, overrides))
    except (KeyError, AssertionError, ValueError) as error:
        message = str(error.args[0] if error.args else error)
        raise ConfigError(f"{source}: {message}{_hint(message, cfg)}") from error
    # yacs reads texts as Python literals, whose parser gives up on deep nesting in its own ways.
    except (OSError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{source} cannot be read as keys and values: {error!r:.300}") from error
    try:
        check_keys(cfg)
        check_unused(cfg, get_cfg())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        _expand_home(cfg)
        refuse_url(cfg.MODEL.WEIGHTS)
        _check_values(cfg)
        check_test(cfg)
        settle_protocol(cfg)
        _settle_start(cfg, [cfg.MODEL.WEIGHTS] if cfg.MODEL.WEIGHTS else [])
    except (TypeError, AttributeError, IndexError, OverflowError) as error:  # yacs does not look into lists
        raise ConfigError(f"{path}: a value is not of the kind that its key needs: {error}") from error
    return cfg


def _expand_home(node: CfgNode, prefix: str = "") -> None:
    """Puts the home folder in the place of "~" in every value that is a path: no other one begins with it."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            _expand_home(value, f"{prefix}{key}.")
        elif isinstance(value, str) and _HOME.search(value):
            node[key] = _HOME.sub(lambda found: os.path.expanduser(found[0]), value)
            if _HOME.search(node[key]):
                raise ConfigError(f"{prefix}{key} is {value!r:.200}: there is no such home folder")


def _settle_start(cfg: CfgNode, checkpoints: Iterable[str | Path]) -> None:
    """Regions come into a SAN that was trained without them from zero on; a model that learned so is built so.

    The first of the checkpoints that can be read says so, as it will be the one that is loaded.
    """
    init = cfg.MODEL.SAN.QUERY_INIT
    if init.NAME == "off" or init.ZERO_INIT:
        return
    names = next(filter(None, map(names_in, checkpoints)), frozenset())
    init.ZERO_INIT = is_official(names) or SHARE in names


def _with_floats(cfg: CfgNode, overrides: Sequence[str]) -> list[str]:
    """Overrides in which a whole number for a float key is written as a float, which detectron2 insists on."""
    values = list(overrides)
    for place in range(1, len(values), 2):
        default: Any = cfg
        for part in values[place - 1].split("."):
            default = default.get(part) if isinstance(default, CfgNode) else None
        if isinstance(default, float) and str(values[place]).lstrip("+-").isdigit():
            values[place] = f"{values[place]}.0"
    return values


def _check_values(cfg: CfgNode) -> None:
    register_own()
    for key, names in (("TRAIN", cfg.DATASETS.TRAIN), ("TEST", cfg.DATASETS.TEST)):
        for name in names:
            if isinstance(name, str) and not is_plain_name(name):  # files are named after it
                raise ConfigError(f"DATASETS.{key} has {name!r:.200}, which is not the name of a dataset")
    unknown = sorted({*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} - set(DatasetCatalog.list()))
    if unknown:
        known = sorted({*DATASETS, *OWN, *unknown} - set(unknown))
        raise ConfigError(f"unknown dataset {unknown[0]!r} in DATASETS; {suggest(unknown[0], known)}")
    _make_room_for_classes(cfg)
    _check_crop(cfg.INPUT.CROP)
    for name in cfg.DATASETS.TEST:  # before a long training, not at its first evaluation
        replacement_words(cfg.TEST.VOCABULARY, name, MetadataCatalog.get(name).get("stuff_classes", ()))
    # Also where nothing reads them, as in a SAN: what is misspelled is told before a long training.
    checks: dict[str, Callable[[str], object]] = {
        "MODEL.CLIP.TEMPLATES": load_templates,
        "MODEL.CLIPTRASE.ATTENTION": dense_reading,
        "MODEL.CLIPTRASE.CLASSIFY": classify_parts,
        "MODEL.REGIONS.SOURCE": check_source,
        "MODEL.DEVICE": find_device,
    }
    for key, check in checks.items():
        try:
            check(config_value(cfg, key))
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
    cfg.MODEL.DEVICE = str(find_device(cfg.MODEL.DEVICE))


def _check_crop(crop: CfgNode) -> None:
    """Refuses sizes that do not mean what the kind of crop means by them."""
    shares, sizes = crop.TYPE.startswith("relative"), list(crop.SIZE)
    problem = ""
    if shares and max(sizes) > 1:
        problem = "a share of the image is at most 1"
    elif not shares and not all(isinstance(side, int) for side in sizes):
        problem = "pixels are whole numbers"
    elif crop.TYPE == "absolute_range" and sizes[0] > sizes[1]:
        problem = "the shortest side comes first, then the longest"
    if problem:
        raise ConfigError(f"INPUT.CROP.SIZE is {sizes} with INPUT.CROP.TYPE {crop.TYPE}: {problem}")


def _make_room_for_classes(cfg: CfgNode) -> None:
    """Raises the default of INPUT.IGNORE_LABEL where it is a class of one of the run's datasets."""
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    most = max((len(MetadataCatalog.get(name).get("stuff_classes", ())) for name in names), default=0)
    if cfg.INPUT.IGNORE_LABEL == 255 < most:
        cfg.INPUT.IGNORE_LABEL = WIDE_IGNORE


def _hint(message: str, cfg: CfgNode) -> str:
    if alone := _ALONE.search(message):
        kind, value, key = alone.groups()
        value = f"'{value}'" if kind == "str" else value
        return (
            f"""; it is a list: {key} "({value},)" on the command line, {key.rpartition(".")[2]}: [{value}] in a file"""
        )
    unknown = message.rsplit(":", 1)[-1].strip()
    if "on-existent" not in message:
        return ""
    return f"; it is gone: {REMOVED[unknown]}" if unknown in REMOVED else f"; {suggest(unknown, _keys(cfg))}"


def _keys(node: CfgNode, prefix: str = "") -> Iterable[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")


def setup(args: argparse.Namespace) -> CfgNode:
    """Configuration of a run, from its command line; nothing is written.

    Raises:
        ConfigError, CheckpointError, DataError: see :func:`load_config`.
    """
    cfg = load_config(args.config_file, args.opts)
    cfg.TEST.SKIP_BAD |= args.skip_bad
    cfg.DATALOADER.SKIP_BAD |= args.skip_bad
    return cfg


def enter_folder(cfg: CfgNode, args: argparse.Namespace, place: RunFolder) -> None:
    """Claims the folder of a run, settles what a resumed run takes over from it, and freezes the configuration.

    Raises:
        ConfigError: another run works in the folder, or the run that is to be resumed has another configuration.
        OutputError: nothing can be written to OUTPUT_DIR.
    """
    place.claim()
    if args.resume:
        _settle_start(cfg, checkpoint_files(place.folder))
        if not args.eval_only and checkpoint_files(place.folder):
            check_resumed(cfg, place.folder / "config.yaml")
    cfg.freeze()
    place.open_log()
    seed_all_rng(cfg.SEED)
    if comm.is_main_process():
        logging.getLogger(__name__).info("device %s, output %s", cfg.MODEL.DEVICE, place.folder)
