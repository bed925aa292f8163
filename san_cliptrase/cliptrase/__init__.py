"""CLIPtrase, training-free: regions and segmentation from a frozen CLIP. Knows no text, no config, no detectron2."""

from san_cliptrase.cliptrase.reader import Cliptrase
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.pooling import mask_average_pool

__all__ = ["Cliptrase", "RegionFinder", "mask_average_pool"]
