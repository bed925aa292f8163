"""The embedded world: a deterministic generator of images with pixel-wise ground truth. numpy, scipy and Pillow only."""

from san_cliptrase.scenes.materials import MATERIALS
from san_cliptrase.scenes.scene import (
    CLASS_NAMES,
    UNSEEN_CLASSES,
    Scene,
    make_scene,
    make_swatch,
)

__all__ = ["CLASS_NAMES", "MATERIALS", "UNSEEN_CLASSES", "Scene", "make_scene", "make_swatch"]
