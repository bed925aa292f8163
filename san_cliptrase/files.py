"""Files on disk: read if they are regular ones, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from san_cliptrase.errors import OutputError

logger = logging.getLogger(__name__)

# The process and its machine: several share a folder, and each knows its own processes alone.
_UNFINISHED = re.compile(r"\.unfinished-(\d+)(?:@([A-Za-z0-9.]*))?-")
_HOST = re.sub(r"[^A-Za-z0-9.]", "", socket.gethostname())[:40]
_MARKED = 4096
"""Bytes at the start of a file in which its mark stands."""

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


def from_home(path: str | os.PathLike[str]) -> Path:
    """A path with the home folder in the place of "~"; as it is where there is no such home."""
    return Path(os.path.expanduser(path))


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
            "it is not a regular file but a pipe, a socket or a device. Copy its content to a file first",
            os.fspath(path),
        )


def check_regular_files(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that another library is going to read, where one of its files would be waited for.

    Raises:
        OSError: See :func:`check_regular`; or there is no such folder.
    """
    for path in sorted(Path(folder).iterdir()):
        if not path.is_dir() and path.exists():
            check_regular(path)


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
    temporary = path.with_name(
        f".unfinished-{os.getpid()}@{_HOST}-{path.name}"
    )  # two processes may write the same cache
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Check free disk space and write permission"
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


def refuse_foreign(files: Mapping[Path, bytes]) -> None:
    """Refuse to replace files that this package did not write.

    Args:
        files: path -> mark that stands at the beginning of ours.

    Raises:
        OutputError: one of them is there and is not ours, or cannot be read.
    """
    foreign = [path for path, mark in files.items() if os.path.lexists(path) and not _has_mark(path, mark)]
    if foreign:
        raise OutputError(
            f"not written by san_cliptrase, so not replaced: {', '.join(map(str, foreign))}."
            " Choose another folder or name, or move what is there"
        )


def _has_mark(path: Path, mark: bytes) -> bool:
    """Whether a file begins as ours do; what is no regular file, or cannot be read, does not."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return mark in file.read(_MARKED)
    except OSError:
        return False


def remove_unfinished(folder: Path, only_one: bool = False) -> None:
    """Removes what killed processes have left half written in a folder; files of living processes stay.

    Args:
        folder: It may be missing.
        only_one: No other process writes here, and this one has not begun to: files of other machines, whose processes
            cannot be seen from here, and of an earlier process with this one's number are left over too.
    """
    _remove_dead(folder.glob(".unfinished-*"), only_one)


def remove_unfinished_of(path: Path) -> None:
    """:func:`remove_unfinished` of one file, as :func:`write_whole` leaves it where its process is killed."""
    _remove_dead(path.parent.glob(f".unfinished-*-{glob.escape(path.name)}"), only_one=False)


def _remove_dead(left_overs: Iterable[Path], only_one: bool) -> None:
    for left_over in left_overs:
        found = _UNFINISHED.match(left_over.name)
        if not found:
            continue
        process, elsewhere = int(found[1]), found[2] not in (None, _HOST)
        if only_one and (elsewhere or process == os.getpid()) or not (elsewhere or _lives(process)):
            with contextlib.suppress(OSError):
                left_over.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # somebody else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
