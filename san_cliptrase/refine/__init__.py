"""Refinement of class scores by the image's own edges, a step between scores and labels."""

from san_cliptrase.refine.refinement import REFINEMENTS, Refinement, refinement

__all__ = ["REFINEMENTS", "Refinement", "refinement"]
