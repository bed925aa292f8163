"""Draws docs/images/photographs.jpg: scikit-learn's two photographs and CLIPtrase's regions of them.

``python tools/photograph_regions.py``. The small CLIP of the package finds the regions. It cannot name what is in a
photograph, so no names are drawn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from san_cliptrase import Segmenter
from san_cliptrase.engine.panels import region_panel
from san_cliptrase.scenes import CLASS_NAMES

OUTPUT = Path(__file__).parent.parent / "docs/images/photographs.jpg"
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
WIDTH, HEIGHT = 420, 280


def main() -> None:
    """Writes the image."""
    segmenter = Segmenter.from_clip("scenes_vit", "scenes", reading="cliptrase", size=192)
    sheet = Image.new("RGB", (4 * WIDTH, HEIGHT))
    for index, name in enumerate(PHOTOGRAPHS):
        photo = Image.fromarray(load_sample_image(name)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        masks = segmenter(load_sample_image(name), CLASS_NAMES).regions
        larger = [Image.fromarray(mask).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR) for mask in masks]
        regions = np.stack([np.asarray(mask) for mask in larger]).argmax(0)
        panel = Image.fromarray(region_panel(np.asarray(photo), regions, len(CLASS_NAMES)))
        sheet.paste(photo, (2 * index * WIDTH, 0))
        sheet.paste(panel, ((2 * index + 1) * WIDTH, 0))
    sheet.save(OUTPUT, quality=85)


if __name__ == "__main__":
    main()
