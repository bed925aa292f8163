"""A.2 of the supplement: heads concatenated before the correlation, equal in outcome."""

from __future__ import annotations

from san_cliptrase.lab.reproduce.exhibit import Exhibit
from san_cliptrase.lab.reproduce.request import Request
from san_cliptrase.lab.reproduce.scoring import scored

KEY = "MODEL.REGIONS.CORRELATION"


def efficient(request: Request) -> Exhibit:
    """The mIoU with both forms of the correlation; the cost is measured by ``benchmarks/correlation.py``."""
    settings = {
        "cosine of each head, averaged (eqs. 1 to 3)": (KEY, "cosine"),
        "heads concatenated (eqs. 4 to 6)": (KEY, "cosine_concatenated"),
    }
    return scored(
        request,
        "efficient",
        "A.2: the efficient correlation",
        settings,
        notes=[
            "The paper says that concatenation reduces the computation and has almost no impact; it prints no numbers.",
            "Both are one matrix product here, of equally many multiplications; what the equations cost when they are "
            "computed head by head: python benchmarks/correlation.py.",
        ],
    )
