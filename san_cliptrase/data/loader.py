"""Loading whose every draw follows from (seed, position), so that runs can be paired and resumed exactly."""

from __future__ import annotations

import logging
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType

import numpy as np
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from san_cliptrase.errors import DataError, LoaderError, OptionError
from san_cliptrase.images import image_size

HEADS_AT_ONCE = 16
"""Files whose heads are read side by side: on a network's disk each one is a wait."""

logger = logging.getLogger(__name__)

MOST_BAD = 10
"""How many unusable files after one another training leaves out."""
GRACE = 15.0
"""Seconds that a loading process goes on after SIGTERM."""


@dataclass(frozen=True)
class BadSample:
    """Stands in a batch for a sample whose files cannot be used; ``message`` names the file and says why."""

    message: str


class WatchedLoader(DataLoader):
    """A ``DataLoader`` that reports a dead loading process when the next batch is asked for, and as our own error.

    Closing its iterator ends the loading processes, also those that are stopped or wait for a file server.
    """

    def __iter__(self) -> Iterator[list]:
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGCHLD)
        batches = super().__iter__()
        if main and self.num_workers:
            # torch's handler would raise wherever the process is, in the middle of an optimiser's step for one.
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
        try:
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except RuntimeError as error:
                    if "DataLoader worker (pid" not in str(error):
                        raise
                    raise LoaderError(
                        f"{error}. Was it killed for want of memory (dmesg says so), or is /dev/shm full? Fewer "
                        f"DATALOADER.NUM_WORKERS need less"
                    ) from error
                yield batch
        finally:
            # torch asks them to end and waits, at the exit of Python without end. They hold nothing that could be lost.
            for process in getattr(batches, "_workers", ()):
                process.kill()


def outlast_sigterm(worker: int) -> None:
    """For ``worker_init_fn``: schedulers send SIGTERM to all processes, and the run still needs its loaders to end.

    They end :data:`GRACE` seconds later or at the second SIGTERM: Python ends them by the same signal when it exits.
    Ctrl-C, which a terminal sends to all too, is the run's to answer.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class EndlessDataset(Dataset):
    """The training stream as a map: position 0, 1, 2, ... -> a sample, epoch after epoch, reshuffled for each.

    Sample and augmentation depend on ``seed`` and the position alone: not on the number of workers, on what was
    loaded before, or on where a resumed run starts. "draw_seed" is for the draws of the loss: of this sample, whichever
    process and part of the batch has it. A sample whose files cannot be used is a :class:`BadSample`.

    Args:
        records: detectron2's list of dicts.
        mapper: dict -> sample.
        seed: decides order and augmentation.
        skip_bad: put the next sample of the order in the place of a bad one, which "skipped" then tells of.
    """

    def __init__(self, records: list[dict], mapper: Callable[[dict], dict], seed: int, skip_bad: bool = False) -> None:
        if not records:
            raise OptionError("the training set is empty")
        self.records, self.mapper, self.seed, self.skip_bad = records, mapper, seed, skip_bad
        self._shuffled = (-1, np.empty(0, np.int64))

    def __getitem__(self, position: int) -> dict | BadSample:
        epoch, place = divmod(position, len(self.records))
        if self._shuffled[0] != epoch:
            self._shuffled = epoch, np.random.RandomState([self.seed, epoch]).permutation(len(self.records))
        np.random.seed([self.seed, 1, position])
        random.seed(f"{self.seed} {position}")
        draw_seed = int(np.random.SeedSequence([self.seed, 2, position]).generate_state(1)[0])
        skipped: list[str] = []
        while len(skipped) < (MOST_BAD if self.skip_bad else 1):
            record = self.records[self._shuffled[1][(place + len(skipped)) % len(self.records)]]
            try:
                return {**self.mapper(record), "draw_seed": draw_seed, "skipped": skipped}
            except DataError as error:
                # Raised in a loading process, it would arrive with that process's traceback in its message.
                skipped.append(str(error))
        return BadSample(skipped[-1])


class PositionSampler(Sampler):
    """Positions of the stream from ``start`` on, those of this worker process of a distributed run."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        position = self.start + comm.get_rank()
        while True:
            yield position
            position += comm.get_world_size()


def build_train_loader(
    records: list[dict],
    mapper: Callable[[dict], dict],
    batch: int,
    seed: int,
    start_iter: int,
    workers: int,
    skip_bad: bool = False,
    parts: int = 1,
) -> DataLoader:
    """Batches of the stream as lists of dicts, beginning with those of iteration ``start_iter``.

    Args:
        records: detectron2's list of dicts.
        mapper: dict -> sample.
        batch: samples of one iteration, all processes together.
        seed: decides order and augmentation.
        start_iter: 0, or where a resumed run goes on.
        workers: loading processes of each training process.
        skip_bad: see :class:`EndlessDataset`.
        parts: into how many parts a process's share of a batch will be cut, see :class:`TrainStream`.

    Raises:
        OptionError: if the processes cannot share a batch evenly, or a share has fewer samples than parts.
    """
    world = comm.get_world_size()
    if batch % world:
        raise OptionError(f"SOLVER.IMS_PER_BATCH is {batch}, which {world} processes cannot share evenly")
    share = batch // world
    if not 1 <= parts <= share:
        raise OptionError(
            f"SOLVER.ACCUMULATE is {parts}, but a process has {share} images of a batch: from 1 to {share} parts are "
            "possible"
        )
    return WatchedLoader(
        EndlessDataset(records, mapper, seed, skip_bad),
        batch_size=share,
        sampler=PositionSampler(start_iter * batch),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=outlast_sigterm,
    )


class TrainStream:
    """The batches of a run, in parts; loading starts again, at the same position, where a process of it has died.

    Args:
        build_loader: first iteration -> loader, see :func:`build_train_loader`.
        parts: into how many parts this process's share of a batch is cut.
        start_iter: 0, or where a resumed run goes on.
    """

    def __init__(self, build_loader: Callable[[int], DataLoader], parts: int, start_iter: int) -> None:
        self._build_loader, self._parts, self._iteration = build_loader, parts, start_iter
        self._batches = iter(build_loader(start_iter))

    def next(self) -> tuple[list[list[dict]], list[str]]:
        """The next batch's parts, and what was left out of it.

        Raises:
            DataError: a file cannot be used, and may not be left out.
            LoaderError: loading processes die again and again.
        """
        batch = self._next_batch()
        self._iteration += 1
        for sample in batch:
            if isinstance(sample, BadSample):
                raise DataError(f"{sample.message} (--skip-bad trains without such files)")
        cuts = [len(batch) * part // self._parts for part in range(self._parts + 1)]
        skipped = [message for sample in batch for message in sample.pop("skipped", ())]
        return [batch[start:end] for start, end in zip(cuts, cuts[1:], strict=False)], skipped

    def close(self) -> None:
        """Ends the loading processes."""
        self._batches.close()

    def _next_batch(self) -> list:
        try:
            return next(self._batches)
        except LoaderError as error:
            logger.warning("%s. Loading starts again at iteration %d", error, self._iteration)
            self._batches = iter(self._build_loader(self._iteration))
            return next(self._batches)


class _Mapped(Dataset):
    def __init__(self, records: list[dict], mapper: Callable[[dict], dict]) -> None:
        self.records, self.mapper = records, mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict | BadSample:
        try:
            return self.mapper(self.records[index])
        except DataError as error:
            return BadSample(str(error))


def by_shape(records: list[dict]) -> list[dict]:
    """Test records in another order: images of like shape follow each other, so that a batch needs little padding.

    With the short sides resized to one length, images of one aspect ratio are of one size. Only the heads of the
    files are read; a file that cannot be read comes first, and is found to be bad when it is loaded.
    """
    with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
        shapes = list(pool.map(_shape, records))
    return [records[place] for place in sorted(range(len(records)), key=lambda place: shapes[place])]


def _shape(record: dict) -> tuple[float, int]:
    try:
        height, width = image_size(record["file_name"])
    except DataError:
        return (0.0, 0)
    return (height / width, height)


def process_share(records: list[dict]) -> list[dict]:
    """The records of a test set that are this process's."""
    return records[comm.get_rank() :: comm.get_world_size()]


def build_test_loader(
    records: list[dict], mapper: Callable[[dict], dict], batch: int, workers: int, done: int = 0
) -> DataLoader:
    """Every record once, in order, shared among processes; batches hold a :class:`BadSample` where files are bad.

    Args:
        records: detectron2's list of dicts.
        mapper: dict -> sample.
        batch: samples of a batch.
        workers: loading processes of each process.
        done: how many records of this process's share are left out at the front.
    """
    mine = process_share(records)[done:]
    return WatchedLoader(
        _Mapped(mine, mapper),
        batch_size=batch,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=outlast_sigterm,
    )
