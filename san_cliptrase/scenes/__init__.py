"""The embedded world: a deterministic generator of images with pixel-wise ground truth. numpy and Pillow only."""

from san_cliptrase.scenes.materials import MATERIALS
from san_cliptrase.scenes.scene import CLASS_NAMES, SEEN_CLASSES, UNSEEN_CLASSES, Scene, make_scene, make_swatch

__all__ = ["CLASS_NAMES", "MATERIALS", "SEEN_CLASSES", "UNSEEN_CLASSES", "Scene", "make_scene", "make_swatch"]
