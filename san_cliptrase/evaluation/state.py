"""An evaluation that was killed goes on: what one process has counted, in a file."""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path
from typing import Any

import torch

from san_cliptrase.errors import StateError
from san_cliptrase.files import write_atomically
from san_cliptrase.texts import reason

_HEAD = b"san_cliptrase evaluation 1\n"
_LENGTH = len(_HEAD) + hashlib.sha256().digest_size


class StateFile:
    """Saves and loads the progress of one process on one dataset, under a check sum.

    Args:
        path: the file.
        settings: key -> value of everything that the counts depend on; saved with them, and compared on loading.
        seconds: between two saves.
    """

    def __init__(self, path: Path, settings: dict[str, str], seconds: float) -> None:
        self.path, self.settings, self.seconds = path, settings, seconds
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved >= self.seconds

    def save(self, progress: dict[str, Any]) -> None:
        """Writes the progress, whole or not at all.

        Raises:
            OutputError: see ``write_atomically``.
        """
        self._saved = time.monotonic()
        content = io.BytesIO()
        torch.save({"settings": self.settings, "progress": progress}, content)
        whole = _HEAD + hashlib.sha256(content.getbuffer()).digest() + content.getbuffer()
        write_atomically(self.path, lambda file: file.write(whole))

    def load(self) -> dict[str, Any] | None:
        """The saved progress, or None if there is none.

        Raises:
            StateError: the file is damaged, or was saved under other settings; names those that differ.
        """
        if not self.path.is_file():
            return None
        try:
            whole = self.path.read_bytes()
            content = whole[_LENGTH:]
            # Damaged counts would be taken for results: nothing is read that is not as it was written.
            if whole[:_LENGTH] != _HEAD + hashlib.sha256(content).digest():
                raise ValueError("it is damaged, or not what this version writes")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            there, progress = state["settings"], state["progress"]
        except Exception as error:  # torch's reader meets strange files with errors of almost any type
            raise StateError(
                f"cannot read {self.path}: {reason(error)}. Evaluate without --resume to begin anew"
            ) from error
        here = self.settings
        differing = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
        if differing:
            shown = "; ".join(f"{key} was {there.get(key)}, is {here.get(key)}" for key in differing[:5])
            raise StateError(
                f"{self.path} is of another evaluation: {shown}. Undo the change, name another OUTPUT_DIR, or evaluate "
                "without --resume to begin anew"
            )
        return progress

    def remove(self) -> None:
        """Removes the file: the evaluation is over, or begins anew."""
        self.path.unlink(missing_ok=True)
