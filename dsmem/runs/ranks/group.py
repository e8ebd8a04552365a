"""Real ranks: one process each, started from anywhere (a notebook's cell, too), which end with whoever started them.

A launcher, `python -m dsmem.runs.ranks.launcher`, imports torch once and forks the ranks. It has a session of its own,
so all of them end by one signal: when the group is closed or a cell interrupted, when a rank dies or takes too long,
and when the launcher's pipe closes, be it that the process at its other end was killed. No port is taken for finding
each other: ranks meet through a file.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from dsmem.runs.ranks.launcher import BACKENDS
from dsmem.units import one_of, whole_number

MOST = 64  # processes on a CPU
SECONDS = 300.0
START_SECONDS = 240.0  # a first import of torch from a cold disk may take a minute
END_SECONDS = 3.0  # the launcher sees its pipe closed at once


class RankLost(RuntimeError):
    """A rank ended or took too long before all could answer; all have been ended."""


class RankGroup:
    """`world` processes that run one call after another together, each with torch's default process group.

    device: "cpu" (gloo) or "cuda" (NCCL, one GPU a rank). Use it in a `with` block: the processes start with the first
    call and end with the block. Raises ValueError where this machine has fewer GPUs, or processes cannot be forked.
    """

    def __init__(self, world: int, device: str = "cpu"):
        self.world, self.device = whole_number("world", world), one_of("device", device, BACKENDS, "where ranks run")
        if not hasattr(os, "fork"):
            raise ValueError(f"world={world} ranks are forked, which sys.platform={sys.platform!r} cannot; use Linux")
        if device == "cpu" and world > MOST:
            raise ValueError(
                f"world={world} is more processes than one machine is asked for; it must be at most {MOST} "
                "(dsmem.runs.ranks.fake_rank runs one rank of any number)"
            )
        if device == "cuda":
            import torch  # not above: whoever starts ranks on a CPU need not have it loaded

            if (count := torch.cuda.device_count()) < world:
                raise ValueError(f"world={world} wants a GPU for each rank, and there are {count} here")
        self._launcher = self._pipe = self._folder = None

    def __enter__(self) -> "RankGroup":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def ask(self, function: Callable, *args: Any, seconds: float = SECONDS, told: Callable | None = None) -> list[Any]:
        """`function(*args)` on every rank at once, found there by its name; the answers in the order of ranks.

        seconds: how long it may take, a start apart. told: called with (rank, word) whenever a rank says where it is,
        by `launcher.say`. Raises RankLost where a rank ends or takes longer, ValueError where the function does, and
        RuntimeError with the first line of any other error, the rank named. After an error all ranks are new.
        """
        try:
            if self._launcher is None:
                self._start()
            self._pipe.send((function, args, seconds))
            kind, said = self._answer(seconds + END_SECONDS, told)
        except BaseException:  # KeyboardInterrupt, too
            self.stop()
            raise
        if kind != "answers":
            raise {"ValueError": ValueError, "lost": RankLost}.get(kind, RuntimeError)(said)
        return said

    def stop(self) -> None:
        """End all processes; nothing of them is left when this returns."""
        if self._launcher is None:
            return
        self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._launcher.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._launcher.pid, signal.SIGKILL)
        self._launcher.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._launcher = self._pipe = self._folder = None

    def _start(self):
        self._folder = tempfile.mkdtemp(prefix="dsmem-ranks-")
        self._pipe, theirs = multiprocessing.Pipe()
        with theirs:
            command = [sys.executable, "-m", "dsmem.runs.ranks.launcher", str(theirs.fileno()), self._folder]
            self._launcher = subprocess.Popen(
                [*command, str(self.world), self.device],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                env=os.environ | self._environment(),
            )
        self._said(START_SECONDS)

    def _environment(self):
        """What the processes need to find the same modules, and not to get in each other's way."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        found = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        found["OMP_NUM_THREADS"] = str(max(1, cores // self.world))
        return found | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" and self.device == "cpu" else {})

    def _answer(self, seconds, told):
        """(kind, what is said) at the end of a call; `told` of what is said before."""
        while True:
            kind, said = self._said(seconds)
            if kind != "at":
                return kind, said
            if told is not None:
                told(*said)

    def _said(self, seconds):
        """The next of what the launcher says."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self._pipe.poll(seconds):
                return self._pipe.recv()
            raise RankLost(f"the {self.world} ranks did not answer within {seconds:.0f} s")
        raise RankLost(f"the process that started the {self.world} ranks ended before they could answer")
