"""Datasets of one's own: ``san-cliptrase data register FOLDER`` writes entries that later runs read.

The entries lie in ``datasets.yaml`` under the root of the datasets, one a split, with the class names in them; the
images stay where they are. Nothing in the file is executed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from san_cliptrase.class_lists import BACKGROUND, check_class_names, check_colors, parse_colors
from san_cliptrase.data.datasets import check_ignore, datasets_root, register, usual_ignore
from san_cliptrase.data.pairs import Pairs, find_pairs
from san_cliptrase.data.palette import Palette
from san_cliptrase.data.table import DATASETS
from san_cliptrase.errors import ConfigError, DataError, suggest
from san_cliptrase.files import from_home, is_plain_name, write_text_atomically
from san_cliptrase.locks import one_at_a_time
from san_cliptrase.yaml_files import read_yaml

MOST_BYTES = 4 * 2**20
REMEDY = "correct the entry, or delete it and register the folder again"
NO_LABEL = "pixels without a label"
OWN: dict[str, OwnDataset] = {}
"""The entries that are registered with detectron2 in this process."""


@dataclass(frozen=True)
class OwnDataset:
    """An entry of ``datasets.yaml``.

    Attributes:
        images: folder of images; a relative path starts at the root of the datasets, ``~`` is expanded.
        labels: the same of label maps.
        classes: names in the order of the label values.
        ignore: value of pixels without a label.
        background: words that together stand for the last class, which is then called "background".
        colors: for label maps in colours, those of each class, such as "128 0 0" or "128 0 0, 64 0 0".
        ignore_colors: the same for pixels without a label.
    """

    images: str
    labels: str
    classes: tuple[str, ...]
    ignore: int = 255
    background: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    ignore_colors: str = ""

    def find(self, name: str) -> Pairs:
        """Its files, see :func:`san_cliptrase.data.pairs.find_pairs`; with the colours of label maps in their dicts."""
        pairs = find_pairs(name, *self.folders())
        if not self.colors:
            return pairs
        palette = Palette(tuple(map(parse_colors, self.colors)), parse_colors(self.ignore_colors))
        return replace(pairs, records=[{**record, "palette": palette} for record in pairs.records])

    def folders(self) -> tuple[Path, Path]:
        """Where the images and the label maps are."""
        root = datasets_root()
        return root / from_home(self.images), root / from_home(self.labels)


def registry_file() -> Path:
    """Where the entries are."""
    return datasets_root() / "datasets.yaml"


def read_registry() -> dict[str, OwnDataset]:
    """The entries by name; none without a file.

    Raises:
        DataError: the file is no plain YAML, or an entry cannot be used; names the entry and its key.
    """
    path = registry_file()
    try:
        entries = read_yaml(path, MOST_BYTES)
    except FileNotFoundError:
        return {}
    except ConfigError as error:
        raise DataError(f"cannot read the datasets registered in {path}: {error}; {REMEDY}") from error
    if not isinstance(entries or {}, dict):
        raise DataError(
            f"cannot read the datasets registered in {path}: expected NAME: {{images: ..., labels: ..., "
            f"classes: [...]}}, not {type(entries).__name__}; {REMEDY}"
        )
    return {name: _entry(_Place(path, name), values) for name, values in (entries or {}).items()}


@dataclass(frozen=True)
class _Place:
    """An entry of the file, for messages."""

    path: Path
    name: Any

    def refuse(self, key: str, problem: str) -> NoReturn:
        raise DataError(f"{self}{f', key {key!r:.100}' if key else ''}: {problem}; {REMEDY}")

    def __str__(self) -> str:
        return f"{self.path}, dataset {self.name!r:.200}"


def _entry(place: _Place, values: Any) -> OwnDataset:
    """An entry, once every key of it is what it must be."""
    if not isinstance(place.name, str) or not is_plain_name(place.name):
        place.refuse(
            "", "this is not a name for a dataset: use letters, digits, _, . and -; begin with a letter or digit"
        )
    if place.name in DATASETS:
        raise DataError(f"{place.path} registers {place.name!r}, which is a dataset of this project; {REMEDY}")
    keys = [field.name for field in fields(OwnDataset)]
    if not isinstance(values, dict):
        place.refuse("", f"expected the keys {', '.join(keys)}, not {values!r:.100}")
    for key in values:
        if key not in keys:
            place.refuse(str(key), f"there is no such key; {suggest(str(key), keys)}")
    for key in ("images", "labels"):
        if not isinstance(folder := values.get(key), str) or not folder.strip() or "\0" in folder:
            place.refuse(key, f"expected the path of a folder, not {folder!r:.100}")
    classes, background, colors = (
        _texts(place, key, values.get(key) or []) for key in ("classes", "background", "colors")
    )
    if not classes:
        place.refuse("classes", "expected a list of class names, in the order of the label values; there are none")
    ignore = values.get("ignore", usual_ignore(len(classes)))
    try:
        check_class_names(classes, f"{place}, key 'classes',", "item")
        check_ignore(ignore, classes, f"{place}, key 'ignore'")
    except DataError as error:
        raise DataError(f"{error}; {REMEDY}") from error
    if background and classes[-1] != BACKGROUND:
        place.refuse("background", f"background words need 'background' as the last class, not {classes[-1]!r:.100}")
    ignore_colors = values.get("ignore_colors") or ""
    _check_colors(place, classes, colors, ignore_colors)
    return OwnDataset(values["images"], values["labels"], classes, ignore, background, colors, ignore_colors)


def _check_colors(place: _Place, classes: tuple[str, ...], colors: tuple[str, ...], ignored: Any) -> None:
    if colors and len(colors) != len(classes):
        place.refuse("colors", f"there are {len(colors)} for {len(classes)} classes; every class needs its own")
    if ignored and not colors:
        place.refuse("ignore_colors", "the classes have no colours")
    if ignored and not (isinstance(ignored, str) and parse_colors(ignored)):
        place.refuse("ignore_colors", f"expected colours such as '0 0 0' or '0 0 0, 255 255 255', not {ignored!r:.100}")
    for number, color in enumerate(colors, 1):
        if not parse_colors(color):
            place.refuse("colors", f"item {number}: expected '128 0 0' or '128 0 0, 64 0 0', not {color!r:.100}")
    if colors:
        palette = [*map(parse_colors, colors), parse_colors(ignored)]
        try:
            check_colors([*classes, NO_LABEL], palette, f"{place}, key 'colors',")
        except DataError as error:
            raise DataError(f"{error}; {REMEDY}") from error


def _texts(place: _Place, key: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        place.refuse(key, f"expected a list, such as [sky, sea], not {values!r:.100}")
    for number, value in enumerate(values, 1):
        if not isinstance(value, str) or not value.strip():
            place.refuse(
                key, f"item {number} is {value!r:.100}, not a text; put a word in quotes if YAML reads it as other"
            )
    return tuple(value.strip() for value in values)


def register_own() -> None:
    """Makes the entries known to detectron2; again after a change of the file or the root.

    Raises:
        DataError: see :func:`read_registry`; or a name is registered already, by other code.
    """
    entries = read_registry()
    for name in [name for name, entry in OWN.items() if entries.get(name) != entry]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        del OWN[name]
    for name, entry in entries.items():
        if name in OWN:
            continue
        if name in DatasetCatalog.list():
            raise DataError(f"{registry_file()} registers {name!r}, which is registered already; rename the entry")
        loader = partial(_load, name)
        register(name, loader, entry.classes, background=entry.background, ignore_label=entry.ignore)
        OWN[name] = entry


def _load(name: str) -> list[dict]:
    return OWN[name].find(name).complete(name)


def write_entries(entries: dict[str, OwnDataset]) -> Path:
    """Adds entries to the registry, in place of those of the same names; returns its file.

    Raises:
        DataError: see :func:`read_registry`; or the file would be larger than one that is read.
    """
    path = registry_file()
    with one_at_a_time(path.parent):  # of two that add at once, neither loses the other's
        known = {**read_registry(), **entries}
        plain = {
            name: {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(entry).items()}
            for name, entry in known.items()
        }
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        if len(text.encode()) > MOST_BYTES:
            raise DataError(f"{path} would have more than {MOST_BYTES} bytes: delete entries that are not needed")
        write_text_atomically(path, text)
    return path
