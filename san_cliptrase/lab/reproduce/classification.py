"""A.3 of the supplement: what decides the class of a region, without training."""

from __future__ import annotations

from san_cliptrase.cliptrase.classify import CLASSIFY
from san_cliptrase.lab.reproduce.exhibit import Exhibit
from san_cliptrase.lab.reproduce.request import Request
from san_cliptrase.lab.reproduce.scoring import scored


def classification(request: Request) -> Exhibit:
    """The same regions, or none, and each way to find their classes."""
    settings = {f"{name}: {what}": ("MODEL.CLIPTRASE.CLASSIFY", name) for name, what in CLASSIFY.items()}
    return scored(
        request,
        "classification",
        "A.3: what decides the class of a region",
        settings,
        notes=[
            "The paper prints no numbers for this. Of mask pooling with a [CLS] token for each mask, by an attention "
            'bias, it says that "since this method requires separately designing and training some layers for '
            'attention bias, [...] it was abandoned".',
            "The two halves stand apart here, each without training: pooled is the pooling, cls the [CLS] token, a "
            "copy of which sees only itself and the patches of its region, from block MODEL.CLIPTRASE.CLS_LAYER on. "
            "Nothing is learned, so this says nothing about a trained bias.",
            "All rows but patches have the same regions; all but cls read the same dense features.",
        ],
    )
