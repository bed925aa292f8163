"""Files written whole or not at all, in parallel, each only once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from san_cliptrase.errors import DataError
from san_cliptrase.files import remove_unfinished_of, write_whole
from san_cliptrase.pools import process_pool

FILES_PER_MESSAGE = 16


@dataclass(frozen=True)
class Task:
    """One file to write.

    Attributes:
        source: the published file.
        target: the file to write.
        convert: function of ``source`` and of the path to write to; it must be picklable.
    """

    source: Path
    target: Path
    convert: Callable[[Path, Path], None]


def run_tasks(tasks: Sequence[Task], title: str, workers: int) -> tuple[int, list[str]]:
    """Carries out the tasks whose target is not there yet.

    Args:
        tasks: what to write.
        title: of the progress bar.
        workers: processes.

    Returns:
        How many files were written, and what was wrong with the sources of the others.
    """
    # A target is moved into place when it is whole: that it exists says that it is finished.
    missing = [task for task in tasks if not task.target.exists()]
    problems = [problem for problem in map_files(_run, missing, title, workers) if problem]
    return len(missing) - len(problems), problems


def _run(task: Task) -> str:
    remove_unfinished_of(task.target)
    try:
        write_whole(task.target, partial(task.convert, task.source))
    except DataError as error:
        return str(error)
    return ""


def map_files(function: Callable[[Any], Any], items: Sequence[Any], title: str, workers: int) -> Iterator[Any]:
    """Results of a function for each item, in order, with a progress bar.

    Args:
        function: it must be picklable where there are several workers, as must be its items.
        items: its arguments.
        title: of the progress bar.
        workers: processes; 1 stays in this one.
    """
    with _mapper(workers if len(items) > FILES_PER_MESSAGE else 1) as mapped:
        yield from tqdm(mapped(function, items), title, len(items), disable=not items)


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    if workers <= 1:
        yield map
        return
    with process_pool(workers) as pool:
        yield partial(pool.map, chunksize=FILES_PER_MESSAGE)
