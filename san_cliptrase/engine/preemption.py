"""SIGTERM, by which clusters take a machine back: the run saves what it has and ends with a status of its own."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

PREEMPTED = 128 + signal.SIGTERM
"""Exit status of a run that SIGTERM ended: 143, as shells report it of any process. ``--resume`` goes on."""


class Preempted(SystemExit):
    """The run ends because it was asked to; not an error, so no ``except Exception`` takes it for one."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class Preemption:
    """Takes SIGTERM down while a run trains; the trainer asks for it between iterations."""

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles SIGTERM inside the context; does nothing outside of the main thread, which gets no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextmanager
    def ending_at_once(self) -> Iterator[None]:
        """Inside, SIGTERM raises :class:`Preempted` where it arrives: in an evaluation, which changes no weights."""
        if self.requested:
            raise Preempted
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True  # first: a log's stream may be in the middle of a line
        logger.warning("SIGTERM: this run saves a checkpoint and ends with status %d; --resume goes on", PREEMPTED)
        if self._at_once:
            self._at_once = False
            raise Preempted
