import itertools
import logging
import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
from detectron2.utils import comm
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from san_cliptrase.data import loader
from san_cliptrase.data.loader import (
    BadSample,
    EndlessDataset,
    TrainStream,
    build_test_loader,
    build_train_loader,
    by_shape,
)
from san_cliptrase.errors import DataError, LoaderError

RECORDS = [{"index": index} for index in range(5)]


def draw(record):
    """A mapper whose augmentation uses both generators that real ones use."""
    return {**record, "numpy": float(np.random.rand()), "python": random.random()}


def stream(start_iter=0, workers=0, seed=0, iterations=6):
    loader = build_train_loader(RECORDS, draw, 2, seed, start_iter, workers)
    return list(itertools.islice(loader, iterations))


def test_worker_processes_change_nothing():
    assert stream(workers=2) == stream(workers=0)


def test_a_resumed_run_goes_on_where_the_other_stopped():
    assert stream(start_iter=4, iterations=2) == stream()[4:]


def test_what_ran_before_does_not_matter():
    expected = stream()
    np.random.seed(99)
    random.seed(99)
    assert stream() == expected


def test_every_epoch_shows_every_record_once_in_its_own_order():
    dataset = EndlessDataset(RECORDS, draw, seed=0)
    epochs = [[dataset[5 * epoch + place]["index"] for place in range(5)] for epoch in range(4)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_same_record_is_augmented_anew_at_every_position():
    dataset = EndlessDataset(RECORDS[:1], draw, seed=0)
    samples = [dataset[position] for position in range(10)]
    for generator in ("numpy", "python"):
        assert len({sample[generator] for sample in samples}) == 10


def test_another_seed_gives_another_order_and_augmentation():
    first, second = (list(itertools.chain(*stream(seed=seed))) for seed in (0, 1))
    assert [sample["index"] for sample in first] != [sample["index"] for sample in second]
    assert first[0]["python"] != second[0]["python"]


def in_process(monkeypatch, rank, world):
    monkeypatch.setattr(comm, "get_world_size", lambda: world)
    monkeypatch.setattr(comm, "get_rank", lambda: rank)


def test_processes_share_each_batch(monkeypatch):
    whole = stream()
    parts = []
    for rank in range(2):
        in_process(monkeypatch, rank, 2)
        parts.append(stream())
    assert [[*a, *b] for a, b in zip(*parts, strict=True)] == whole


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch):
    in_process(monkeypatch, 0, 3)
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 2, which 3 processes"):
        stream()


def test_an_empty_training_set_is_refused():
    with pytest.raises(ValueError, match="empty"):
        EndlessDataset([], draw, 0)


def test_test_records_come_once_and_in_order(monkeypatch):
    loader = build_test_loader(RECORDS, dict, batch=2, workers=0)
    assert [[r["index"] for r in batch] for batch in loader] == [[0, 1], [2, 3], [4]]
    in_process(monkeypatch, 1, 2)
    assert [r["index"] for batch in build_test_loader(RECORDS, dict, 1, 0) for r in batch] == [1, 3]


def test_pictures_of_like_shape_come_together_each_once(tmp_path):
    sizes = [(40, 60), (60, 40), (80, 120), (40, 60), (50, 50)]  # width, height
    records = [{"file_name": str(tmp_path / f"{index}.png"), "index": index} for index in range(6)]
    for record, size in zip(records, sizes, strict=False):
        Image.new("L", size).save(record["file_name"])
    # The last file is missing: it is found to be bad at once, not after hours.
    assert [record["index"] for record in by_shape(records)] == [5, 1, 4, 0, 3, 2]


class Announced:
    """A mapper that tells, from whichever process it runs in, which record it has begun to load."""

    def __init__(self, event):
        self.event = event

    def __call__(self, record):
        if record["index"] == 4:
            self.event.set()
        return record


def test_a_loading_process_works_while_the_model_does():
    for workers, timeout in ((1, 60), (0, 0)):
        event = multiprocessing.get_context("fork").Event()
        batches = iter(build_test_loader(RECORDS, Announced(event), batch=2, workers=workers))
        next(batches)
        next(batches)
        # Here the model would have the second batch: is the third being loaded?
        assert event.wait(timeout) == (workers == 1)


def take(stream, count):
    """The indices of the next samples, part by part."""
    return [[[sample["index"] for sample in part] for part in stream.next()[0]] for _ in range(count)]


def training(mapper, workers=0, parts=1, skip_bad=False, start_iter=0):
    return TrainStream(
        lambda start: build_train_loader(RECORDS, mapper, 2, 0, start, workers, skip_bad), parts, start_iter
    )


class Dying:
    """A mapper in whose process the kernel's memory killer strikes, the first so many times that it gets record 3."""

    def __init__(self, folder, times):
        self.folder, self.times = folder, times

    def __call__(self, record):
        deaths = len(list(self.folder.iterdir()))
        if record["index"] == 3 and deaths < self.times:
            (self.folder / str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(record)


@pytest.fixture
def quick_checks(monkeypatch):
    # torch has bound its five seconds as a default.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


def test_loading_goes_on_at_the_same_place_after_a_loading_process_died(tmp_path, caplog, quick_checks):
    expected = take(training(draw), 5)
    handler = signal.getsignal(signal.SIGCHLD)
    stream = training(Dying(tmp_path, 1), workers=1)
    with caplog.at_level(logging.WARNING):
        assert take(stream, 5) == expected
    stream.close()
    assert "DataLoader worker (pid" in caplog.text
    assert "Loading starts again at iteration" in caplog.text
    assert signal.getsignal(signal.SIGCHLD) == handler, "torch's would raise in the middle of an optimiser's step"


def test_loading_processes_that_die_again_end_the_run(tmp_path, quick_checks):
    stream = training(Dying(tmp_path, 100), workers=1)
    with pytest.raises(LoaderError, match="exited unexpectedly.*Was it killed for want of memory"):
        take(stream, 5)
    stream.close()


def test_errors_of_our_own_code_are_not_taken_for_a_dead_process():
    def broken(record):
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake") as caught:
        take(training(broken, workers=1), 1)
    assert not isinstance(caught.value, LoaderError)


def test_loading_processes_outlast_sigterm_for_a_while(monkeypatch):
    monkeypatch.setattr(loader, "GRACE", 0.3)
    pid = os.fork()
    if pid == 0:
        loader.outlast_sigterm(0)
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            signal.pause()
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGALRM


def spoilt(record):
    if record["index"] in (1, 2):
        raise DataError(f"cannot read {record['index']}.png")
    return draw(record)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_ends_training_by_its_name(workers):
    with pytest.raises(DataError, match=r"^cannot read [12]\.png \(--skip-bad trains without such files\)$"):
        take(training(spoilt, workers), 3)


def test_with_skip_bad_the_next_picture_takes_the_place_of_a_bad_one():
    stream = training(spoilt, skip_bad=True)
    messages, seen = [], []
    for _ in range(5):
        ((*batch,),), skipped = stream.next()
        seen += [sample["index"] for sample in batch]
        messages += skipped
    assert len(seen) == 10
    assert set(seen) == {0, 3, 4}
    assert set(messages) == {"cannot read 1.png", "cannot read 2.png"}
    assert len(messages) >= 4, "both in both epochs"
    resumed = training(spoilt, skip_bad=True, start_iter=3)
    assert sum(take(resumed, 2), []) == [seen[6:8], seen[8:10]]


def test_many_bad_files_after_one_another_end_training_all_the_same():
    def bad(record):
        raise DataError("all bad")

    with pytest.raises(DataError, match="all bad"):
        take(training(bad, skip_bad=True), 1)
    assert isinstance(EndlessDataset(RECORDS, bad, 0)[0], BadSample)


def test_a_batch_is_cut_into_parts():
    assert take(training(draw, parts=2), 2) == [[[a], [b]] for ((a, b),) in take(training(draw), 2)]
