"""Regions from elsewhere: the supplement's table 2 (DINO) and the main paper's application to SAM."""

from __future__ import annotations

from san_cliptrase.lab.reproduce.exhibit import Exhibit
from san_cliptrase.lab.reproduce.request import Request, request_config
from san_cliptrase.lab.reproduce.scoring import scored
from san_cliptrase.lab.reproduce.tables import CLASSIFY

SOURCE, EPS = "MODEL.REGIONS.SOURCE", "MODEL.REGIONS.EPS"
PUBLISHED = ("timm:vit_small_patch16_224.dino", "timm:vit_small_patch14_dinov2.lvd142m")
"""DINO and DINOv2 as timm has them; the paper does not say which sizes it used."""


def table2(request: Request) -> Exhibit:
    """Table 2: CLIPtrase's regions against those of another ViT, classified by the same features of CLIP."""
    random = request_config(request).MODEL.REGIONS.PRETRAINED == "random"
    label = " (random weights: a path check, no result)" if random else ""
    others = {
        f"Ours + {source.removeprefix('timm:')}{label}": (SOURCE, source) for source in request.sources or PUBLISHED
    }
    rows = {
        **others,  # first: weights that are missing are found before anything is computed
        "CLIPtrase": (SOURCE, "cliptrase"),
        "CLIPtrase, radius found in each image": (SOURCE, "cliptrase", EPS, "0.0"),
        "no regions": (CLASSIFY, "patches"),
    }
    return scored(
        request,
        "table2",
        "Table 2: regions of another ViT",
        rows,
        paper="table2",
        notes=[
            "Rows with another ViT: cosine similarity of its output tokens, [CLS] row subtracted, DBSCAN, maps and "
            "vote as for CLIP. DBSCAN's radius is found in each image, so the row of CLIPtrase that says the same is "
            "the fair comparison. The paper says neither which features of DINO it took nor at which radius.",
            "Three of the four numbers that the paper prints for Ours + DINOv2 are also those that its table 1 prints "
            "for COS(x_i, x_j).",
        ],
    )


def sam(request: Request) -> Exhibit:
    """SAM's masks, which have no names, with CLIPtrase's classes; and CLIPtrase's regions with SAM's boundaries."""
    rows = {
        "SAM's own masks": (SOURCE, "sam"),
        "SAM at CLIPtrase's points": (SOURCE, "sam_points"),
        "CLIPtrase": (SOURCE, "cliptrase"),
    }
    return scored(
        request,
        "sam",
        "CLIPtrase and SAM",
        rows,
        more=[f"SAM {request_config(request).MODEL.REGIONS.SAM_MODEL}"],
        notes=[
            "Where masks overlap, the one with the highest IoU that SAM predicts wins; pixels in no mask stay in "
            "CLIPtrase's regions. The supplement has no numbers for this application.",
        ],
    )
