"""A process of its own for work that may lose its GPU, run out of memory or hang; it is replaced when it does."""

import contextlib
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch

from dsmem.memory import cuda

START_SECONDS = 240  # a first import of torch from a cold disk may take a minute
LEFT_BYTES = 64 * 2**20
"""What a cell may leave allocated before its process is replaced: more than a workspace, less than a model."""


class WorkerLost(RuntimeError):
    """The process ended or took too long before it could answer."""


class Worker:
    """Answers one call at a time, in a process that starts with the first call and lasts while it is sound.

    A CUDA error such as an illegal address makes every later call of its process fail, so after each answer the process
    is asked whether its GPU still works and is empty; if not, the next call gets a new one. Use it in a `with` block.
    device: "cuda", "cpu" or "fake".
    """

    def __init__(self, device: str = "cpu"):
        self.device = device
        self._process = self._pipe = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def ask(self, function: Callable, *args: Any, seconds: float | None = None) -> Any:
        """`function(*args)`, found there by its name. seconds: how long it may take, a new process's start apart.

        Raises WorkerLost where the process ends or takes longer, ValueError where the function does, and RuntimeError
        with the first line of any other error.
        """
        if self._process is None:
            self._start()
        error, answer, sound = self._said((function, args), seconds)
        if not sound:
            self.stop()
        if error:
            raise error(answer)
        return answer

    def stop(self) -> int | None:
        """End the process if there is one; its exit code."""
        if self._process is None:
            return None
        self._pipe.close()
        self._process.join(0.5)
        self._process.kill()
        self._process.join()
        code, self._process = self._process.exitcode, None
        return code

    def _start(self):
        spawn = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, self.device), daemon=True)
        self._process.start()
        theirs.close()
        self._said(None, START_SECONDS)

    def _said(self, call, seconds):
        """What the process says to a call, or that it has started."""
        try:
            if call:
                self._pipe.send(call)
            if not self._pipe.poll(seconds):
                self.stop()
                raise WorkerLost(f"took longer than {seconds:.0f} s")
            return self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = self.stop()
            raise WorkerLost(f"its process ended with exit code {code}") from None


def sound(device: str) -> bool:
    """Whether this process's GPU still works and next to nothing is left on it; True where there is no GPU.

    Collects garbage and gives cached memory back first, so that the next cell starts as in a new process.
    """
    gc.collect()
    if device != "cuda" or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        left = cuda.held_bytes()
        torch.cuda.empty_cache()
        return left <= LEFT_BYTES
    except RuntimeError:  # the GPU is lost to this process
        return False


@contextlib.contextmanager
def only(device: str) -> Iterator[str]:
    """The device without its number; processes that start inside the block see the GPU of that number alone.

    device: "cuda:1" becomes "cuda", which is then the second GPU; every other device stays as it is. On a GPU those
    processes keep cuBLAS's workspace, as the prediction has it, unless the environment says otherwise. Raises
    ValueError for a number that CUDA_VISIBLE_DEVICES leaves out, or that is none.
    """
    kind, _, number = str(device).partition(":")
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = before.split(",") if before else None
    if not number:
        with _keeping_workspaces(kind):
            yield device
        return
    if kind != "cuda" or not number.isdecimal() or (seen and int(number) >= len(seen)):
        raise ValueError(f"device={device!r} is not a GPU that this process sees; it must be like 'cuda' or 'cuda:1'")
    os.environ["CUDA_VISIBLE_DEVICES"] = seen[int(number)] if seen else number
    try:
        with _keeping_workspaces(kind):
            yield kind
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        os.environ.update({"CUDA_VISIBLE_DEVICES": before} if before else {})


@contextlib.contextmanager
def _keeping_workspaces(kind):
    """Sets what a torch after 2.13 reads once per process: without it each product takes and frees a workspace."""
    name = "TORCH_CUBLAS_WORKSPACE_CACHE"
    added = kind == "cuda" and name not in os.environ
    if added:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if added:
            os.environ.pop(name)


def _serve(pipe, device):
    """Answer calls until the other end closes, be it that its process was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        pipe.send("started")
        while True:
            function, args = pipe.recv()
            pipe.send((*_answer(function, args), sound(device)))


def _answer(function, args):
    """(None, what the call returns), or (kind of error, its words); the frames of an error end here."""
    try:
        return None, function(*args)
    except ValueError as error:
        return ValueError, str(error)
    except Exception as error:
        return RuntimeError, f"{type(error).__name__}: {error}"
