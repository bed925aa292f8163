"""A run that is killed, pre-empted or damaged goes on as if nothing had happened."""

import csv
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from san_cliptrase.commands.main import train_net as main
from san_cliptrase.data.mapper import SemanticMapper
from san_cliptrase.engine import hooks, preemption
from san_cliptrase.engine.defaults import load_config
from san_cliptrase.engine.preemption import Preempted
from san_cliptrase.engine.trainer import Trainer
from san_cliptrase.errors import CheckpointError
from tests.engine.killed import CONFIG, MOMENTS, train_and_die


@pytest.fixture
def overrides(tiny_overrides):
    """Function of a folder and changes: a run of four iterations, checkpoints and evaluations after every second.

    Of its queries, a third more of all lose their regions in each iteration.
    """

    def settings(folder, **changes):
        kept = {"vis_images": 0, "test__max_images": 1, "model__san__query_init__anneal": 0.75}
        return tiny_overrides(output_dir=str(folder), **kept, **changes)

    return settings


@pytest.fixture
def train(overrides):
    """Function of a folder and whether to resume: trains there."""

    def run(folder, resume=False, seed=0, **changes):
        torch.manual_seed(seed)
        trainer = Trainer(load_config(CONFIG, overrides(folder, **changes)), resume)
        trainer.train()
        return trainer

    return run


def results(folder):
    """What a run leaves: the losses of each iteration, its evaluations without their times, its final weights."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    losses = [(line["iteration"], line["total_loss"]) for line in lines if "total_loss" in line]
    # All else that is written of an iteration or an evaluation, but for times.
    timed = ("time", "data_time", "eta_seconds")
    logged = [{name: value for name, value in line.items() if name not in timed} for line in lines]
    with open(folder / "evaluations.csv", newline="") as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    weights = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    return SimpleNamespace(losses=losses, logged=logged, rows=rows, weights=weights)


def check_equal(folder, expected):
    found = results(folder)
    assert found.losses == expected.losses
    assert found.logged == expected.logged
    assert [iteration for iteration, _ in found.losses] == [0, 1, 2, 3]
    assert found.rows == expected.rows
    assert found.weights.keys() == expected.weights.keys()
    assert all(torch.equal(value, expected.weights[key]) for key, value in found.weights.items())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What the uninterrupted run leaves; made by the first test that asks for it."""
    return SimpleNamespace(folder=tmp_path_factory.mktemp("straight"), results=None)


@pytest.fixture
def expected(straight, train):
    if straight.results is None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the processes that are killed: sums depend on it
        train(straight.folder)
        straight.results = results(straight.folder)
        torch.set_num_threads(threads)
    return straight.results


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(expected, train, overrides, tiny_data, tmp_path, moment):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.engine.killed"])
    child = processes.Process(target=train_and_die, args=(tiny_data, overrides(tmp_path), moment))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    resumed = train(tmp_path, resume=True, seed=99 if "first" not in moment else 0)
    assert resumed.start_iter == (0 if "first" in moment else 4 if "final" in moment else 2)
    check_equal(tmp_path, expected)
    assert not list(tmp_path.glob(".unfinished-*"))


@pytest.mark.parametrize("damage", ["cut off", "one byte altered", "empty", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(expected, train, straight, tmp_path, caplog, damage):
    for name in ("model_0000001.pth", "model_0000003.pth", "evaluations.csv", "metrics.json"):
        (tmp_path / name).write_bytes((straight.folder / name).read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    path = tmp_path / "model_0000003.pth"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut off": content[: len(content) // 2], "empty": b""}.get(damage, content))
    if damage == "gone":
        path.unlink()
    with caplog.at_level(logging.WARNING):
        assert train(tmp_path, resume=True, seed=99).start_iter == 2
    assert damage == "gone" or "model_0000003.pth" in caplog.text
    check_equal(tmp_path, expected)


def test_weights_without_a_state_of_training_are_not_resumed(train, straight, expected, tmp_path):
    weights = torch.load(straight.folder / "model_0000003.pth", weights_only=True)["model"]
    torch.save({"model": weights}, tmp_path / "model_0000003.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    with pytest.raises(CheckpointError, match="no state of training.*MODEL.WEIGHTS"):
        train(tmp_path, resume=True)


def test_without_any_readable_checkpoint_nothing_begins_anew_unasked(train, tmp_path):
    (tmp_path / "model_0000001.pth").write_bytes(b"nothing")
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        train(tmp_path, resume=True)


def test_a_new_run_in_an_old_folder_never_goes_on_from_the_old_weights(expected, train, straight, tmp_path):
    for name in ("model_0000003.pth", "model_final.pth", "last_checkpoint", "metrics.json", "evaluations.csv"):
        (tmp_path / name).write_bytes((straight.folder / name).read_bytes())

    def broken(trainer):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "run_step", broken)
        train(tmp_path)  # dies before its first checkpoint
    assert not (tmp_path / "last_checkpoint").exists()
    kept = {path.name for path in (tmp_path / "earlier_run_1").iterdir()}
    assert kept == {"model_0000003.pth", "model_final.pth", "last_checkpoint", "metrics.json", "evaluations.csv"}
    assert train(tmp_path, resume=True).start_iter == 0
    check_equal(tmp_path, expected)


def signal_in(monkeypatch, owner, name, call, *numbers):
    """Signals arrive when ``owner.name`` is called for the ``call``-th time."""
    original, calls = getattr(owner, name), []

    def signalled(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalled)


@pytest.mark.parametrize(
    ("owner", "name", "call", "saved"),
    [
        (Trainer, "run_step", 3, "model_0000002.pth"),
        (Trainer, "run_step", 4, "model_0000003.pth"),  # before the evaluation of the end
        (hooks, "evaluate", 2, "model_0000001.pth"),
        (hooks, "evaluate", 1, None),  # nothing to save yet
    ],
)
@pytest.mark.parametrize(
    ("numbers", "status"),
    [((signal.SIGTERM,), 143), ((signal.SIGINT,), 130), ((signal.SIGTERM, signal.SIGINT), 143)],
    ids=["SIGTERM", "Ctrl-C", "Ctrl-C after SIGTERM"],
)
def test_a_signal_saves_and_the_run_goes_on(
    expected, train, tmp_path, monkeypatch, owner, name, call, saved, numbers, status
):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)]
    with monkeypatch.context() as patch:
        signal_in(patch, owner, name, call, *numbers)
        with pytest.raises(Preempted) as ended:
            train(tmp_path)
    assert ended.value.code == status
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)] == before
    assert saved is None or (tmp_path / "last_checkpoint").read_text() == saved
    train(tmp_path, resume=True, seed=99 if saved else 0)
    check_equal(tmp_path, expected)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_ends_with_the_status_of_the_signal(overrides, tmp_path, monkeypatch, capfd, number, status):
    signal_in(monkeypatch, Trainer, "run_step", 2, number)
    assert main(["--config", str(CONFIG), *overrides(tmp_path)]) == status
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_second_ctrl_c_ends_the_run_where_it_is(overrides, tmp_path, monkeypatch, capsys):
    signal_in(monkeypatch, Trainer, "run_step", 2, signal.SIGINT, signal.SIGINT)
    assert main(["--config", str(CONFIG), *overrides(tmp_path)]) == 130
    assert not (tmp_path / "last_checkpoint").exists()
    assert "stopped" in capsys.readouterr().err.splitlines()[-1]


def test_a_stuck_loading_process_does_not_keep_a_run_from_ending(expected, train, tmp_path, monkeypatch):
    original, parent, calls = SemanticMapper.__call__, os.getpid(), []

    def stopped_at_the_fifth(self, record):
        calls.append(1)
        if os.getpid() != parent and len(calls) == 5:  # the first of iteration 2
            (tmp_path / "stopped").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(self, record)

    def ask_to_end():
        while not (tmp_path / "stopped").exists():
            time.sleep(0.05)
        os.kill(parent, signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(preemption, "PATIENCE", 0.2)
        patch.setattr(SemanticMapper, "__call__", stopped_at_the_fifth)
        threading.Thread(target=ask_to_end, daemon=True).start()
        with pytest.raises(Preempted):
            train(tmp_path, dataloader__num_workers=1, solver__checkpoint_period=100)
    # The batch before is in the process's hands until it has been received.
    assert (tmp_path / "last_checkpoint").read_text() in ("model_0000000.pth", "model_0000001.pth")
    for child in multiprocessing.active_children():
        child.join(10)
    assert not multiprocessing.active_children()
    train(tmp_path, resume=True, seed=99)
    check_equal(tmp_path, expected)
