"""Rows of a table: one line of configuration each, scored as ``train_net.py --eval-only`` scores it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.modeling import build_model
from yacs.config import CfgNode

from san_cliptrase.engine.launch import build
from san_cliptrase.errors import ConfigError
from san_cliptrase.evaluation.evaluate import evaluate_only
from san_cliptrase.evaluation.protocol import one_protocol, protocol_title, row_setting
from san_cliptrase.evaluation.tables import format_results
from san_cliptrase.files import write_text_atomically
from san_cliptrase.lab.convergence.worker import read_json
from san_cliptrase.lab.reproduce.cost import cost_beside_clip
from san_cliptrase.lab.reproduce.exhibit import Exhibit, Row
from san_cliptrase.lab.reproduce.request import Request, evaluated_records, request_config
from san_cliptrase.texts import markdown

logger = logging.getLogger(__name__)

METRICS = ("pAcc", "mAcc", "fwIoU", "mIoU")
SCRIPT = " (CLIPtrase script)"
SETTING, SCORES, COST = "setting.yaml", "scores.json", "cost.json"


def scored(
    request: Request,
    name: str,
    title: str,
    settings: Mapping[str, Sequence[str]],
    notes: Sequence[str],
    paper: str = "",
    more: Sequence[str] = (),
    costs: bool = False,
) -> Exhibit:
    """An exhibit whose rows are lines of configuration, scored on the same images.

    Args:
        request: see :func:`score_rows`, and ``settings``, ``costs``.
        name: see :class:`Exhibit`, and ``title``, ``notes``, ``paper``.
        more: lines on what was measured, behind those of :func:`about`.
    """
    rows = score_rows(request, settings, costs)
    return Exhibit(name, title, rows, paper=paper, about=[*about(request), *more], notes=notes)


def score_rows(request: Request, settings: Mapping[str, Sequence[str]], costs: bool = False) -> list[Row]:
    """Scores each line of configuration on every data set of the request's configuration.

    Args:
        request: its configuration must be CLIPtrase's; DATASETS.TEST says on what.
        settings: name of a row -> its KEY, VALUE, ...
        costs: measure what each row costs, see ``cost_beside_clip``.

    Returns:
        Rows with the four metrics, under the protocol ``cliptrase`` those of the published script, and mIoU on seen and
        unseen classes where a data set tells them apart.

    Raises:
        ConfigError: a row names a key or value that does not exist, the model is not CLIPtrase, or rows are of two
            protocols.
        DataError, FileNotFoundError, WeightsError, OutputError: see ``train_net.py``.
    """
    request_config(request)  # a wrong key of the user's is named without the rows' own beside it
    configs = {name: _config(request, name, overrides) for name, overrides in settings.items()}
    one_protocol((cfg.TEST.PROTOCOL for cfg in configs.values()), "rows of a table")
    first = next(iter(configs.values()))
    for dataset in first.DATASETS.TEST:  # missing data are found before anything is computed
        evaluated_records(first, dataset)
    rows = []
    for name, cfg in configs.items():
        logger.info("%s (%d of %d)", name, len(rows) // len(cfg.DATASETS.TEST) + 1, len(configs))
        scores, cost = _scores(request, cfg, costs)
        for dataset, metrics in scores.items():
            rows.append(
                Row(name, dataset, _chosen(metrics, cfg), " ".join(settings[name]), row_setting(cfg, dataset), cost)
            )
            logger.info("%s", format_results({f"{name}, {dataset}": rows[-1].metrics}))
    return rows


def about(request: Request, cfg: CfgNode | None = None) -> list[str]:
    """What a reader must know of how the rows were made.

    Args:
        request: see :class:`Request`.
        cfg: its configuration, if DATASETS.TEST was cut to what was measured; of (), nothing is said.
    """
    cfg = cfg or request_config(request)
    clip = cfg.MODEL.CLIP
    images = sum(len(evaluated_records(cfg, name)) for name in cfg.DATASETS.TEST)
    measured = f"{protocol_title(cfg)}; {images} images of {', '.join(cfg.DATASETS.TEST)}"
    return [
        *([measured] if images else []),
        f"CLIP {clip.NAME}, weights {clip.PRETRAINED or 'of that folder'}, templates {clip.TEMPLATES}",
        markdown(request.title()),
    ]


def _config(request: Request, name: str, overrides: Sequence[str]) -> CfgNode:
    folder = request.output / "rows" / "".join(c if c.isalnum() else "_" for c in name)
    return request_config(request, [*overrides, "OUTPUT_DIR", str(folder)])


def _scores(request: Request, cfg: CfgNode, costs: bool) -> tuple[dict[str, dict[str, float]], list[float]]:
    """Scores and cost of one row; with --resume those of a finished row with this very configuration."""
    folder = Path(cfg.OUTPUT_DIR)
    setting, wanted = folder / SETTING, [folder / name for name in (SCORES, *([COST] if costs else ()))]
    same = setting.is_file() and setting.read_text(encoding="utf-8") == cfg.dump()
    if request.resume and same and all(file.is_file() for file in wanted):
        logger.info("finished before: %s", folder)
        return _read_scores(wanted[0]), _read_cost(wanted[1]) if costs else []
    for file in wanted:
        file.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(setting, cfg.dump())
    model = build(build_model, cfg).eval()
    found = [evaluate_only(cfg, model, resume=request.resume and same, show_classes=False)]
    found += [cost_beside_clip(cfg, model)] if costs else []
    for file, content in zip(wanted, found, strict=True):
        write_text_atomically(file, json.dumps(content, indent=2) + "\n")
    return found[0], found[1] if costs else []


def _read_scores(path: Path) -> dict[str, dict[str, float]]:
    scores = read_json(path)
    whole = isinstance(scores, dict) and all(isinstance(metrics, dict) for metrics in scores.values())
    if not whole or not all(isinstance(value, float) for metrics in scores.values() for value in metrics.values()):
        raise ConfigError(f"{path} holds no scores of a row. Remove it to score the row again")
    return scores


def _read_cost(path: Path) -> list[float]:
    cost = read_json(path)
    if not isinstance(cost, list) or len(cost) not in (0, 3) or not all(isinstance(value, float) for value in cost):
        raise ConfigError(f"{path} holds no cost of a row. Remove it to measure it again")
    return cost


def _chosen(metrics: Mapping[str, float], cfg: CfgNode) -> dict[str, float]:
    names = {m: f"{m}{SCRIPT}" if cfg.TEST.PROTOCOL == "cliptrase" else m for m in METRICS}
    chosen = {m: metrics.get(name, metrics[m]) for m, name in names.items()}
    return chosen | {m: metrics[m] for m in ("mIoU seen", "mIoU unseen") if m in metrics}
