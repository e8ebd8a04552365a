"""The sweep that is recorded on a GPU, and its rehearsal without one."""

import itertools
import json

import pytest

import dsmem
from dsmem.model import hub
from dsmem.runs.sweep import rehearsal, sweep

FORMATS = ("fp16", "bf16", "int8", "int8_w8a8", "fp8", "int4")


def kinds(cells):
    return {
        (w.weights, w.phase, w.attention, w.logits, w.mla_cache, w.kv_cache, w.cache, *code) for _, w, *code in cells
    }


def test_the_sweep_is_made_of_different_passes_that_the_footprint_knows():
    cells = list(sweep())
    assert len(cells) == len({json.dumps([arch.name, repr(rest)]) for arch, *rest in cells})
    assert all(dsmem.inference_footprint(arch, work).total_bytes for arch, work, *_ in cells)
    shapes = {arch.name: arch for arch, *_ in cells}
    assert all(shapes[arch.name] == arch for arch, *_ in cells)  # a file tells models apart by their names


def test_the_first_third_of_the_sweep_asks_every_kind_of_every_model():
    cells = list(sweep())
    first = cells[: len(cells) // 3]
    assert kinds(first) == kinds(cells)
    assert {arch.name for arch, *_ in first} == {arch.name for arch, *_ in cells}
    weights = {arch.name: {work.weights for one, work, *_ in first if one is arch} for arch, *_ in first}
    assert set(map(frozenset, weights.values())) == {frozenset(FORMATS)}
    corners = {(work.batch, work.seq_len) for _, work, *_ in first}
    assert {(4, 1024), (1, 128)} <= corners


def test_a_sweep_covers_every_shape_in_the_plain_formats():
    asked = {(arch.name, work.batch, work.seq_len, work.weights) for arch, work, *code in sweep() if not code}
    for shape in itertools.product((1, 4, 16), (128, 1024, 4096)):
        for name in ("qwen2.5-0.5b", "deepseek-r1-distill-qwen-1.5b", "deepseek-r1-distill-qwen-7b"):
            assert {(name, *shape, weights) for weights in FORMATS[:4]} <= asked


@pytest.mark.parametrize("device", ["fake", "cpu"])
def test_a_rehearsal_asks_every_kind_that_the_sweep_asks(device):
    assert kinds(rehearsal(device)) == kinds(sweep(device))


def test_without_transformers_the_sweep_is_our_code_alone(monkeypatch):
    monkeypatch.setattr(hub, "has_transformers", lambda: False)
    assert {cell[2] for cell in sweep() if len(cell) > 2} == {"dsmem"}
