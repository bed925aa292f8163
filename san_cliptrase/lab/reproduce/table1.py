"""Table 1 of the supplement: what self-correlation is for."""

from __future__ import annotations

from san_cliptrase.lab.reproduce.exhibit import Exhibit
from san_cliptrase.lab.reproduce.request import Request
from san_cliptrase.lab.reproduce.scoring import scored
from san_cliptrase.lab.reproduce.tables import CLASSIFY, RULE

CORRELATION, EPS = "MODEL.REGIONS.CORRELATION", "MODEL.REGIONS.EPS"


def table1(request: Request) -> Exhibit:
    """Attention that gets nearer to the regions row by row, then regions from two kinds of correlation."""
    attention = {
        "without self-correlation": "qk",
        "<x_i, x_i>: itself only": "v",
        "<x_i, x_j>: inner product": "qq+kk+vv",
        "cos(x_i, x_j)": "qq+kk+vv+cosine",
        "cos(x_i, x_j), j in the ground truth's region": "qq+kk+vv+cosine+truth",
    }
    rows = {name: (RULE, rule, CLASSIFY, "patches") for name, rule in attention.items()}
    rows["CLIPtrase, regions from inner products"] = (CORRELATION, "inner_product")
    rows["CLIPtrase, inner products, radius from the image"] = (CORRELATION, "inner_product", EPS, "0")
    rows["CLIPtrase, regions from cosines"] = (CORRELATION, "cosine")
    return scored(
        request,
        "table1",
        "Table 1: what self-correlation is for",
        rows,
        paper="table1",
        notes=[
            "The first five rows classify every pixel by itself; they change the attention of CLIP's last block. A "
            "cosine keeps the mean length of its vectors, so that only directions are compared.",
            "The row that sees the ground truth is no method; nor is it a bound: in the paper CLIPtrase is above it.",
            "The paper gives no equations for these rows: this is our reading. Its row COS(x_i, x_j) equals the row of "
            "DINOv2 in its table 2 in three of four numbers, and SCLIP's of its table 3 in the fourth.",
        ],
    )
