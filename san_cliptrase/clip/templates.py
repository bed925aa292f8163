"""Prompt templates by name: the sentences into which class names are put."""

from __future__ import annotations

from collections.abc import Sequence

from open_clip import OPENAI_IMAGENET_TEMPLATES

from san_cliptrase.errors import OptionError

TEMPLATES: dict[str, tuple[str, ...]] = {
    # The 80 of Radford et al., "Learning transferable visual models", 2021; CLIPtrase's choice.
    "imagenet": tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES),
    # The 14 of Gu et al., "Open-vocabulary object detection via ViLD", 2022; SAN's choice.
    "vild": (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        "a photo of a small {}.",
        "a photo of a medium {}.",
        "a photo of a large {}.",
        "This is a photo of a small {}.",
        "This is a photo of a medium {}.",
        "This is a photo of a large {}.",
        "There is a small {} in the scene.",
        "There is a medium {} in the scene.",
        "There is a large {} in the scene.",
    ),
    "none": ("{}",),
}


def load_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Templates of a name, or one's own after a check.

    Args:
        templates: A key of ``TEMPLATES``, or sentences with one ``{}`` each where the class name goes.

    Raises:
        OptionError: Unknown name (the message lists the known ones), no sentences, or a sentence without ``{}``.
    """
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            raise OptionError(f"unknown templates {templates!r}; choose one of: {', '.join(sorted(TEMPLATES))}")
        return TEMPLATES[templates]
    if not templates:
        raise OptionError('no templates: give at least one sentence, or the name "none" for bare class names')
    for template in templates:
        if "{}" not in template:
            raise OptionError(f"template {template!r} has no place for the class name: write {{}} there")
    return tuple(templates)
