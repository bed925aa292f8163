"""CLIPtrase, training-free: regions and segmentation from a frozen CLIP. Knows no text, no config, no detectron2."""

from san_cliptrase.cliptrase.finder import RegionFinder
from san_cliptrase.cliptrase.segmenter import Cliptrase
from san_cliptrase.pooling import mask_average_pool

__all__ = ["Cliptrase", "RegionFinder", "mask_average_pool"]
