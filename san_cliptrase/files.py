"""Files on disk: read if they are regular ones, and written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from san_cliptrase.errors import OutputError

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def is_plain_name(name: str) -> bool:
    """Whether a name may be part of a file's name: letters, digits, "_", "." and "-", a letter or digit first."""
    return bool(_PLAIN.fullmatch(name)) and len(name) <= 100


def named_file(folder: Path, kind: str, name: str, ending: str) -> Path:
    """The file of a kind that belongs to something with a name: ``FOLDER/KIND_NAMEENDING``, never elsewhere.

    Raises:
        OutputError: The name is not plain.
    """
    if not is_plain_name(name):
        raise OutputError(
            f"{name!r:.200} cannot be part of the name of a file: use letters, digits, _, . and -, a letter or digit "
            f"first, 100 of them at most"
        )
    return folder / f"{kind}_{name}{ending}"


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse what would be waited for, or never ends: pipes, sockets and devices, and links to them.

    Raises:
        OSError: There is no such file, it is a folder, or it is no regular file.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(
            errno.EINVAL,
            "it is no regular file but a pipe, a socket or a device. Copy its content to a file first",
            os.fspath(path),
        )


def read_bounded(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a regular file, of which ``most`` bytes and one more are read.

    Raises:
        OSError: See :func:`check_regular`, the file cannot be read, or it has more bytes.
    """
    check_regular(path)
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", os.fspath(path))
    return content


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
