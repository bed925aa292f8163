"""Loading whose every draw follows from (seed, position), so that runs can be paired and resumed exactly."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from san_cliptrase.images import DataError, image_size

HEADS_AT_ONCE = 16
"""Files whose heads are read side by side: on a network's disk each one is a wait."""


class EndlessDataset(Dataset):
    """The training stream as a map: position 0, 1, 2, ... -> a sample, epoch after epoch, reshuffled for each.

    Sample and augmentation depend on ``seed`` and the position alone: not on the number of workers, on what was
    loaded before, or on where a resumed run starts.
    """

    def __init__(self, records: list[dict], mapper: Callable[[dict], dict], seed: int) -> None:
        if not records:
            raise ValueError("the training set is empty")
        self.records, self.mapper, self.seed = records, mapper, seed
        self._shuffled = (-1, np.empty(0, np.int64))

    def __getitem__(self, position: int) -> dict:
        epoch, place = divmod(position, len(self.records))
        if self._shuffled[0] != epoch:
            self._shuffled = epoch, np.random.RandomState([self.seed, epoch]).permutation(len(self.records))
        np.random.seed([self.seed, 1, position])
        random.seed(f"{self.seed} {position}")
        return self.mapper(self.records[self._shuffled[1][place]])


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
    records: list[dict], mapper: Callable[[dict], dict], batch: int, seed: int, start_iter: int, workers: int
) -> DataLoader:
    """Batches of the stream as lists of dicts, beginning with those of iteration ``start_iter``.

    Args:
        records: detectron2's list of dicts.
        mapper: dict -> sample.
        batch: samples of one iteration, all processes together.
        seed: decides order and augmentation.
        start_iter: 0, or where a resumed run goes on.
        workers: loading processes of each training process.

    Raises:
        ValueError: if the processes cannot share a batch evenly.
    """
    world = comm.get_world_size()
    if batch % world:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {batch}, which {world} processes cannot share evenly")
    return DataLoader(
        EndlessDataset(records, mapper, seed),
        batch_size=batch // world,
        sampler=PositionSampler(start_iter * batch),
        num_workers=workers,
        collate_fn=list,
        persistent_workers=workers > 0,
    )


@dataclass(frozen=True)
class BadSample:
    """Stands in a test batch for a sample whose files cannot be used; ``message`` names the file and says why."""

    message: str


class _Mapped(Dataset):
    def __init__(self, records: list[dict], mapper: Callable[[dict], dict]) -> None:
        self.records, self.mapper = records, mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict | BadSample:
        try:
            return self.mapper(self.records[index])
        except DataError as error:
            # Raised in a loading process, it would arrive with that process's traceback in its message.
            return BadSample(str(error))


def by_shape(records: list[dict]) -> list[dict]:
    """Test records in another order: pictures of like shape follow each other, so that a batch needs little padding.

    With the short sides resized to one length, pictures of one aspect ratio are of one size. Only the heads of the
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
    return DataLoader(_Mapped(mine, mapper), batch_size=batch, num_workers=workers, collate_fn=list)
