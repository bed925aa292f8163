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
from san_cliptrase.lab.reproduce.exhibit import Exhibit, Row
from san_cliptrase.lab.reproduce.request import Request, evaluated_records, request_config
from san_cliptrase.texts import markdown

logger = logging.getLogger(__name__)

METRICS = ("pAcc", "mAcc", "fwIoU", "mIoU")
SCRIPT = " (CLIPtrase script)"
SETTING, SCORES = "setting.yaml", "scores.json"


def scored(
    request: Request,
    name: str,
    title: str,
    settings: Mapping[str, Sequence[str]],
    notes: Sequence[str],
    paper: str = "",
    more: Sequence[str] = (),
) -> Exhibit:
    """An exhibit whose rows are lines of configuration, scored on the same images.

    Args:
        request: see :func:`score_rows`, and ``settings``.
        name: see :class:`Exhibit`, and ``title``, ``notes``, ``paper``.
        more: lines on what was measured, behind those of :func:`about`.
    """
    rows = score_rows(request, settings)
    return Exhibit(name, title, rows, paper=paper, about=[*about(request), *more], notes=notes)


def score_rows(request: Request, settings: Mapping[str, Sequence[str]]) -> list[Row]:
    """Scores each line of configuration on every data set of the request's configuration.

    Args:
        request: its configuration must be CLIPtrase's; DATASETS.TEST says on what.
        settings: name of a row -> its KEY, VALUE, ...

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
        for dataset, metrics in _scores(request, cfg).items():
            rows.append(Row(name, dataset, _chosen(metrics, cfg), " ".join(settings[name])))
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
    rows = [(name, row_setting(cfg, name)) for name in cfg.DATASETS.TEST]
    return [
        *([measured] if images else []),
        *(f"{name}: words {row['words']}; thresholds {row['thresholds']}" for name, row in rows if images),
        f"CLIP {clip.NAME}, weights {clip.PRETRAINED or 'of that folder'}, templates {clip.TEMPLATES}",
        markdown(request.title()),
    ]


def _config(request: Request, name: str, overrides: Sequence[str]) -> CfgNode:
    folder = request.output / "rows" / "".join(c if c.isalnum() else "_" for c in name)
    return request_config(request, [*overrides, "OUTPUT_DIR", str(folder)])


def _scores(request: Request, cfg: CfgNode) -> dict[str, dict[str, float]]:
    """Scores of one row; with --resume those of a finished row with this very configuration."""
    folder = Path(cfg.OUTPUT_DIR)
    setting, scores = folder / SETTING, folder / SCORES
    same = setting.is_file() and setting.read_text(encoding="utf-8") == cfg.dump()
    if request.resume and same and scores.is_file():
        logger.info("finished before: %s", folder)
        return _read_scores(scores)
    scores.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(setting, cfg.dump())
    model = build(build_model, cfg).eval()
    results = evaluate_only(cfg, model, resume=request.resume and same, show_classes=False)
    write_text_atomically(scores, json.dumps(results, indent=2) + "\n")
    return results


def _read_scores(path: Path) -> dict[str, dict[str, float]]:
    scores = read_json(path)
    whole = isinstance(scores, dict) and all(isinstance(metrics, dict) for metrics in scores.values())
    if not whole or not all(isinstance(value, float) for metrics in scores.values() for value in metrics.values()):
        raise ConfigError(f"{path} holds no scores of a row. Remove it to score the row again")
    return scores


def _chosen(metrics: Mapping[str, float], cfg: CfgNode) -> dict[str, float]:
    names = {m: f"{m}{SCRIPT}" if cfg.TEST.PROTOCOL == "cliptrase" else m for m in METRICS}
    chosen = {m: metrics.get(name, metrics[m]) for m, name in names.items()}
    return chosen | {m: metrics[m] for m in ("mIoU seen", "mIoU unseen") if m in metrics}
