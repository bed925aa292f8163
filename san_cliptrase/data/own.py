"""Datasets of one's own: ``san-cliptrase data register FOLDER`` writes entries that later runs read.

The entries lie in ``datasets.yaml`` under the root of the datasets, one a split, with the class names in them; the
images stay where they are. Nothing in the file is executed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from san_cliptrase.data.datasets import datasets_root, register
from san_cliptrase.data.pairs import Pairs, find_pairs, load_pairs
from san_cliptrase.data.table import DATASETS
from san_cliptrase.errors import DataError, OptionError
from san_cliptrase.files import write_text_atomically

OWN: dict[str, OwnDataset] = {}
"""The entries that are registered with detectron2 in this process."""


@dataclass(frozen=True)
class OwnDataset:
    """An entry of ``datasets.yaml``.

    Attributes:
        images: folder of images; a relative path starts at the root of the datasets.
        labels: folder of label maps.
        classes: names in the order of the label values.
        ignore: value of pixels without a label.
        background: words that together stand for the last class, which is then called "background".
    """

    images: str
    labels: str
    classes: tuple[str, ...]
    ignore: int = 255
    background: tuple[str, ...] = ()

    def find(self, name: str) -> Pairs:
        """Its files, see :func:`san_cliptrase.data.pairs.find_pairs`."""
        return find_pairs(name, datasets_root() / self.images, datasets_root() / self.labels)


def registry_file() -> Path:
    """Where the entries are."""
    return datasets_root() / "datasets.yaml"


def read_registry() -> dict[str, OwnDataset]:
    """The entries by name; none without a file.

    Raises:
        DataError: the file is no YAML, or an entry has a missing or unknown key or takes a name of the table.
    """
    path = registry_file()
    if not path.is_file():
        return {}
    remedy = "correct the entry, or delete it and register the folder again"
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        found = {str(name): _entry(**values) for name, values in entries.items()}
    except (yaml.YAMLError, OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"cannot read the datasets registered in {path}: {error}; {remedy}") from error
    if taken := sorted(found.keys() & DATASETS.keys()):
        raise DataError(f"{path} registers {taken[0]!r}, which is a dataset of this project; {remedy}")
    return found


def _entry(
    images: str, labels: str, classes: list[str], ignore: int = 255, background: list[str] | None = None
) -> OwnDataset:
    if background and list(classes)[-1:] != ["background"]:
        raise OptionError("background words need 'background' as the last class")
    return OwnDataset(images, labels, tuple(map(str, classes)), int(ignore), tuple(map(str, background or ())))


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
    entry, root = OWN[name], datasets_root()
    return load_pairs(name, root / entry.images, root / entry.labels)


def write_entries(entries: dict[str, OwnDataset]) -> Path:
    """Adds entries to the registry, in place of those of the same names; returns its file.

    Raises:
        DataError: see :func:`read_registry`.
    """
    known = {**read_registry(), **entries}
    plain = {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(entry).items()}
        for name, entry in known.items()
    }
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    write_text_atomically(registry_file(), text)
    return registry_file()
