"""The processes of a run: this one, those that torchrun has started, or those that are started here."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import socket
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch
from detectron2.utils import comm

from san_cliptrase.engine.preemption import INTERRUPTED
from san_cliptrase.errors import LaunchError


def run_processes(run: Callable[[Namespace], None], args: Namespace) -> None:
    """Calls ``run(args)`` in every process of a run.

    Under torchrun, this process joins the others. Otherwise ``--num-gpus`` times ``--num-machines`` processes make up
    the run: detectron2's launch starts this machine's, one a GPU; with MODEL.DEVICE cpu on the command line they
    compute on the CPU and talk through gloo.

    Raises:
        LaunchError: there are not so many GPUs, or numbers that are none, or the processes cannot meet at --dist-url.
        SystemExit: a process that was started here has ended with that status.
    """
    if dist.is_torchelastic_launched():
        local, size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        on_cpu = _asks_for_cpu(args) or not torch.cuda.is_available()
        if size > (gpus := torch.cuda.device_count()) and not on_cpu:
            raise LaunchError(f"torchrun started {size} processes, but this machine has {gpus} GPUs")
        _join_group(local, size, on_cpu)
        try:
            run(args)
        finally:
            dist.destroy_process_group()
        return
    here, gpus = args.num_gpus, torch.cuda.device_count()
    if min(here, args.num_machines) < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise LaunchError(
            f"--num-gpus {here} --num-machines {args.num_machines} --machine-rank {args.machine_rank}: there is one "
            "GPU and one machine at least, and machines are counted from 0"
        )
    if here * args.num_machines == 1:
        run(args)
        return
    on_cpu = _asks_for_cpu(args)
    if here > gpus and not on_cpu:
        raise LaunchError(
            f"--num-gpus {here}, but this machine has {gpus} GPUs (with MODEL.DEVICE cpu, they share the CPU)"
        )
    started = functools.partial(_without_ctrl_c, run)
    with _meeting_place(args) as url, _passing_signals_on():
        try:
            if on_cpu:
                mp.spawn(_cpu_worker, nprocs=here, args=(started, args, url))
            else:
                launch(started, here, args.num_machines, args.machine_rank, url, args=(args,))
        except mp.ProcessExitedException as error:
            raise SystemExit(error.exit_code if error.exit_code >= 0 else 128 - error.exit_code) from error


def _without_ctrl_c(run: Callable[[Namespace], None], args: Namespace) -> None:
    """Calls ``run(args)`` in a process that was started here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(args)


def _asks_for_cpu(args: Namespace) -> bool:
    return any(key == "MODEL.DEVICE" and value == "cpu" for key, value in zip(args.opts, args.opts[1:], strict=False))


@contextmanager
def _meeting_place(args: Namespace) -> Iterator[str]:
    """The URL at which the processes meet: a file of their own where --dist-url is "auto", so that no port is taken.

    Raises:
        LaunchError: several machines and no URL, one that is none, or a port of this machine that is in use.
    """
    if args.dist_url == "auto":
        if args.num_machines > 1:
            raise LaunchError(
                f"--num-machines {args.num_machines}: say where they meet, by --dist-url tcp://HOST:PORT of the first "
                "machine, the same on each"
            )
        with tempfile.TemporaryDirectory(prefix="san_cliptrase-") as folder:
            yield f"file://{folder}/meeting"
        return
    try:
        place = urlsplit(args.dist_url)
        known = place.scheme == "file" or (place.scheme == "tcp" and place.hostname and place.port)
    except ValueError:  # a port that is no number
        known = False
    if not known:
        raise LaunchError(f"--dist-url {args.dist_url!r:.100} is no place to meet: tcp://HOST:PORT is wanted")
    if place.scheme == "tcp" and args.machine_rank == 0:
        _check_port(args.dist_url, place.hostname, place.port)
    yield args.dist_url


def _check_port(url: str, host: str, port: int) -> None:
    try:
        with socket.socket() as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's own does
            own.bind((host, port))
    except OSError as error:
        raise LaunchError(
            f"--dist-url {url}: the first machine cannot listen there ({error.strerror or error}). Choose another port"
        ) from error


def _cpu_worker(local: int, run: Callable[[Namespace], None], args: Namespace, url: str) -> None:
    rank, world = args.machine_rank * args.num_gpus + local, args.num_machines * args.num_gpus
    _join_group(local, args.num_gpus, on_cpu=True, init_method=url, rank=rank, world_size=world)
    run(args)


def _join_group(local: int, size: int, on_cpu: bool, **place: str | int) -> None:
    """Joins the group of all processes, and detectron2's group of those on this machine."""
    if not on_cpu:
        torch.cuda.set_device(local)
    dist.init_process_group("gloo" if on_cpu else "nccl", **place)
    for first in range(0, dist.get_world_size(), size):
        ranks = list(range(first, first + size))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()


@contextmanager
def _passing_signals_on() -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C go on to the processes that were started, which save and end; then this one ends.

    Those processes leave Ctrl-C, which a terminal sends to all, to this one. A second one ends them where they are.

    Raises:
        SystemExit: Ctrl-C came: the status is its own, whatever the processes ended with.
    """
    interrupts = []

    def end_all(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            interrupts.append(number)
        for child in multiprocessing.active_children():
            if len(interrupts) > 1:
                child.kill()
            else:
                child.terminate()

    before = {number: signal.signal(number, end_all) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except (mp.ProcessRaisedException, SystemExit):
        if interrupts:
            raise SystemExit(INTERRUPTED) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
