"""Names that can be chosen on the command line, with one line each.

They stand here, and not beside what they name, so that ``--help`` lists them without importing torch. The registries
take them from here, or a test compares the two.
"""

from __future__ import annotations

from typing import NamedTuple


class Reading(NamedTuple):
    """A training-free reading of CLIP by one name.

    Attributes:
        about: A line for ``--help``.
        attention: How CLIP is read densely, see ``clip.readings``.
        classify: What decides the class of a region, see ``cliptrase.classify``.
        refine: Refinement of the scores, see ``refine``.
    """

    about: str
    attention: str
    classify: str
    refine: str


DEFAULT_READING = "default"
READINGS = {
    DEFAULT_READING: Reading(
        "the strongest at no more than twice the cost of CLIP", "clip_surgery", "cls+patches", "pamr"
    ),
    "cliptrase": Reading("CLIPtrase as published", "cliptrase", "vote", "none"),
}
"""What a user gets who names no rule, and the paper's method. ``configs/training_free.yaml`` and
``configs/cliptrase.yaml`` say the same, which a test compares."""

ATTENTION_RULES = {
    "clip": "as CLIP was trained",
    "maskclip": "every token keeps its own value (MaskCLIP, 2022)",
    "sclip": "queries with queries, keys with keys (SCLIP, 2024)",
    "cliptrase": "queries, keys and values, each with themselves (CLIPtrase, 2024)",
    "clearclip": "queries with queries, without residual and MLP (ClearCLIP, 2024)",
    "naclip": "keys with keys, near patches favoured (NACLIP, 2025)",
    "clip_surgery": "values with values on a second path (CLIP Surgery, 2023)",
    "resclip": "NACLIP's, with the attention of earlier blocks (ResCLIP's RCS, 2025)",
    "pearl": "queries with rotated keys (PEARL's attention, 2026)",
    "scclip": "outliers repaired, alike patches averaged, several blocks (SC-CLIP, 2024)",
    "cliper": "the attention of all earlier blocks, fused (CLIPer, 2024)",
}
"""How CLIP is read densely, ``clip.readings.READINGS``."""

CLASSIFY = {
    "patches": "every pixel by its own logits, without regions",
    "vote": "the most frequent class of the region's pixels",
    "mean_logits": "the mean of the pixels' logits",
    "pooled": "the dense features averaged over the region",
    "cls": "a [CLS] token that sees the region only",
}
"""What decides the class of a region; CLIPtrase votes."""

TEMPLATES = {
    "imagenet": "the 80 of CLIP's authors",
    "vild": "the 14 of ViLD, which SAN uses",
    "none": "the word alone",
}
"""Sentences into which class names are put, ``clip.templates.TEMPLATES``."""

REGION_SOURCES = {
    "cliptrase": "CLIP's own self-correlation",
    "timm:MODEL": "self-correlation of another ViT of timm, such as DINO",
    "sam": "SAM's automatic masks",
    "sam_points": "SAM's masks for a point in each of CLIPtrase's regions",
    "grid": "cells of a grid (a control)",
    "random": "cells around random points (a control)",
}
"""Where the regions of an image can come from, ``regions.build.ONE_IMAGE``."""

EXHIBITS = {
    "table1": "what self-correlation is for: attention row by row, regions by two correlations",
    "table2": "regions of DINO and DINOv2, or of --source, in place of CLIPtrase's own",
    "table3": "training-free methods, four metrics, the smaller size",
    "table4": "the same at the larger size",
    "table5": "unsupervised segmentation, against k-means on plain CLIP",
    "efficient": "A.2: heads concatenated before the correlation",
    "classification": "A.3: what decides the class of a region",
    "sam": "SAM's masks with CLIPtrase's classes, and SAM asked at CLIPtrase's points",
    "ceilings": "perfect names on regions that were found, and names on perfect regions",
    "figure1": "convergence of SAN, from evaluations or a new run",
    "figure2": "attention and correlation of chosen patches, and a page",
    "figure3": "clusters with and without global patches, and the segmentation",
    "global_patches": "section A.1: patches that take the attention of all",
}
"""Tables and figures of CLIPtrase's paper that ``san-cliptrase reproduce`` makes."""

REFINEMENTS = {
    "none": "scores stay as they are",
    "pamr": "means over nearby pixels of similar colour (PAMR, 2020)",
    "pamr_half": "the same at half the size, a quarter of the time",
    "laplacian": "smoothing that stops at the image's edges (PEARL's propagation, 2026)",
}
"""Refinement of scores by the image, ``refine.REFINEMENTS``."""

FORMATS = {
    "png": "label map with a palette, and overlay",
    "coco": "coco.json for all images together, masks run-length encoded (pip install 'san_cliptrase[coco]')",
    "scores": "npz with the probability of each class at each pixel, float16",
    "confidence": "gray image of the probability of each pixel's class, 255 for 1",
}
"""What ``san-cliptrase predict`` writes."""

PARTS = {
    "class": "one mask for each class in an image",
    "region": "one for each region",
}
"""What a mask is for where a segmentation is handed to other tools, ``Segmentation.parts``."""

CORRELATIONS = {
    "cosine": "cosines, mean over heads",
    "cosine_concatenated": "cosines of heads side by side",
    "inner_product": "inner products, a control",
}
"""What is clustered, ``regions.correlation.CORRELATIONS``."""

QUERY_INITS = {
    "off": "SAN as published",
    "map_add": "mean of CLIP's features over the region, added",
    "map_replace": "the same instead of the learned embedding",
    "tokens": "mean of the side adapter's own tokens",
    "tokens_prior": "the same, with a prior on the query's mask",
    "prior": "the prior alone",
    "prototypes": "learned, from the centres of the training set's regions",
    "prior+prototypes": "prior, with those learned embeddings",
    "tokens_prior+prototypes": "tokens_prior, with them for queries without a region",
}
"""Where SAN's queries begin, ``san.query_init``."""
