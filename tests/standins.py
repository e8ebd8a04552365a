"""Functions that a worker can be asked to call in place of a cell: they fail in every way that a cell can."""

import ctypes
import json
import os
import time
from pathlib import Path

import torch

from dsmem import Architecture, Workload
from dsmem.runs import cells

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
