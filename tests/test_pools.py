"""Processes of a pool do not outlive what asked for them, nor hold it up."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from san_cliptrase.errors import LoaderError
from san_cliptrase.pools import process_pool
from tests.conftest import ROOT


def test_a_stopped_process_does_not_hold_up_ctrl_c():
    with pytest.raises(KeyboardInterrupt), process_pool(2) as pool:
        stopped = pool.submit(os.getpid).result()
        os.kill(stopped, signal.SIGSTOP)
        raise KeyboardInterrupt
    assert wait_until(lambda: not multiprocessing.active_children())


def test_a_process_that_dies_is_told_in_our_own_words():
    with pytest.raises(LoaderError, match="has died"), process_pool(1) as pool:
        pool.submit(partial(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL)).result()


PARENT = "import os, time; from san_cliptrase.pools import process_pool\n"
PARENT += "with process_pool(2) as pool: print(pool.submit(os.getpid).result(), flush=True); time.sleep(60)"


def test_processes_end_with_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=ROOT)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not is_running(child))


def is_running(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().split()[2] != "Z"  # nobody may be there to take note of its end
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
