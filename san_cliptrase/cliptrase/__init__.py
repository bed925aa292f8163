"""CLIPtrase, training-free: regions of a frozen CLIP and their classes. Knows no text, no config, no detectron2."""

from san_cliptrase.cliptrase.reader import TrainingFreeReader
from san_cliptrase.regions.finder import RegionFinder
from san_cliptrase.regions.pooling import mask_average_pool

__all__ = ["RegionFinder", "TrainingFreeReader", "mask_average_pool"]
