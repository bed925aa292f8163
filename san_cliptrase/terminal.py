"""What a person at a terminal reads: messages of one line without control characters, and the exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable

from san_cliptrase.errors import SanCliptraseError
from san_cliptrase.texts import one_line


def complain(message: object) -> None:
    """Write ``error: MESSAGE`` to stderr, on one line."""
    sys.stderr.write(f"error: {one_line(message)}\n")


def exit_status(run: Callable[[], int | None]) -> int:
    """The exit status of a process that does ``run()``: the one place where the package's errors are caught.

    An error that was raised on purpose becomes one line, and so does one of the system about a file. Any other is a
    mistake in the program and keeps its traceback.
    """
    try:
        return run() or 0
    except SanCliptraseError as error:
        complain(error)
    except OSError as error:
        if error.filename is None:
            raise
        complain(f"{error.filename}: {error.strerror}")
    return 1
