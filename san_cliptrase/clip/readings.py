"""Every way to read CLIP densely, by name: rules of the last block, and methods that read several blocks."""

from __future__ import annotations

import dataclasses
import re

from san_cliptrase.clip.attention import ATTENTION_RULES, DenseRule, attention_rule
from san_cliptrase.clip.cliper import Cliper
from san_cliptrase.clip.layers import LayerReading
from san_cliptrase.clip.scclip import ScClip
from san_cliptrase.errors import OptionError, suggest

READINGS: dict[str, DenseRule | LayerReading] = {**ATTENTION_RULES, "scclip": ScClip(), "cliper": Cliper()}
"""Names and what they stand for."""


def dense_reading(text: str) -> DenseRule | LayerReading:
    """The reading of a name, of a combination (``clip.attention``), or of a method without some of its steps.

    ``scclip-levels-cls`` is SC-CLIP without two of its steps, see ``clip.scclip.ScClip``.

    Raises:
        OptionError: A part is unknown, repeated or without effect; the message says which one, and what is known.
    """
    first, *parts = re.split(r"(?=[+-])", text)
    reading = READINGS.get(first)
    if not isinstance(reading, LayerReading):
        return attention_rule(text, READINGS)
    steps = [f"-{field.name}" for field in dataclasses.fields(reading)]
    for place, part in enumerate(parts):
        if part not in steps:
            known = f"{', '.join(steps)} leave a step out of it; {suggest(part, steps)}" if steps else "it has no parts"
            raise OptionError(f"unknown attention rule {text!r}: {part!r} is not a part of {first!r}: {known}")
        if part in parts[:place]:
            raise OptionError(f"unknown attention rule {text!r}: {part!r} repeats a part of it")
    return dataclasses.replace(reading, **{part[1:]: False for part in parts})
