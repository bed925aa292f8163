"""Tables 3, 4 and 5 of the supplement: training-free methods side by side, and clusters without words."""

from __future__ import annotations

import dataclasses

from san_cliptrase.lab.reproduce.cost import IMAGES, ROUNDS
from san_cliptrase.lab.reproduce.exhibit import Exhibit
from san_cliptrase.lab.reproduce.other_papers import published_tables
from san_cliptrase.lab.reproduce.request import Request
from san_cliptrase.lab.reproduce.scoring import scored

RULE, CLASSIFY, REFINE = "MODEL.CLIPTRASE.ATTENTION", "MODEL.CLIPTRASE.CLASSIFY", "TEST.REFINE"
OURS = "CLIPtrase"
METHODS = {
    "CLIP": (RULE, "clip", CLASSIFY, "patches"),
    "MaskCLIP": (RULE, "maskclip", CLASSIFY, "patches"),
    "CLIP Surgery": (RULE, "clip_surgery", CLASSIFY, "patches"),
    "SCLIP": (RULE, "sclip", CLASSIFY, "patches"),
    "ClearCLIP": (RULE, "clearclip", CLASSIFY, "patches"),
    "NACLIP": (RULE, "naclip", CLASSIFY, "patches"),
    "ResCLIP (RCS)": (RULE, "resclip", CLASSIFY, "patches"),
    "PEARL (attention)": (RULE, "pearl", CLASSIFY, "patches"),
    "CLIPer": (RULE, "cliper", CLASSIFY, "patches"),
    "SC-CLIP": (RULE, "scclip", CLASSIFY, "patches"),
    OURS: (RULE, "cliptrase", CLASSIFY, "vote"),
    "CLIP Surgery with regions": (RULE, "clip_surgery", CLASSIFY, "cls+patches"),
    "CLIP Surgery with regions, PAMR": (RULE, "clip_surgery", CLASSIFY, "cls+patches", REFINE, "pamr"),
}
"""The paper's columns CLIP, SCLIP and CLIPtrase, rules that came with and after them, and a combination of ours."""


def table3(request: Request) -> Exhibit:
    """Table 3: the smaller of the two sizes."""
    return _methods(request, "table3", "Table 3: training-free methods at the smaller size")


def table4(request: Request) -> Exhibit:
    """Table 4: the larger of the two sizes."""
    return _methods(request, "table4", "Table 4: training-free methods at the larger size")


def _methods(request: Request, name: str, title: str) -> Exhibit:
    exhibit = scored(
        request,
        name,
        title,
        METHODS,
        paper=name,
        notes=[
            "Rows without regions classify every pixel by itself, as their papers do; all else is CLIPtrase's. Where a "
            "row is not all of its paper's method, docs/deviations.md says what is left out.",
            "CLIP Surgery with regions averages the scores of its pixels and those of a [CLS] token for each of "
            "CLIPtrase's regions.",
            f"Time: pixels to labels of {IMAGES} images of the first data set in turns with open_clip's embedding of "
            f"the same images, the same tower, one thread on a CPU; median of {ROUNDS} rounds, least and largest.",
        ],
        costs=True,
    )
    more = f"## Other papers' numbers\n\n{published_tables()}"
    return dataclasses.replace(exhibit, highlight=OURS, more=more)


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
