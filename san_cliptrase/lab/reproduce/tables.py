"""Tables 3, 4 and 5 of the supplement: CLIP, SCLIP and CLIPtrase, with and without words."""

from __future__ import annotations

from san_cliptrase.lab.reproduce.exhibit import Exhibit
from san_cliptrase.lab.reproduce.request import Request
from san_cliptrase.lab.reproduce.scoring import scored

RULE, CLASSIFY = "MODEL.CLIPTRASE.ATTENTION", "MODEL.CLIPTRASE.CLASSIFY"
METHODS = {
    "CLIP": (RULE, "clip", CLASSIFY, "patches"),
    "MaskCLIP": (RULE, "maskclip", CLASSIFY, "patches"),
    "CLIP Surgery": (RULE, "clip_surgery", CLASSIFY, "patches"),
    "SCLIP": (RULE, "sclip", CLASSIFY, "patches"),
    "ClearCLIP": (RULE, "clearclip", CLASSIFY, "patches"),
    "NACLIP": (RULE, "naclip", CLASSIFY, "patches"),
    "CLIPtrase": (RULE, "cliptrase", CLASSIFY, "vote"),
}
"""The paper's columns CLIP, SCLIP and CLIPtrase, and rules that came with and after them."""


def table3(request: Request) -> Exhibit:
    """Table 3: the smaller of the two sizes."""
    return _methods(request, "table3", "Table 3: training-free methods at the smaller size")


def table4(request: Request) -> Exhibit:
    """Table 4: the larger of the two sizes."""
    return _methods(request, "table4", "Table 4: training-free methods at the larger size")


def _methods(request: Request, name: str, title: str) -> Exhibit:
    return scored(
        request,
        name,
        title,
        METHODS,
        paper=name,
        notes=["Rows without regions classify every pixel by itself, as their papers do; all else is CLIPtrase's."],
    )


def table5(request: Request) -> Exhibit:
    """Table 5: unsupervised segmentation."""
    key = "TEST.UNSUPERVISED.FEATURES"
    rows = {
        "k-means on plain CLIP's patches": (key, "patches"),
        "k-means on CLIPtrase's regions": (key, "regions"),
    }
    return scored(
        request,
        "table5",
        "Table 5: unsupervised segmentation",
        rows,
        paper="table5",
        notes=[
            "No word is read: clusters are matched to classes one to one by the Hungarian method. The paper does not "
            "say how its clusters were made; this is our reading.",
        ],
    )
