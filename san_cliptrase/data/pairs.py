"""Images and the label files that belong to them, found by their stems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from san_cliptrase.errors import MissingFilesError
from san_cliptrase.files import read_bounded

IMAGE_TYPES = {".jpg", ".jpeg", ".png"}
MOST_BYTES = 2**26
"""Of a list of stems."""
LABEL_TYPES = {".png", ".tif", ".tiff"}


@dataclass(frozen=True)
class Pairs:
    """What two folders hold.

    Attributes:
        records: detectron2's dicts of the complete pairs, sorted by stem.
        alone: sorted stems of which one file is missing.
        found: how many files there are and where, for messages.
    """

    records: list[dict]
    alone: list[str]
    found: str

    def complete(self, name: str) -> list[dict]:
        """The records, if there is nothing else.

        Args:
            name: of the dataset, for the message.

        Raises:
            FileNotFoundError: if there are none, or an image has no label file or the reverse.
        """
        if not self.records and not self.alone:
            images, labels = (", ".join(sorted(types)) for types in (IMAGE_TYPES, LABEL_TYPES))
            raise MissingFilesError(
                f"dataset {name!r} is empty: {self.found}. Put images ({images}) and label files ({labels}) of the "
                f"same stems there, or name another split."
            )
        if self.alone:
            some = f"{', '.join(self.alone[:5])}{' ...' if len(self.alone) > 5 else ''}"
            raise MissingFilesError(
                f"dataset {name!r}: {self.found}; without a partner: {some}. Every image needs the label file of its "
                f"stem."
            )
        return self.records


def load_pairs(name: str, images: Path, labels: Path, subset: bool = False) -> list[dict]:
    """Pairs image and label files by their stems, in sorted order.

    Args:
        name: of the dataset, for messages.
        images: folder of images.
        labels: folder of label maps.
        subset: leave out images without a label file instead of refusing them.

    Raises:
        FileNotFoundError: if a folder is missing or empty, an image has no label file or the reverse, or two files of
            a folder share their stem.
    """
    return find_pairs(name, images, labels, subset).complete(name)


def find_pairs(
    name: str,
    images: Path,
    labels: Path,
    subset: bool = False,
    image_suffix: str = "",
    label_suffix: str = "",
    stems: Path | None = None,
) -> Pairs:
    """Pairs by stems, and what has no partner.

    Args:
        name, images, labels, subset: see :func:`load_pairs`.
        image_suffix, label_suffix: ends of the names that are not part of the stem ("_leftImg8bit.png"); where given,
            the folders below are searched too.
        stems: text file with one stem a line: nothing else is read.

    Raises:
        FileNotFoundError: if a folder or the file of stems is missing, or two files of a folder share their stem.
    """
    for place, exists, kind in (
        (images, images.is_dir(), "folder"),
        (labels, labels.is_dir(), "folder"),
        (stems, stems is None or stems.is_file(), "file"),
    ):
        if not exists:
            raise MissingFilesError(
                f"dataset {name!r} expects the {kind} {place}, which does not exist. Put the data there, or set "
                f"DETECTRON2_DATASETS to the folder that holds it (docs/datasets.md)."
            )
    by_stem = _by_stem(images, IMAGE_TYPES, image_suffix)
    truths = _by_stem(labels, LABEL_TYPES, label_suffix)
    missing: set[str] = set()
    if stems is not None:
        listed = dict.fromkeys(read_bounded(stems, MOST_BYTES).decode(errors="replace").split())
        by_stem = {stem: by_stem[stem] for stem in listed if stem in by_stem}
        truths = {stem: truths[stem] for stem in listed if stem in truths}
        missing = listed.keys() - (by_stem.keys() & truths.keys())
    if subset:
        by_stem = {stem: path for stem, path in by_stem.items() if stem in truths}
    records = [
        {"file_name": str(by_stem[stem]), "sem_seg_file_name": str(truths[stem]), "image_id": stem}
        for stem in sorted(by_stem.keys() & truths.keys())
    ]
    found = f"{len(by_stem)} images in {images}, {len(truths)} label files in {labels}"
    return Pairs(records, sorted(missing | (by_stem.keys() ^ truths.keys())), found)


def _by_stem(folder: Path, types: set[str], suffix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"*{suffix}") if suffix else folder.iterdir()):
        # Hidden files are no data: unfinished ones of `prepare`, and what macOS puts beside images ("._a.jpg").
        if path.suffix.lower() not in types or path.name.startswith("."):
            continue
        stem = path.name.removesuffix(suffix) if suffix else path.stem
        if found.setdefault(stem, path) != path:
            raise MissingFilesError(f"{found[stem]} and {path} share a stem: which one belongs to its partner?")
    return found
