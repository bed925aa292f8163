"""Many images in order: files are read on threads while a batch is computed, in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from san_cliptrase.errors import SanCliptraseError
from san_cliptrase.segmentation import Segmentation

READERS = 4
"""Threads that read and resize images."""


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be segmented.

    Attributes:
        image: what was given.
        error: why; its message says what to do.
    """

    image: Any
    error: Exception


def stream(
    images: Iterable[Any],
    read: Callable[[Any], tuple[np.ndarray, Tensor]],
    segment: Callable[[Sequence[np.ndarray], Sequence[Tensor]], list[Segmentation]],
    batch_size: int,
) -> Iterator[Segmentation | FailedImage]:
    """Segment images in batches; see ``Segmenter.stream``.

    Args:
        images: What ``read`` takes.
        read: An image as it is and as the model sees it; called on threads.
        segment: Called with a batch of these.
        batch_size: Images of a batch.

    Yields:
        A result per image, in order.
    """
    with ThreadPoolExecutor(READERS, thread_name_prefix="read-image") as readers:
        waiting: deque[tuple[Any, Future]] = deque()
        try:
            for image in images:
                waiting.append((image, readers.submit(read, image)))
                # While this batch is computed, the threads read the next one.
                if len(waiting) == 2 * batch_size:
                    yield from _batch([waiting.popleft() for _ in range(batch_size)], segment)
            while waiting:
                yield from _batch([waiting.popleft() for _ in range(min(batch_size, len(waiting)))], segment)
        finally:  # also when the caller stops asking
            readers.shutdown(wait=False, cancel_futures=True)


def _batch(
    jobs: Sequence[tuple[Any, Future]],
    segment: Callable[[Sequence[np.ndarray], Sequence[Tensor]], list[Segmentation]],
) -> Iterator[Segmentation | FailedImage]:
    results: list[Segmentation | FailedImage | None] = [None] * len(jobs)
    arrays, seen, places = [], [], []
    for place, (image, job) in enumerate(jobs):
        try:
            array, pixels = job.result()
        except (SanCliptraseError, TypeError, OSError) as error:
            results[place] = FailedImage(image, error)
        else:
            arrays.append(array)
            seen.append(pixels)
            places.append(place)
    for place, result in zip(places, segment(arrays, seen) if arrays else (), strict=True):
        results[place] = result
    return iter(results)
