"""`python -m dsmem.runs gpu` on fake tensors: every kind of failure, a kill in the middle, a clock that runs out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import standins

from dsmem.runs import gpu, suite, sweep
from dsmem.runs.__main__ import main
from dsmem.runs.recordings import load

ROOT = Path(__file__).resolve().parents[2]
OUTCOMES = {
    standins.OK: "ok",
    standins.DIES: "failed: WorkerLost: its process ended with exit code 7",
    standins.CRASHES: f"failed: WorkerLost: its process ended with exit code -{signal.SIGSEGV.value}",
    standins.RAISES: "failed: KeyError: 'lm_head'",
    standins.FULL: "did not fit",
    20: "ok",
}


def outcomes(path):
    return {cell["seq_len"]: cell["outcome"] for cell in load(path)["cells"]}


def asked(log):
    """Which process was asked for which lengths, in order."""
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()]


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "log"
    monkeypatch.setenv("STANDINS_LOG", str(path))
    return path


def run(folder, **options):
    known = {"device": "fake", "cells": standins.CELLS, "tests": None, "measuring": standins.cell}
    return gpu.run_all(folder, **known | options)


def test_every_failure_is_kept_the_rest_go_on_and_resume_repeats_what_failed(tmp_path, log, monkeypatch, capsys):
    path = run(tmp_path / "runs")
    assert outcomes(path) == OUTCOMES
    processes = [process for process, _ in asked(log)]
    assert len(set(processes)) == 3 and processes[3:] == processes[-1:] * 3  # a KeyError costs no new process
    said = capsys.readouterr().out
    assert "1 cells did not fit" in said and f"--device fake --resume {path}" in said

    log.unlink()
    monkeypatch.setenv("STANDINS_MENDED", "1")
    assert run(tmp_path / "runs", resume=path) == path
    assert sorted(length for _, length in asked(log)) == [standins.DIES, standins.CRASHES, standins.RAISES]
    expected = {length: "ok" if outcome.startswith("failed") else outcome for length, outcome in OUTCOMES.items()}
    assert outcomes(path) == expected
    (cell,) = (cell for cell in load(path)["cells"] if cell["seq_len"] == standins.RAISES)
    assert cell["failed_before"] == [OUTCOMES[standins.RAISES]] and "error" not in cell
    assert "6 of 6 cells have an answer" in capsys.readouterr().out
    assert len(load(path)["resumed"]) == 1


def test_the_text_of_an_error_is_kept_in_its_cell(tmp_path):
    path = run(tmp_path, cells=[cell for cell in standins.CELLS if cell[1].seq_len == standins.RAISES])
    (cell,) = load(path)["cells"]
    assert "Traceback" in cell["error"] and "KeyError: 'lm_head'" in cell["error"] and cell["formula_bytes"] > 0


def test_a_command_killed_in_the_middle_leaves_a_whole_file_and_can_be_taken_up(tmp_path, log, monkeypatch):
    folder = tmp_path / "runs"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "STANDINS_SLEEP": "1", "STANDINS_MENDED": "1"}
    script = f"import standins; standins.command({str(folder)!r})"
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(load(path)["cells"] for path in folder.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (path,) = folder.glob("*.json")
    whole = load(path)["cells"]
    assert 0 < len(whole) < len(standins.CELLS)

    time.sleep(2)  # the killed command's own process ends with its cell
    log.unlink()
    monkeypatch.setenv("STANDINS_MENDED", "1")
    run(folder, resume=path)
    assert {cell["seq_len"] for cell in whole}.isdisjoint(length for _, length in asked(log))
    assert outcomes(path) == dict.fromkeys(OUTCOMES, "ok")


def test_the_command_ends_in_time_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "KEPT_SECONDS", 0)
    start = time.monotonic()
    hanging = [(standins.TINY, cell[1].changed(seq_len=standins.HANGS)) for cell in standins.CELLS[:1]]
    path = run(tmp_path, cells=hanging, minutes=8 / 60, measuring=standins.hollow)
    assert time.monotonic() - start < 60  # and not the 600 s of the cell
    assert load(path)["cells"] == []  # the end of the time is no fault of the cell
    assert "0 of 1 cells have an answer" in capsys.readouterr().out


def test_a_cell_that_hangs_is_recorded_and_does_not_keep_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "CELL_SECONDS", 5)
    hanging = (standins.TINY, standins.CELLS[0][1].changed(seq_len=standins.HANGS))
    path = run(tmp_path, cells=[hanging, standins.CELLS[0]], measuring=standins.hollow)
    assert outcomes(path) == {standins.HANGS: "failed: WorkerLost: took longer than 5 s", standins.OK: "did not fit"}


def test_the_result_of_the_tests_is_kept_whatever_it_is(tmp_path, capsys):
    calls = []

    def tests(seconds):
        calls.append(seconds)
        counts = {"passed": 3, "failed": 1}
        return {"outcome": "failed", "counts": counts, "failed": ["test_x - assert 1 == 2"], "seconds": 9.0}

    path = run(tmp_path, cells=standins.CELLS[:1], tests=tests, device="cpu")
    assert load(path)["tests"]["counts"] == {"passed": 3, "failed": 1} and calls == [150]
    said = capsys.readouterr().out
    assert "tests: failed; 3 passed, 1 failed in 9 s" in said and "test_x - assert 1 == 2" in said
    run(tmp_path, cells=standins.CELLS[:1], tests=tests, resume=path, device="cpu")
    assert len(calls) == 1


SUITE = """
import pytest
pytestmark = pytest.mark.gpu
LOST = []

def test_passes():
    pass

def test_fails():
    LOST.append(1)
    assert 1 == 2

@pytest.mark.parametrize("name", ["one, two", "three"])
def test_after(name):
    if LOST:
        pytest.skip("the GPU is lost to this process since test_fails")
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = ["--no-such"]\nmarkers = ["gpu: x"]')
    return tmp_path


def test_the_tests_of_a_gpu_are_counted_and_those_after_a_lost_one_run_again(checkout):
    (checkout / "tests" / "test_some.py").write_text(SUITE)
    (checkout / "tests" / "test_other.py").write_text("import no_such_package")
    result = suite.gpu_tests(60, checkout)
    assert (result["outcome"], result["counts"]) == ("failed", {"passed": 3, "failed": 1})
    assert result["failed"] == ["test_fails - assert 1 == 2"]
    assert "test_passes PASSED" in result["output"]


def test_tests_that_take_too_long_are_cut_off_and_what_passed_is_kept(checkout):
    slow = "\ndef test_slow():\n    import time\n    time.sleep(60)\n"
    (checkout / "tests" / "test_some.py").write_text(SUITE + slow)
    result = suite.gpu_tests(8, checkout)
    assert result["outcome"] == "cut off" and result["counts"]["passed"] == 1


def test_a_package_without_its_tests_says_so(tmp_path):
    assert "repository" in suite.gpu_tests(5, tmp_path)["outcome"]


def test_the_whole_command_runs_without_a_gpu(tmp_path, capsys):
    assert main(["gpu", "--device", "fake", "--out", str(tmp_path), "--minutes", "5"]) == 0
    (path,) = tmp_path.iterdir()
    cells = load(path)["cells"]
    assert {cell["outcome"] for cell in cells} == {"ok"} and len(cells) == len(sweep.rehearsal())
    lines = capsys.readouterr().out.splitlines()
    assert str(path) in lines[0] and len(lines[lines.index("") :]) <= 20


@pytest.mark.parametrize("device", ["gpu", "cuda:x"])
def test_an_unknown_device_is_refused_in_one_sentence_and_leaves_no_file(device, tmp_path, capsys):
    assert main(["gpu", "--device", device, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert device in said and len(said.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
