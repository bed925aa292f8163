"""The folder of a run: held by one run at a time, and left as it was by one that is refused before it begins."""

from __future__ import annotations

import os
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from detectron2.utils import comm

from san_cliptrase.engine.logs import forget_log, setup_logging
from san_cliptrase.errors import OutputError, SanCliptraseError
from san_cliptrase.files import write_text_atomically
from san_cliptrase.locks import only_run_in


class Kept:
    """Folders and files that must stay while a run goes on: what it writes would be lost without a word."""

    def __init__(self) -> None:
        self._there: dict[Path, int] = {}

    def note(self, path: Path) -> None:
        """Takes down what is there, the first time that something is."""
        if path in self._there or not path.exists():
            return
        # Held open: the system does not give its number to what is made in its place.
        self._there[path] = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._there[path])

    def check(self) -> None:
        """Compares what is there with what was noted.

        Raises:
            OutputError: one of them is gone, or another one is in its place.
        """
        for path, before in self._there.items():
            try:
                same = os.path.samestat(os.stat(path), os.fstat(before))
            except OSError:
                same = False
            if not same:
                raise OutputError(
                    f"{path} has been deleted, moved or replaced while the run went on. What was in it is lost to this "
                    "run, which ends here"
                )


class RunFolder:
    """OUTPUT_DIR, from before a run writes to it to the run's end.

    Used as a context: where one of our errors ends it before :meth:`begin`, what was written is removed.

    Args:
        folder: made by :meth:`claim`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.begun = folder, False
        self._held, self._kept = ExitStack(), Kept()
        self._made: list[Path] = []

    def claim(self) -> None:
        """Keeps other runs out. The main process holds the folder for all; where it may not, all end.

        Raises:
            ConfigError: another run works in it.
            OutputError: nothing can be written to it.
        """
        self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        comm.synchronize()  # no process takes a folder that another has just made for an old one
        refusal = None
        if comm.is_main_process():
            try:
                self._held.enter_context(only_run_in(self.folder))
            except SanCliptraseError as error:
                refusal = error
        if refusal := comm.all_gather(refusal)[0]:
            raise refusal

    def open_log(self) -> None:
        """See :func:`setup_logging`."""
        setup_logging(self.folder)

    def begin(self, cfg: Any, folder: Path | None = None) -> None:
        """Writes ``config.yaml``, here or into another folder: the run has loaded what it begins with, and stays."""
        self.begun = True
        if comm.is_main_process():
            write_text_atomically((folder or self.folder) / "config.yaml", cfg.dump())
            self._kept.note(self.folder)

    def check(self) -> None:
        """See :meth:`Kept.check`, on the main process."""
        self._kept.check()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        if self.begun or not isinstance(error, SanCliptraseError):
            return
        forget_log(self.folder)
        for folder in self._made:
            with suppress(OSError):  # other processes of the run may not be done, or somebody else has put a file there
                folder.rmdir()
