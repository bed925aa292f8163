"""Refinements by name, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from san_cliptrase.errors import OptionError
from san_cliptrase.refine.laplacian import laplacian
from san_cliptrase.refine.pamr import pamr, pamr_half

Refinement = Callable[[Iterable[Tensor], Tensor, int], Iterator[Tensor]]
"""Refines the scores of one image by its edges.

The first argument are the scores (K, rows, W) in strips from top to bottom, so that those of a large image need not be
in memory at once; the second is the image (3, H, W) in [0, 1] at their size, the third the side of CLIP's patches
in its pixels. The refined scores come in strips as well, of other heights.
"""

REFINEMENTS: dict[str, Refinement | None] = {"none": None, "pamr": pamr, "pamr_half": pamr_half, "laplacian": laplacian}


def refinement(name: str) -> Refinement | None:
    """The refinement of a name; None for "none".

    Raises:
        OptionError: There is none of this name; the message lists what there is.
    """
    if name not in REFINEMENTS:
        raise OptionError(f"unknown refinement {name!r}; choose one of: {', '.join(REFINEMENTS)}")
    return REFINEMENTS[name]
