"""Segmentations in COCO's format for object detection, which most annotation tools read; masks by pycocotools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from san_cliptrase.errors import OptionError

CONTRIBUTOR = "san_cliptrase"


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
            "info": {"contributor": CONTRIBUTOR},
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
        images, annotations = self.content["images"], self.content["annotations"]
        number = len(images) + 1
        height, width = labels.shape
        images.append({"id": number, "file_name": file_name, "height": height, "width": width})
        for index, mask in parts:
            encoded = self._mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index + 1,
                    "segmentation": {"size": [height, width], "counts": encoded["counts"].decode("ascii")},
                    "area": int(self._mask.area(encoded)),
                    "bbox": self._mask.toBbox(encoded).tolist(),
                    "iscrowd": 0,
                }
            )
