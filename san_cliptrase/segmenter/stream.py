"""Many images in order: files are read on threads while a batch is computed, in constant memory."""

from __future__ import annotations

import os
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


@dataclass(frozen=True)
class ReadImage:
    """An image that is ready to be segmented.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, as it is.
        seen: (3, h, w) uint8, as the model sees it.
        source: its path; None for an image from memory.
    """

    pixels: np.ndarray
    seen: Tensor
    source: str | os.PathLike[str] | None


Segment = Callable[[Sequence[ReadImage]], list[Segmentation]]


def stream(
    images: Iterable[Any], read: Callable[[Any], ReadImage], segment: Segment, batch_size: int
) -> Iterator[Segmentation | FailedImage]:
    """Segment images in batches; see ``Segmenter.stream``.

    Args:
        images: What ``read`` takes.
        read: Called on threads.
        segment: Called with what was read of a batch.
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


def _batch(jobs: Sequence[tuple[Any, Future]], segment: Segment) -> Iterator[Segmentation | FailedImage]:
    read: list[ReadImage | FailedImage] = []
    for image, job in jobs:
        try:
            read.append(job.result())
        except (SanCliptraseError, TypeError, OSError) as error:
            read.append(FailedImage(image, error))
    good = [one for one in read if isinstance(one, ReadImage)]
    segmented = iter(segment(good) if good else ())
    return (next(segmented) if isinstance(one, ReadImage) else one for one in read)
