"""Segmentations in COCO's format for object detection, which most annotation tools read; masks by pycocotools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from san_cliptrase.errors import OptionError
from san_cliptrase.files import refuse_foreign, write_atomically

_CONTRIBUTOR = "san_cliptrase"
_MARK = f'{{"info": {{"contributor": "{_CONTRIBUTOR}"'.encode()


class CocoDataset:
    """Images, categories and annotations of one JSON file.

    Categories have the numbers 1 to K in the order of the classes: 0 is no category in COCO. A mask is a run-length
    encoding that pycocotools has compressed, with ``iscrowd`` 0, as in COCO-Stuff.

    Args:
        names: Class names.

    Attributes:
        content: What the file holds; ready for JSON.

    Raises:
        OptionError: pycocotools is not installed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        try:
            from pycocotools import mask  # an extra of the package
        except ImportError as error:
            raise OptionError(
                "COCO's format needs the package pycocotools: pip install 'san_cliptrase[coco]' (in a clone: '.[coco]')"
            ) from error
        self._mask = mask
        self.content: dict[str, Any] = {
            # The first key: a file of ours is known by its beginning.
            "info": {"contributor": _CONTRIBUTOR},
            "licenses": [],
            "images": [],
            "categories": [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(names, 1)],
            "annotations": [],
        }

    def add(self, file_name: str, labels: np.ndarray, parts: Iterable[tuple[int, np.ndarray]]) -> None:
        """Add an image.

        Args:
            file_name: Its path below the folder of the images.
            labels: (H, W), for the size.
            parts: Class index and mask (H, W) bool of each annotation.
        """
        number, first = len(self.content["images"]) + 1, len(self.content["annotations"]) + 1
        height, width = labels.shape
        annotations = []
        for index, mask in parts:
            encoded = self._mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            annotations.append(
                {
                    "id": first + len(annotations),
                    "image_id": number,
                    "category_id": index + 1,
                    "segmentation": {"size": [height, width], "counts": encoded["counts"].decode("ascii")},
                    "area": int(self._mask.area(encoded)),
                    "bbox": self._mask.toBbox(encoded).tolist(),
                    "iscrowd": 0,
                }
            )
        # Both together, and only if every part could be made.
        self.content["images"].append({"id": number, "file_name": file_name, "height": height, "width": width})
        self.content["annotations"] += annotations

    def write(self, path: Path) -> None:
        """Write the JSON file, whole or not at all.

        Raises:
            OutputError: See :func:`refuse_foreign_coco`, or the file cannot be written.
        """
        refuse_foreign_coco(path)
        write_atomically(path, lambda file: file.write(json.dumps(self.content).encode()))


def refuse_foreign_coco(path: Path) -> None:
    """Refuse to replace a file that :meth:`CocoDataset.write` did not write.

    Raises:
        OutputError: It is there, and another's.
    """
    refuse_foreign({path: _MARK})
