"""SIGTERM, by which clusters take a machine back, and Ctrl-C: the run saves what it has and ends with their status."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

PREEMPTED = 128 + signal.SIGTERM
"""Exit status of a run that SIGTERM ended: 143, as shells report it of any process. ``--resume`` goes on."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit status of a run that Ctrl-C ended: 130."""
PATIENCE = 10.0
"""Seconds that a run which was asked to end still waits for its next batch: a loading process may be stuck."""


class Preempted(SystemExit):
    """The run ends because it was asked to; not an error, so no ``except Exception`` takes it for one."""

    def __init__(self, status: int = PREEMPTED) -> None:
        super().__init__(status)


class Preemption:
    """Takes SIGTERM and Ctrl-C down while a run trains; the trainer asks for it between iterations.

    The first of them is obeyed. A second Ctrl-C ends the run where it is. A process that another one of the run has
    started leaves Ctrl-C to that one, which passes it on as SIGTERM.
    """

    def __init__(self) -> None:
        self.requested, self.status = False, PREEMPTED
        self._at_once, self._waiting, self._interrupts = False, False, 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals inside the context; does nothing outside of the main thread, which gets no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        child = multiprocessing.parent_process() is not None
        handlers = {
            signal.SIGTERM: self._handle,
            signal.SIGINT: signal.SIG_IGN if child else self._handle,
            signal.SIGALRM: self._end_waiting,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def ending_at_once(self) -> Iterator[None]:
        """Inside, a signal raises :class:`Preempted` where it arrives: in an evaluation, which changes no weights."""
        if self.requested:
            raise Preempted(self.status)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, :class:`Preempted` is raised :data:`PATIENCE` seconds after a signal: while the next batch comes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._waiting = True
        if self.requested:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            yield
        finally:
            self._waiting = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.requested = not self.requested, True  # first: a log's stream may be in the middle of a line
        if first:
            self.status = 128 + number
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                raise KeyboardInterrupt
        if first:
            again = "; Ctrl-C once more ends it without" if number == signal.SIGINT else ""
            name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            logger.warning(
                "%s: this run saves a checkpoint and ends with status %d; --resume goes on%s", name, self.status, again
            )
        if self._waiting:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        if self._at_once:
            self._at_once = False
            raise Preempted(self.status)

    def _end_waiting(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            self._waiting = False
            logger.warning("the next batch has not come within %g seconds: the run ends without it", PATIENCE)
            raise Preempted(self.status)
