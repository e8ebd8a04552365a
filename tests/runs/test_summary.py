"""The summary of a recording fits one screen, however much went wrong, and keeps what one must know to go on."""

import types

import pytest

from dsmem.runs.cells import question
from dsmem.runs.summary import summary
from dsmem.runs.sweep import sweep

CELLS = sweep("fake")
PATH = "/home/somebody/a-long-name-of-a-folder/data/runs/a-gpu-of-some-name-2026-01-01T000000.json"
MADE = {
    **{"device": "A GPU of some name", "driver": "580.00.00", "torch": "2.11.0+cu130", "transformers": "5.17.0"},
    **{"commit": "0123456-dirty", "source": "0123456789ab", "date": "2026-01-01T00:00:00+00:00", "capability": [9, 0]},
    "environment": {"PYTORCH_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:128"},
    **{"used_before_bytes": 700 * 2**20, "total_bytes": 80 * 2**30, "attention": "flash"},
    "workspace": {"measured": 2**25},
}


def recorded(number, one):
    """The cell of one question: every fourth failed, for one of five reasons."""
    if number % 4 == 0:
        words = f"failed: RuntimeError: CUDA error: an illegal access, kind {number % 5}, " + "and more words " * 9
        return question(*one) | {"outcome": words}
    device = {"allocated": 100 + number % 3, "reserved": 103, "elsewhere": 0}
    levels = dict.fromkeys(("formula_bytes", "ledger_bytes", "replay_bytes", "replay_reserved_bytes"), 100)
    return question(*one) | {"outcome": "ok", "device": device} | levels


def rate(model, weights):
    works = [{"weights": weights, "batch": batch} for batch in (1, 1, 4, 16, 64)]
    return {"model": model, "works": works, "outcome": "ok", "tokens_per_second": [12345.0, 33.0, 120.0, 9.0, 0.0567]}


def recording(failed=True, done=200):
    names = [f"test_of_a_rather_long_name[{number}] - assert 1 == 2" for number in range(7)]
    content = {
        "provenance": MADE,
        "context_bytes": 500 * 2**20,
        "tests": {"outcome": "failed", "counts": {"passed": 90, "failed": 7}, "failed": names, "seconds": 99.0},
        "cells": [recorded(number, one) for number, one in enumerate(CELLS[:done]) if failed or number % 4],
        "rates": [rate(name, weights) for name in ("deepseek-r1-distill-qwen-7b", "b") for weights in ("fp16", "int8")],
    }
    return types.SimpleNamespace(content=content, path=PATH, left=lambda cells: cells[done:])


@pytest.mark.parametrize("failed", [True, False])
@pytest.mark.parametrize("columns", [80, 100, 120, 300])
def test_all_that_one_must_know_is_on_the_last_screen(columns, failed, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    said = summary(recording(failed), CELLS)
    assert sum(max(-(-len(line) // columns), 1) for line in said.splitlines()) <= 23
    assert f"--resume {PATH}" in said and f"200 of {len(CELLS)} cells have an answer; the file is {PATH}" in said
    assert "allocated: median" in said and "reserved: median" in said and said.count("worst, ") == 2
    assert "90 passed, 7 failed" in said and ("50 cells failed" in said) == failed
    assert "a context takes 500.00 MiB" in said.replace("\n ", "") and "tokens/s of b " in said


def test_a_wide_screen_shows_failures_and_slow_rates(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    said = summary(recording(failed=False), CELLS)
    assert "test_of_a_rather_long_name[0]" in said and "and 4 more" in said
    assert "12,345 33 120 9 0.057" in said
