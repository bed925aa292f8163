"""Processes beside each other that end with the one that asked for them, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection

from san_cliptrase.errors import LoaderError


@contextmanager
def process_pool(workers: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes are killed where the context ends by an error or Ctrl-C: one of them may be stuck.

    What they do must not mind: they write files whole or not at all.

    Args:
        workers: processes; None: one a core.

    Raises:
        LoaderError: A process has died.
    """
    before = {*multiprocessing.active_children()}
    pool = ProcessPoolExecutor(workers, initializer=_leave_signals_to_parent)
    try:
        yield pool
    except BaseException as error:
        for process in {*multiprocessing.active_children()} - before:
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise LoaderError(
                "a process that reads and writes files has died. Was it killed for want of memory (dmesg says so)? "
                "Fewer processes need less (--workers)"
            ) from error
        raise
    pool.shutdown()


def end_with_parent() -> None:
    """Ends this process when the one that has started it is gone, killed for one."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def _leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
