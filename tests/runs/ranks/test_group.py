"""Processes for ranks: they answer together, and none is left whoever dies, hangs or is interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import standins

from dsmem.runs.ranks import RankGroup, RankLost


@pytest.fixture(scope="module")
def group():
    with RankGroup(2) as group:
        yield group


def alive(number):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def soon_gone(numbers):
    """The processes still alive after a few seconds at most."""
    end = time.monotonic() + 10
    while time.monotonic() < end and any(map(alive, numbers)):
        time.sleep(0.05)
    return [number for number in numbers if alive(number)]


def test_ranks_answer_in_order_and_reach_each_other(group):
    group.ask(os.getpid)
    told = []
    answers = group.ask(standins.sum_of_ranks, 10, told=lambda *said: told.append(said))
    assert [total for total, _ in answers] == [21, 21]
    assert sorted(told) == [(0, "the sum"), (1, "the sum")]
    assert [number for _, number in answers] == [number for _, number in group.ask(standins.sum_of_ranks, 0)]


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ((standins.fail_rank, 1, ValueError, "batch=0 is not a count"), ValueError, "^batch=0 is not a count$"),
        ((standins.fail_rank, 1, KeyError, "lm_head"), RuntimeError, "^rank 1 of 2, in the sum: KeyError: 'lm_head'$"),
        ((standins.kill_rank, 1), RankLost, "^rank 1 of 2 was ended by SIGKILL in the sum; its last line: .*farewell$"),
        ((standins.exit_rank, 0), RankLost, "^rank 0 of 2 ended with exit code 3 in the sum$"),
    ],
    ids=["refuses", "raises", "is killed", "exits"],
)
def test_the_rank_that_fails_first_is_named_and_all_are_new_then(group, call, kind, words):
    before = [number for _, number in group.ask(standins.sum_of_ranks, 0)]
    with pytest.raises(kind, match=words) as caught:
        group.ask(*call)
    assert "\n" not in str(caught.value)
    assert soon_gone(before) == []
    assert [total for total, _ in group.ask(standins.sum_of_ranks, 1)] == [3, 3]


def test_a_rank_that_hangs_is_named_with_its_last_line(group):
    before = [number for _, number in group.ask(standins.sum_of_ranks, 0)]
    with pytest.raises(RankLost, match="rank 1 of 2 took longer than 1 s, in the sum; its last line: still here"):
        group.ask(standins.hang_rank, 1, seconds=1)
    assert soon_gone(before) == []


PARENT = """
import os, time
from dsmem.runs.ranks.group import RankGroup
with RankGroup(2) as group:
    print(*group.ask(os.getpid), group._launcher.pid, flush=True)
    print(group._folder, flush=True)
    group.ask(time.sleep, 60)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_parent_that_is_interrupted_or_killed_leaves_no_process_behind(end):
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", PARENT]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": os.environ | paths}
    with subprocess.Popen(command, **options) as started:
        numbers = [int(number) for number in started.stdout.readline().split()]
        folder = Path(started.stdout.readline().strip())
        assert len(numbers) == 3 and all(map(alive, numbers)) and folder.exists()
        started.send_signal(end)
    assert soon_gone(numbers) == []
    assert not folder.exists()


def test_a_launcher_that_is_killed_takes_its_ranks_along(group):
    numbers, folder = group.ask(os.getpid), Path(group._folder)
    os.kill(group._launcher.pid, signal.SIGKILL)
    with pytest.raises(RankLost, match="the process that started the 2 ranks ended"):
        group.ask(os.getpid)
    assert soon_gone(numbers) == [] and not folder.exists()


def test_what_cannot_be_started_is_refused(refuses):
    refuses(lambda: RankGroup(0), "world", 0)
    refuses(lambda: RankGroup(1000), "world=1000", "at most 64", "fake_rank")
    refuses(lambda: RankGroup(2, "fake"), "device", "fake", "cpu")
    refuses(lambda: RankGroup(99, "cuda"), "world=99", "GPU")
