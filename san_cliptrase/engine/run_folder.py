"""The folder of a run: held by one run at a time, and left as it was by one that is refused before it begins."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from detectron2.utils import comm

from san_cliptrase.engine.logs import forget_log, setup_logging
from san_cliptrase.errors import SanCliptraseError
from san_cliptrase.files import only_run_in, write_text_atomically


class RunFolder:
    """OUTPUT_DIR, from before a run writes to it to the run's end.

    Used as a context: where one of our errors ends it before :meth:`begin`, what was written is removed.

    Args:
        folder: made by :meth:`claim`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.begun = folder, False
        self._held = ExitStack()
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
