"""Files on disk: whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from san_cliptrase.errors import OutputError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name and moves it into place: a kill or a full disk leaves what was there.

    Args:
        path: the file; its folder is made if it is missing.
        write: function of the path to write to, a hidden file beside ``path`` with the same ending.

    Raises:
        OutputError: the content cannot be written.
    """
    temporary = path.with_name(f".unfinished-{os.getpid()}-{path.name}")  # two processes may write the same cache
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Is there room, and may you write?"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # where its folder is a file, there is nothing to remove
            temporary.unlink()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """:func:`write_whole` for results that must outlast a power cut: on disk before the file takes its name.

    Args:
        path: the file.
        write: writes the content into a file open for binary writing.

    Raises:
        OutputError: the content cannot be written.
    """

    def to_disk(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            try:
                write(file)
            except RuntimeError as error:
                # torch.save tells of a full disk by an error of its own, raised while it handles the system's.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())

    write_whole(path, to_disk)


def write_text_atomically(path: Path, text: str) -> None:
    """:func:`write_atomically` of UTF-8 text."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))
