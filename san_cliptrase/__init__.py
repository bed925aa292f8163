"""Open-vocabulary semantic segmentation: training-free CLIPtrase, and SAN trained from its regions."""

__version__ = "0.1.0"
