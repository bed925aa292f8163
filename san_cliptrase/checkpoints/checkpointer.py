"""Checkpoints that are read without executing anything, written whole or not at all, and checked against the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import Tensor

from san_cliptrase.checkpoints.files import (
    check_file,
    checkpoint_files,
    named_tensors,
    none_readable,
    not_finite,
    read_checkpoint,
    shortened,
    weights_in,
)
from san_cliptrase.checkpoints.official_keys import is_official
from san_cliptrase.checkpoints.release import SHARE, weights_of_release
from san_cliptrase.checkpoints.same_clip import check_frozen_clip, compare_sizes
from san_cliptrase.clip.build import FrozenClip
from san_cliptrase.clip.probe import ONE_CLASS, useless_clip
from san_cliptrase.errors import CheckpointError, DamagedCheckpoint, DivergedError
from san_cliptrase.files import write_atomically, write_text_atomically
from san_cliptrase.san.model import SanModel
from san_cliptrase.san.probe import useless_san


class SafeCheckpointer(Checkpointer):
    """fvcore's checkpointer with ``weights_only`` loading, atomic writing and strict keys; reads SAN's releases too.

    Args:
        model: what is trained.
        save_dir: folder of the checkpoints.
        checkpointables: further objects with ``state_dict`` and ``load_state_dict``.

    Attributes:
        resumed_from: the checkpoint that :meth:`resume_or_load` went on from.
    """

    resumed_from: Path | None = None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        """Loads weights and, unless told otherwise, what was saved with them; "" loads nothing.

        Raises:
            CheckpointError: if there is no such file, it cannot be read, or it is of another model.
        """
        if path:
            check_file(path)
        try:
            return super().load(path, checkpointables)
        except CheckpointError as error:
            if path in str(error):
                raise
            raise type(error)(f"{path}: {error}") from error
        # What a readable file may hold in place of a training state is without end.
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"cannot use the checkpoint {path}: {error!r:.500}") from error

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Goes on from the folder's last checkpoint that can be read, or loads weights.

        Raises:
            CheckpointError: see :meth:`load`; or there are checkpoints to resume from, and none can be read.
        """
        found = checkpoint_files(Path(self.save_dir)) if resume else []
        for file in found:
            try:
                state = self.load(str(file))
                self.resumed_from = file
                return state
            except DamagedCheckpoint as error:
                self.logger.warning("%s Trying the one before it.", error)
        if resume and self.has_checkpoint():
            raise none_readable(found, self.save_dir)
        return self.load(path, checkpointables=[])

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``name.pth``, then makes ``last_checkpoint`` name it; dying here leaves the last one whole.

        Raises:
            DivergedError: a weight or a moment of the optimiser is NaN or infinite; nothing has been written.
            OutputError: the file cannot be written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **{k: v.state_dict() for k, v in self.checkpointables.items()}}
        if clip := getattr(self.model, "clip", None):  # the one thing about CLIP that neither weights nor name tell
            data["quick_gelu"] = clip.quick_gelu
        if wrong := not_finite(dict(named_tensors(data))):
            raise diverged_weights(wrong)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save({**data, **kwargs}, file))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Makes ``last_checkpoint`` name a file."""
        write_text_atomically(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def load_weights(self, state: dict[str, Tensor], path: str | Path) -> None:
        """Loads weights that have been read already, in this project's format or in SAN's own.

        Args:
            state: weights by name.
            path: where they come from, for messages.

        Raises:
            CheckpointError: they are of another model.
        """
        try:
            self._load_model({"model": self._own_names(state, path)})
        except CheckpointError as error:
            if str(path) in str(error):
                raise
            raise type(error)(f"{path}: {error}") from error

    def _load_file(self, f: str) -> dict:
        loaded = read_checkpoint(f)
        state = weights_in(loaded, f)
        own = self._own_names(state, f)
        if own is not state:
            return {"model": own}
        return loaded if "model" in loaded else {"model": loaded}

    def _own_names(self, state: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
        """The weights by this project's names."""
        if not (is_official(state) and hasattr(self.model, "network")):
            return state
        try:
            return weights_of_release(state, self.model)
        except ValueError as error:
            raise CheckpointError(f"cannot use the checkpoint {path}: {error}") from error

    def check_finite(self) -> None:
        """Checks the weights before they are used or kept.

        Raises:
            DivergedError: one is NaN or infinite.
        """
        if wrong := not_finite(self.model.state_dict()):
            raise diverged_weights(wrong)

    def _load_model(self, checkpoint: dict) -> Any:
        state, own = checkpoint["model"], self.model.state_dict()
        missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        unequal = [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in sorted(own.keys() & state.keys())
            if state[key].shape != own[key].shape
        ]
        problems = [
            f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
            for what, found in (("missing", missing), ("unknown", surplus), ("of another shape", unequal))
            if found
        ]
        if problems:
            hint = " (MODEL.SAN.QUERY_INIT.ZERO_INIT True)" if SHARE in surplus else ""
            raise CheckpointError(
                f"the checkpoint is of another model: {compare_sizes(state, own)}{'; '.join(problems)}. Use the "
                f"configuration it was trained with{hint}."
            )
        if rounded := [key for key in own if own[key].is_floating_point() and not state[key].is_floating_point()]:
            raise DamagedCheckpoint(
                f"the checkpoint holds no real numbers in {shortened(rounded)}, as after a quantisation: take the one "
                "that it was made from."
            )
        if wrong := not_finite(state):
            raise DamagedCheckpoint(
                f"the checkpoint holds NaN or infinity in {shortened(wrong)}. It is of a run that diverged, or "
                f"overflowed when it was converted."
            )
        quick = getattr(getattr(self.model, "clip", None), "quick_gelu", None)
        if quick is not None and checkpoint.get("quick_gelu", quick) != quick:
            kinds = ("QuickGELU", "GELU") if checkpoint["quick_gelu"] else ("GELU", "QuickGELU")
            raise CheckpointError(
                f"the checkpoint's CLIP has {kinds[0]}, the configured one {kinds[1]}: name its own CLIP in "
                f"MODEL.CLIP.NAME and MODEL.CLIP.PRETRAINED"
            )
        try:
            check_frozen_clip(state, self.model)
        except ValueError as error:
            raise CheckpointError(f"cannot use the checkpoint: {error}") from error
        loaded = super()._load_model(checkpoint)
        if wrong := self._useless():
            raise DamagedCheckpoint(f"the weights in the checkpoint cannot be used: {'; '.join(wrong)}. {ONE_CLASS}")
        return loaded

    def _useless(self) -> list[str]:
        """What is wrong with finite weights, see ``clip.probe`` and ``san.probe``."""
        clip = getattr(self.model, "clip", None)
        wrong = useless_clip(clip) if isinstance(clip, FrozenClip) else []
        return wrong + (useless_san(self.model) if isinstance(self.model, SanModel) else [])


def diverged_weights(names: Sequence[str]) -> DivergedError:
    """What to raise where a model has weights, or its optimiser moments, that are not finite."""
    return DivergedError(
        f"the model has diverged: NaN or infinity in {shortened(names)}. Nothing of it was saved: lower "
        "SOLVER.BASE_LR, look at the keys of SOLVER, and --resume from the last checkpoint"
    )
