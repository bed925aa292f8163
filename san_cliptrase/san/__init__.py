"""SAN: a side adapter network that finds masks and lets frozen CLIP name them. Learnable; takes ``Regions`` only."""

from san_cliptrase.san.inference import semantic_map
from san_cliptrase.san.mask_decoder import MaskDecoder, MaskPrediction
from san_cliptrase.san.network import SideAdapterNetwork
from san_cliptrase.san.query_init import QUERY_INITS, QueryInit, build_query_init
from san_cliptrase.san.recognition import MaskClassifier, recognise_masks
from san_cliptrase.san.side_adapter import DEFAULT_FUSION, SideAdapter

__all__ = [
    "DEFAULT_FUSION",
    "QUERY_INITS",
    "MaskClassifier",
    "MaskDecoder",
    "MaskPrediction",
    "QueryInit",
    "SideAdapter",
    "SideAdapterNetwork",
    "build_query_init",
    "recognise_masks",
    "semantic_map",
]
