"""Functions that a worker can be asked to call in place of a cell: they fail in every way that a cell can."""

import ctypes
import json
import os
import signal
import time
from pathlib import Path

import torch
from torch import distributed

from dsmem import Architecture, Workload
from dsmem.runs import cells
from dsmem.runs.ranks import launcher

TINY = Architecture.from_config("qwen2.5-0.5b").scaled(num_hidden_layers=2, vocab_size=1000)
OK, DIES, CRASHES, HANGS, RAISES, FULL = range(8, 14)  # by seq_len
CELLS = [(TINY, Workload(2, seq_len)) for seq_len in (OK, DIES, CRASHES, RAISES, FULL, 20)]


def number():
    """Which process this is."""
    return os.getpid()


def die(code):
    os._exit(code)


def sleep(seconds):
    time.sleep(seconds)


def fail(kind, words):
    raise kind(words)


def unsound():
    """From now on this process is said to have lost its GPU."""
    from dsmem.runs import workers

    workers.sound = lambda device: False
    return os.getpid()


def cell(*asked):
    """As `cells.cell`, but a cell of some lengths dies, crashes, hangs, raises or finds no memory.

    Each call is noted in the file that STANDINS_LOG names, before anything happens; with STANDINS_MENDED all is well.
    """
    cells.measure = _measure
    return cells.cell(*asked)


def hollow(device, arch, work, code="dsmem"):
    """Hangs, or answers at once, for what hangs is told from what is slow by the clock."""
    if work.seq_len == HANGS:
        time.sleep(600)
    return cells.question(arch, work, code) | {"outcome": "did not fit"}


def sum_of_ranks(number):
    """Each rank's number and `number` summed over all, and which process this is."""
    launcher.say("the sum")
    total = torch.tensor(distributed.get_rank() + number)
    distributed.all_reduce(total)
    return total.item(), os.getpid()


def fail_rank(which, kind, words):
    """One rank raises, the others wait for it."""
    if distributed.get_rank() == which:
        launcher.say("the sum")
        fail(kind, words)
    return sum_of_ranks(0)


def kill_rank(which):
    """One rank is killed from outside, the others wait for it."""
    launcher.say("the sum")
    if distributed.get_rank() == which:
        print("farewell", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return sum_of_ranks(0)


def exit_rank(which):
    """One rank ends without a word."""
    launcher.say("the sum")
    if distributed.get_rank() == which:
        os._exit(3)
    return sum_of_ranks(0)


def hang_rank(which):
    """One rank takes for ever, and holds Python's lock while it does."""
    launcher.say("the sum")
    if distributed.get_rank() == which:
        print("still here", flush=True)
        ctypes.PyDLL(None).sleep(60)
    return os.getpid()


_real = cells.measure


def _measure(arch, work, device, **options):
    if "STANDINS_LOG" in os.environ:
        with Path(os.environ["STANDINS_LOG"]).open("a") as log:
            log.write(json.dumps([os.getpid(), work.seq_len]) + "\n")
    if not os.environ.get("STANDINS_MENDED"):
        _go_wrong(work.seq_len)
    time.sleep(float(os.environ.get("STANDINS_SLEEP", 0)))
    return _real(arch, work, device, **options)


def _go_wrong(seq_len):
    if seq_len == DIES:
        os._exit(7)
    if seq_len == CRASHES:
        ctypes.string_at(0)
    if seq_len == HANGS:
        time.sleep(600)
    if seq_len == RAISES:
        raise KeyError("lm_head")
    if seq_len == FULL:
        raise torch.OutOfMemoryError("CUDA out of memory")


def poison_the_gpu():
    """An index out of bounds, which stops every later call of this process on its GPU."""
    table, index = torch.zeros(2, device="cuda"), torch.tensor([5], device="cuda")
    table[index].sum().item()


def gpu_sum():
    return torch.ones(3, device="cuda").sum().item()


def command(folder, resume=None):
    """A whole command on fake tensors, to be killed in the middle."""
    from dsmem.runs.gpu import run_all

    run_all(folder, "fake", resume=resume, cells=CELLS, tests=None, measuring=cell)
