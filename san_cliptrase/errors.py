"""The errors that this package raises on purpose: their message is all that a user needs, a traceback would hide it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from san_cliptrase.texts import escaped


class SanCliptraseError(Exception):
    """Base of all errors below; the commands turn it into one line and exit status 1.

    Messages quote names from data: as text, they have no character that a terminal would obey.
    """

    def __str__(self) -> str:
        return escaped(super().__str__())


class OptionError(SanCliptraseError, ValueError):
    """A name, word or number that was passed as an option and cannot be used; the message says what can."""


class ConfigError(OptionError):
    """A configuration that cannot be used; the message names file and key."""


class DataError(SanCliptraseError, ValueError):
    """A file that cannot be used; the message names it and says what was found."""


class MissingFilesError(DataError, FileNotFoundError):
    """Files that should be there and are not; the message says where they are expected."""


class WeightsError(SanCliptraseError, RuntimeError):
    """Pretrained weights that cannot be fetched, read, or put into the model."""


class CheckpointError(SanCliptraseError, ValueError):
    """A checkpoint that cannot be used; the message names the file and what does not fit."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint file that is not as it was written: cut off, altered, or not a checkpoint at all."""


class OutputError(SanCliptraseError, RuntimeError):
    """A result that cannot be written; the message names the file and says why."""


class StateError(SanCliptraseError, ValueError):
    """A saved evaluation that cannot be continued; the message says why."""


class LoaderError(SanCliptraseError, RuntimeError):
    """A loading process that has died; the message says what to look at."""


class TrainingError(SanCliptraseError, RuntimeError):
    """A training in a process of its own that has failed; the message says where its log is."""


class DivergedError(SanCliptraseError, FloatingPointError):
    """Training has met NaN or infinity; the message says in which iteration and where its files are named."""


class NotFiniteError(SanCliptraseError, FloatingPointError):
    """Scores that are NaN or infinite, of which no class can be chosen; the message says what to look at."""


class LaunchError(SanCliptraseError, ValueError):
    """Processes that cannot be started as asked for; the message says what to change."""


class CurveError(SanCliptraseError, ValueError):
    """Evaluations that are no curve; the message names the file and what is wrong with it."""


def suggest(given: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known names close to it, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are: {', '.join(names)}"
