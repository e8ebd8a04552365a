"""`python -m dsmem.runs.ranks.launcher`: forks the ranks of a `RankGroup`, hands calls on and watches who answers.

It is started by `group.RankGroup` alone. It has one thread and imports what the ranks need before it forks them.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
GRACE_SECONDS = 1.0
"""How long others may still speak once a rank has failed: who failed first is told by then."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h

_pipe = None  # of this process, where it is a rank


def say(word: str) -> None:
    """Tell the group where this rank is, for its bar and for what is said if the rank is lost; elsewhere nothing."""
    if _pipe is not None:
        _pipe.send(("at", time.time(), word))


class Rank:
    """One forked process, seen from the launcher. folder: its own and the others'. at: where it last said it was."""

    def __init__(self, rank: int, world: int, device: str, folder: Path):
        self.rank, self.world, self.log, self.at = rank, world, Path(folder, f"rank{rank}.log"), "its start"
        self.pipe, theirs = multiprocessing.Pipe()
        fork = multiprocessing.get_context("fork")
        self.process = fork.Process(target=_serve, args=(theirs, rank, world, device, folder, os.getpid()))
        self.process.start()
        theirs.close()

    def end(self) -> None:
        """Kill it, whatever it is at."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def lost(self) -> str:
        """What there is to say of one that ended without a word."""
        self.process.join(GRACE_SECONDS)
        code = self.process.exitcode
        how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
        return f"{self} {how} in {self.at}{self.last_line()}"

    def last_line(self) -> str:
        """The last line that the process itself has written, for the end of a sentence."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        lines = [line.strip() for line in lines if line.strip()]
        return f"; its last line: {lines[-1]}" if lines else ""

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world}"


def main(pipe: int, folder: str, world: int, device: str) -> None:
    """Serve the group at the other end of `pipe`, a file's number, until it closes; then end the whole session."""
    _import_all()
    try:
        with Connection(pipe) as group, contextlib.suppress(EOFError, OSError):
            group.send(("started", None))
            ranks, times = [], 0
            while True:
                function, args, seconds = group.recv()
                if not ranks:
                    (place := Path(folder, str(times := times + 1))).mkdir()
                    ranks = [Rank(rank, world, device, place) for rank in range(world)]
                if not _answer(group, ranks, (function, args), seconds):
                    ranks = []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)


def _import_all():
    """What takes seconds to import, once for all ranks: what torch leaves to the first step of an optimizer, too."""
    import torch._dynamo
    import torch.distributed.optim  # noqa: F401

    from dsmem.runs.ranks import engines, step  # noqa: F401

    gc.collect()
    gc.freeze()  # what is shared with the ranks: a collection there need not touch it


def _answer(group, ranks, call, seconds):
    """Hand a call to all ranks and tell the group what comes back; where one failed, end all and return False."""
    for rank in ranks:
        with contextlib.suppress(BrokenPipeError):  # one that is dead is noticed below
            rank.pipe.send(call)
    answers, failed, end = {}, {}, time.monotonic() + seconds
    while len(answers) + len(failed) < len(ranks) and time.monotonic() < end:
        waiting = {rank.pipe: rank for rank in ranks if rank not in answers and rank not in failed}
        sound = not failed
        for ready in wait([group, *waiting], max(0.0, end - time.monotonic())):
            if ready is group:
                group.recv()  # nobody speaks before the answer: this is the end of the pipe, and raises EOFError
            _hear(group, waiting[ready], answers, failed)
        if sound and failed:
            end = time.monotonic() + GRACE_SECONDS
    if len(answers) == len(ranks):
        group.send(("answers", [answers[rank] for rank in ranks]))
        return True
    message = _failure(ranks, answers, failed, seconds)
    for rank in ranks:
        rank.end()
    group.send(message)
    return False


def _failure(ranks, answers, failed, seconds):
    """(kind, words) of what went wrong first."""
    if failed:
        # one that ended without a word comes first, for others fail because of it
        _, kind, words = min(failed.values(), key=lambda each: (each[1] != "lost", each[0]))
        return kind, words
    late = next(rank for rank in ranks if rank not in answers)
    return "lost", f"{late} took longer than {seconds:.0f} s, in {late.at}{late.last_line()}"


def _hear(group, rank, answers, failed):
    """One message of one rank, or the end of it."""
    try:
        kind, when, said = rank.pipe.recv()
    except (EOFError, ConnectionResetError):
        failed[rank] = time.time(), "lost", rank.lost()
        return
    if kind == "at":
        rank.at = said
        group.send(("at", (rank.rank, said)))
    elif kind == "answer":
        answers[rank] = said
    else:
        words = said if kind == "ValueError" else f"{rank}, in {rank.at}: {said}"
        failed[rank] = when, kind, words


# ---- In a rank -------------------------------------------------------------------------------------------------------


def _serve(pipe, rank, world, device, folder, launcher):
    """Meet the other ranks, then answer calls until the launcher closes the pipe or is gone."""
    global _pipe
    _end_with(launcher)
    with open(Path(folder, f"rank{rank}.log"), "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    _pipe = pipe
    met = False
    while True:
        function, args = pipe.recv()
        try:
            if not met:
                _meet(rank, world, device, folder)
                met = True
            message = "answer", time.time(), function(*args)
        except ValueError as error:
            message = "ValueError", time.time(), str(error)
        except Exception as error:
            line = next(iter(str(error).splitlines()), "")
            message = "error", time.time(), f"{type(error).__name__}: {line}"
        pipe.send(message)


def _end_with(launcher):
    """The kernel ends this process when the launcher is gone, be it killed; where it cannot, a thread does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # gone already
            os._exit(1)
        return
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=lambda: (wait([parent]), os._exit(1)), daemon=True).start()


def _meet(rank, world, device, folder):
    import torch
    import torch.distributed as dist

    say("the meeting of ranks")
    if device == "cuda":
        torch.cuda.set_device(rank)
    store = dist.FileStore(str(Path(folder, "store")), world)
    dist.init_process_group(BACKENDS[device], store=store, rank=rank, world_size=world)


def _run(arguments: list[str]) -> None:
    pipe, folder, world, device = arguments
    # the file that runs has a second name, __main__, and ranks must know the one that is imported
    from dsmem.runs.ranks import launcher

    launcher.main(int(pipe), folder, int(world), device)


if __name__ == "__main__":
    _run(sys.argv[1:])
