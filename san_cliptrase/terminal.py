"""What a person at a terminal reads: messages of one line without control characters, and the exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable

from san_cliptrase.errors import SanCliptraseError
from san_cliptrase.texts import one_line


def complain(message: object) -> None:
    """Write ``error: MESSAGE`` to stderr, on one line."""
    sys.stderr.write(f"error: {one_line(message)}\n")


def told(error: BaseException) -> str | None:
    """What is said of an error: of those raised on purpose, and of the system's about a file; None: it is a mistake."""
    if isinstance(error, SanCliptraseError):
        return one_line(error)
    if isinstance(error, OSError) and error.filename is not None:
        return one_line(f"{error.filename}: {error.strerror}")
    return None


def exit_status(run: Callable[[], int | None]) -> int:
    """The exit status of a process that does ``run()``: the one place where the package's errors are caught.

    An error that was raised on purpose becomes one line, and so does one of the system about a file. Any other is a
    mistake in the program and keeps its traceback.
    """
    try:
        return run() or 0
    except (SanCliptraseError, OSError) as error:
        message = told(error)
        if message is None:
            raise
        complain(message)
    return 1
