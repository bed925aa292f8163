"""The words that a test set is evaluated with, where they are not its class names."""

from __future__ import annotations

import os
from collections.abc import Sequence

from san_cliptrase.class_lists import read_class_list
from san_cliptrase.cliptrase.class_words import ClassWords
from san_cliptrase.data.datasets import class_list_file
from san_cliptrase.data.table import DATASETS
from san_cliptrase.errors import DataError, suggest

BACKGROUND = "background"
VOCABULARIES = ("san",)
"""Names that TEST.VOCABULARY may have in place of a file. ``san``: the words of SAN's published numbers, which on
ADE20K-150 are others than CLIPtrase's."""


def replacement_words(vocabulary: str, dataset: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The words that TEST.VOCABULARY gives in place of a dataset's class names.

    Args:
        vocabulary: one of :data:`VOCABULARIES`, a class file, or "".
        dataset: registered name.
        classes: its class names.

    Returns:
        One for each class; () where the class names stay, also where a named vocabulary has no others for the dataset.

    Raises:
        DataError: the file cannot be used, or does not have one line for each class.
    """
    if vocabulary in VOCABULARIES:
        return named_words(vocabulary, dataset)
    if not vocabulary:
        return ()
    if not os.path.exists(vocabulary):
        raise DataError(
            f"TEST.VOCABULARY is {vocabulary!r}, neither a class file nor a vocabulary by name: "
            f"{suggest(vocabulary, VOCABULARIES)}"
        )
    words = read_class_list(vocabulary)
    if len(words) != len(classes):
        raise DataError(
            f"TEST.VOCABULARY {vocabulary} has {len(words)} lines, and the dataset {len(classes)} classes: give one "
            f"line for each class, in the order of the labels"
        )
    return words


def class_words(words: str, dataset: str, classes: Sequence[str], background: Sequence[str]) -> ClassWords:
    """The words of each class under one of the protocols with class lists of their own.

    Args:
        words: name of the protocol's class list; "": the class names.
        dataset: registered name.
        classes: its class names.
        background: its words for a last class "background"; they stand for it where the protocol has no list.
    """
    lines = (named_words(words, dataset) if words else ()) or classes
    groups = [[word.strip() for word in line.split(",") if word.strip()] for line in lines]
    last = len(classes) - 1 if classes[-1] == BACKGROUND else None
    if last is not None and lines is classes and background:
        groups[last] = list(background)
    return ClassWords.of(groups, last)


def named_words(vocabulary: str, dataset: str) -> tuple[str, ...]:
    """The words of a published vocabulary for a dataset, a line a class; () where it has none of its own."""
    path = class_list_file(f"{DATASETS[dataset].classes}_{vocabulary}") if dataset in DATASETS else None
    return read_class_list(path) if path is not None and path.is_file() else ()
