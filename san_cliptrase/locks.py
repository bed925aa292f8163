"""Folders that one process works in at a time, or changes at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from san_cliptrase.errors import ConfigError, OutputError
from san_cliptrase.files import check_regular

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds to wait for another process that changes a file."""
_LOCK = "lock"


@contextlib.contextmanager
def only_run_in(folder: Path, option: str = "OUTPUT_DIR") -> Iterator[None]:
    """Inside, no other run can work in the folder: not on this machine, nor on others that share its file system.

    The system lets go of the lock when the process ends, however it ends, so a dead run blocks nobody. Processes that
    are forked inside do not hold it.

    Args:
        folder: made if it is missing.
        option: how the user names it, for messages.

    Raises:
        ConfigError: another run works in it.
        OutputError: nothing can be written to it.
    """
    path = folder / _LOCK
    try:
        file = _locked_file(path, option)
    except OSError as error:
        raise OutputError(
            f"cannot write to {option} {folder}: {error.strerror or error}. Check free disk space and write permission"
        ) from error
    os.register_at_fork(after_in_child=file.close)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                path.unlink()
        file.close()


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Inside, other processes wait that change a file of the folder too, so that nobody writes what is out of date.

    Raises:
        OutputError: The folder, which is made if it is missing, cannot be opened, or another process has held it for
            :data:`PATIENCE` seconds.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        end = time.monotonic() + PATIENCE
        while not _flocked(descriptor):
            if time.monotonic() > end:
                raise OutputError(f"another process has been changing {folder} for {PATIENCE:g} seconds: end it")
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _flocked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems know no locks
        return True
    return True


def _is_lock(file: FileIO) -> bool:
    """Whether a file is empty or holds the note of a run that was killed."""
    file.seek(0)
    return re.fullmatch(rb"(process \d+ on [^\n]*)?", file.read(300)) is not None


def _locked_file(path: Path, option: str) -> FileIO:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            check_regular(path)
        file = open(path, "a+b", buffering=0)  # noqa: SIM115  (its caller closes it)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(200).decode(errors="replace")
            file.close()
            shown = f" ({holder})" if holder and holder.isprintable() else ""
            raise ConfigError(
                f"another process works in {path.parent}: wait for it or end it{shown}, or name another {option}"
            ) from error
        except OSError as error:  # some network file systems know no locks
            logger.warning("%s cannot be locked (%s): make sure that one run works in it at a time", path.parent, error)
            return file
        if not _is_lock(file):
            file.close()
            raise ConfigError(
                f"{path} is not a run's lock but a file of another origin, which a run would replace: move it away, or "
                f"name another {option}"
            )
        with contextlib.suppress(FileNotFoundError):
            # The run before may have removed the file in the meantime: then this lock is on nothing.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                with contextlib.suppress(OSError):  # a full disk has no room for the note, which nothing depends on
                    file.truncate(0)
                    file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        file.close()
