"""Measuring, explaining, recording and reading back, without a GPU."""

import collections
import dataclasses
import json

import numpy as np
import pytest
import torch

import dsmem
from dsmem import Architecture, Workload
from dsmem.model import hub
from dsmem.runs import recordings as runs

TINY = Architecture.from_config("qwen2.5-0.5b").scaled(num_hidden_layers=2, vocab_size=1000)
FORMATS = ("fp16", "bf16", "int8", "int8_w8a8")
CELLS = [(TINY, Workload(2, 8)), (TINY, Workload(2, 8, "decode"))]


@pytest.mark.parametrize("device", ["fake", "cpu"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_one_run_is_told_at_three_levels_without_a_gpu(device, phase):
    run = dsmem.measure(TINY, Workload(2, 8, phase), device=device)
    assert run.footprint.total_bytes == run.ledger.peak_bytes <= run.replay.peak_allocated_bytes
    assert (run.arch, run.device, run.device_memory) == (TINY, device, None)
    assert (run.seconds is None) == (device == "fake")


def test_measuring_twice_gives_the_same_bytes():
    one, two = (dsmem.measure(TINY, Workload(2, 8), device="cpu") for _ in range(2))
    assert one.ledger.timeline().live_bytes.tolist() == two.ledger.timeline().live_bytes.tolist()


def closes(waterfall):
    """Each total is the one before it plus the gaps between them."""
    level = None
    for _, nbytes, kind in waterfall.steps:
        if kind == "gap":
            level += nbytes
        else:
            assert level in (None, nbytes)
            level = nbytes
    return True


@pytest.mark.parametrize("device", ["fake", "cpu"])
@pytest.mark.parametrize("attention", ["fused", "eager"])
def test_the_gaps_of_an_explanation_close(device, attention):
    waterfall = dsmem.explain(dsmem.measure(TINY, Workload(2, 8, attention=attention), device=device))
    assert closes(waterfall)
    assert [name for name, _, kind in waterfall.steps if kind == "total"][:2] == ["formula", "ledger"]
    assert dict((name, nbytes) for name, nbytes, _ in waterfall.steps)["not in the formula"] == 0


def test_an_explanation_with_a_gpus_word_closes_too():
    run = dsmem.measure(TINY, Workload(2, 8))
    peak = run.replay.peak_allocated_bytes
    said = {"requested": peak, "allocated": peak + 9, "reserved": peak + 100, "used": peak + 1000, "workspace": 7}
    waterfall = dsmem.explain(runs.Run(**{**vars(run), "device_memory": said}))
    assert closes(waterfall)
    assert [nbytes for name, nbytes, kind in waterfall.steps if kind == "total"][-3:] == [
        said["allocated"],
        said["reserved"],
        said["used"],
    ]


def test_tensors_from_before_the_run_are_no_kernel_scratch():
    run = dsmem.measure(TINY, Workload(2, 8))
    peak = run.replay.peak_allocated_bytes
    said = {"requested": peak, "allocated": peak + 50, "reserved": peak + 100, "used": peak + 1000, "workspace": 0}
    steps = dsmem.explain(runs.Run(**{**vars(run), "device_memory": said | {"elsewhere": 50}})).steps
    gaps = {name: nbytes for name, nbytes, _ in steps}
    assert (gaps["tensors from before this run"], gaps["kernel scratch that no tensor holds"]) == (50, 0)


def test_an_explanation_prints_a_line_for_each_step():
    waterfall = dsmem.explain(dsmem.measure(TINY, Workload(2, 8)))
    lines = repr(waterfall).splitlines()
    assert len(lines) == len(waterfall.steps)
    assert all(
        name in line and f"{nbytes:,} B" in line for (name, nbytes, _), line in zip(waterfall.steps, lines, strict=True)
    )


@pytest.mark.parametrize("argument", ["batch", "seq_len"])
def test_a_workload_of_arrays_cannot_be_measured(argument, refuses):
    refuses(lambda: dsmem.measure(TINY, Workload(**{argument: np.array([1, 2])})), argument, "array", "whole number")


def test_an_unknown_device_cannot_be_measured(refuses):
    refuses(lambda: dsmem.measure(TINY, Workload(1, 8), device="gpu"), "device", "'gpu'", "'cuda', 'cpu', 'fake'")


def test_a_recording_is_a_readable_file_with_its_provenance(tmp_path):
    path = runs.record(tmp_path, device="cpu", cells=CELLS, command="a test")
    run = json.loads(path.read_text(encoding="utf-8"))
    assert run == runs.load(path)
    fields = {"device", "driver", "torch", "cuda", "python", "date", "command", "commit"}
    assert fields <= set(run["provenance"])
    assert run["provenance"]["torch"] == torch.__version__
    assert run["provenance"]["command"] == "a test"
    assert run["provenance"]["date"].startswith("20")


def test_a_recorded_cell_says_what_was_asked_and_what_came(tmp_path):
    cells = runs.load(runs.record(tmp_path, device="cpu", cells=CELLS))["cells"]
    assert [(cell["phase"], cell["outcome"]) for cell in cells] == [("prefill", "ok"), ("decode", "ok")]
    for cell, (arch, work) in zip(cells, CELLS, strict=True):
        measured = dsmem.measure(arch, work, device="fake")
        assert (cell["model"], cell["batch"], cell["seq_len"]) == (arch.name, 2, 8)
        assert cell["formula_bytes"] == cell["ledger_bytes"] == measured.ledger.peak_bytes
        assert cell["replay_bytes"] == measured.replay.peak_allocated_bytes


def test_each_recording_has_a_file_of_its_own_however_quickly_they_follow(tmp_path):
    paths = {runs.record(tmp_path, device="fake", cells=CELLS[:1]) for _ in range(3)}
    assert len(paths) == len(list(tmp_path.iterdir())) == 3


def test_a_cell_that_does_not_fit_is_recorded_as_such_and_the_sweep_goes_on(tmp_path, monkeypatch):
    measure = runs.measure

    def small_machine(arch, work, device, **options):
        if work.seq_len > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(arch, work, device, **options)

    monkeypatch.setattr(runs, "measure", small_machine)
    cells = [(TINY, Workload(2, 8)), (TINY, Workload(2, 800)), (TINY, Workload(2, 9))]
    recorded = runs.load(runs.record(tmp_path, device="cpu", cells=cells))["cells"]
    assert [cell["outcome"] for cell in recorded] == ["ok", "did not fit", "ok"]
    assert recorded[1]["seq_len"] == 800 and recorded[1]["formula_bytes"] > 0
    assert "ledger_bytes" not in recorded[1]


def test_a_cell_that_fails_is_recorded_with_its_reason_and_the_sweep_goes_on(tmp_path, monkeypatch):
    measure = runs.measure

    def broken_kernel(arch, work, device, **options):
        if work.seq_len > 100:
            raise RuntimeError("no kernel image is available\nCompile with ...")
        return measure(arch, work, device, **options)

    monkeypatch.setattr(runs, "measure", broken_kernel)
    run = runs.load(runs.record(tmp_path, device="cpu", cells=[(TINY, Workload(2, 800)), (TINY, Workload(2, 9))]))
    assert [cell["outcome"] for cell in run["cells"]] == ["failed: no kernel image is available", "ok"]
    assert "failed: no kernel image is available: model=" in runs.compare(run)
    assert "0 cells did not fit" in runs.compare(run)


def test_a_pass_that_does_not_fit_in_the_replay_is_recorded_as_such(tmp_path, monkeypatch):
    from dsmem.runs.run import watch

    monkeypatch.setattr("dsmem.runs.run.watch", lambda *args: watch(*args[:4], capacity=2**20))
    recorded = runs.load(runs.record(tmp_path, device="fake", cells=CELLS[:1]))
    assert [cell["outcome"] for cell in recorded["cells"]] == ["did not fit in the replay"]
    assert "1 cells did not fit" in runs.compare(recorded)


def test_an_error_without_words_is_recorded_by_its_kind():
    assert runs._outcome(RuntimeError()) == "failed: RuntimeError"


def test_the_comparison_leaves_out_what_lay_on_the_gpu_before(tmp_path):
    run = runs.load(runs.record(tmp_path, device="cpu", cells=CELLS[:1]))
    (cell,) = run["cells"]
    said = {
        "allocated": cell["replay_bytes"] + 1000,
        "reserved": cell["replay_reserved_bytes"] + 1000,
        "elsewhere": 1000,
    }
    cell["device"] = said
    assert "allocated: median +0.00%" in runs.compare(run) and "reserved: median +0.00%" in runs.compare(run)


@pytest.mark.skipif(not hub.has_transformers(), reason="transformers is not installed")
def test_transformers_code_is_recorded_beside_ours(tmp_path):
    work = Workload(2, 8, logits="last")
    cells = [(TINY, work), (TINY, work, "transformers")]
    run = runs.load(runs.record(tmp_path, device="fake", cells=cells))
    ours, theirs = run["cells"]
    assert (ours["code"], theirs["code"], theirs["outcome"]) == ("dsmem", "transformers", "ok")
    assert theirs["ledger_bytes"] == pytest.approx(ours["ledger_bytes"], rel=0.01)  # the weights are most of it
    assert "formula and ledger differ in 0 cells" in runs.compare(run)


def test_without_transformers_the_sweep_is_our_code_alone(monkeypatch):
    monkeypatch.setattr(hub, "has_transformers", lambda: False)
    assert {len(cell) for cell in runs.sweep()} == {2}


@pytest.mark.parametrize("work", [Workload(1, 8, "decode"), Workload(1, 8, weights="int8")])
def test_transformers_code_runs_prefills_in_a_float_format(work, refuses):
    refuses(lambda: hub.prepare(TINY, work, "fake"), "work", "prefill")


def test_a_recording_cut_off_in_the_middle_leaves_a_whole_file(tmp_path, monkeypatch):
    measure, calls = runs.measure, []

    def cut_off(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr(runs, "measure", cut_off)
    with pytest.raises(KeyboardInterrupt):
        runs.record(tmp_path, device="fake", cells=CELLS)
    (path,) = tmp_path.iterdir()
    assert len(runs.load(path)["cells"]) == 1


def test_recorded_lists_nothing_where_nothing_is_recorded(tmp_path):
    assert runs.recorded(tmp_path) == [] == runs.recorded(tmp_path / "missing")


def test_recordings_without_a_gpu_are_not_passed_off_as_gpu_runs(tmp_path):
    runs.record(tmp_path, device="cpu", cells=CELLS[:1])
    assert runs.recorded(tmp_path) == []


def test_shipped_recordings_can_be_read():
    for run in runs.recorded():
        assert run["provenance"]["device"] and run["cells"]


WHOLE = {"format": 1, "provenance": {"device": "a GPU", "date": "2026", "capability": [9, 0]}, "cells": []}


def damaged(**changes):
    """A recording with one fault: some of its fields changed, those of None taken out."""
    return json.dumps({name: value for name, value in (WHOLE | changes).items() if value is not None}).encode()


def without(name):
    return {key: value for key, value in WHOLE["provenance"].items() if key != name}


FAULTS = {
    "empty": b"",
    "cut off": json.dumps(WHOLE).encode()[:-1],
    "not text": b"\xff\x00",
    "a number": b"3",
    "null": b"null",
    "a list": b"[]",
    "no format": damaged(format=None),
    "another format": damaged(format=99),
    "no provenance": damaged(provenance=None),
    "provenance a list": damaged(provenance=["device", "date", "capability"]),
    "no device": damaged(provenance=without("device")),
    "no date": damaged(provenance=without("date")),
    "no capability": damaged(provenance=without("capability")),
    "no cells": damaged(cells=None),
    "cells a number": damaged(cells=3),
    "cells a dict": damaged(cells={"outcome": "ok"}),
    "cells a text": damaged(cells="ok"),
    "a cell a number": damaged(cells=[3]),
    "a cell a text": damaged(cells=["outcome"]),
    "a cell without outcome": damaged(cells=[{"model": "qwen2.5-0.5b"}]),
}


def test_the_recording_that_the_faults_are_put_into_is_whole(tmp_path):
    (tmp_path / "whole.json").write_bytes(damaged())
    assert runs.recorded(tmp_path) == [WHOLE]


@pytest.mark.parametrize("content", FAULTS.values(), ids=FAULTS)
def test_a_damaged_recording_is_refused_by_path(content, tmp_path, refuses):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    refuses(lambda: runs.load(path), "path", str(path), "must be")
    refuses(lambda: runs.recorded(tmp_path), "path", str(path), "must be")


def test_a_recording_that_is_not_there_is_refused_by_path(tmp_path, refuses):
    path = tmp_path / "missing.json"
    refuses(lambda: runs.load(path), "path", str(path), "must be")


def cell(predicted, said, **fields):
    """A recorded cell of which only allocated and reserved bytes matter."""
    asked = {"model": "m", **dataclasses.asdict(Workload(**fields))}
    bytes_of = {"formula_bytes": 1, "ledger_bytes": 1, "replay_bytes": predicted, "replay_reserved_bytes": predicted}
    return asked | bytes_of | {"outcome": "ok", "device": {"allocated": said, "reserved": said}}


def test_the_comparison_names_the_worst_cell_whichever_way_it_is_off():
    cells = [cell(101, 100, batch=1), cell(88, 100, batch=2), cell(110, 100, batch=3), cell(100, 100, batch=4)]
    lines = runs.compare(WHOLE | {"cells": cells}).splitlines()
    for level in ("allocated", "reserved"):
        at = next(index for index, line in enumerate(lines) if line.startswith(level))
        assert "median +0.50%, from -12.00% to +10.00%" in lines[at]
        assert lines[at + 1].startswith("  worst, -12.00%: model=m") and "batch=2," in lines[at + 1]
    assert "75% of the cells are off by more than 0.5%" in lines[1]
    assert "50% of the cells are off by more than 2.0%" in lines[3]
    assert lines[0] == "4 cells on a GPU, 2026" and lines[-1].startswith("formula and ledger differ in 0 cells")


def test_the_comparison_counts_where_formula_and_ledger_differ_and_what_did_not_fit():
    wrong, theirs, unfit = (
        cell(1, 1) | {"ledger_bytes": 2},
        cell(1, 1) | {"code": "transformers", "ledger_bytes": 2},
        cell(1, 1),
    )
    unfit |= {"outcome": "did not fit", "device": None}
    said = runs.compare(WHOLE | {"cells": [wrong, theirs, unfit, cell(1, 1)]})
    assert "formula and ledger differ in 1 cells; 1 cells did not fit" in said


@pytest.mark.skipif(not hub.has_transformers(), reason="transformers is not installed")
def test_the_sweep_asks_what_it_always_asked():
    cells = list(runs.sweep())
    assert len(cells) == 306
    kinds = collections.Counter((w.weights, w.phase, w.attention, w.logits, *code) for _, w, *code in cells)
    ours = [(weights, phase, "fused", "all") for weights in FORMATS for phase in ("prefill", "decode")]
    ours += [("fp16", "prefill", "fused", "last"), ("fp16", "prefill", "eager", "last")]
    theirs = [("fp16", "prefill", *how) for how in (("fused", "all"), ("fused", "last"), ("eager", "last"))]
    assert kinds == dict.fromkeys(ours, 27) | {(*kind, "transformers"): 12 for kind in theirs}
    names = ["qwen2.5-0.5b", "deepseek-r1-distill-qwen-1.5b", "deepseek-r1-distill-qwen-7b"]
    assert list(dict.fromkeys(arch.name for arch, *_ in cells)) == names
    asked = {(work.batch, work.seq_len) for _, work, *code in cells if not code}
    assert asked == {(batch, seq_len) for batch in (1, 4, 16) for seq_len in (128, 1024, 4096)}
    assert {(work.cache, work.kv_cache == work.activations) for _, work, *_ in cells} == {("static", True)}


def test_the_sweep_is_made_of_passes_that_the_footprint_knows():
    cells = list(runs.sweep())
    assert len(cells) == len({json.dumps([arch.name, repr(rest)]) for arch, *rest in cells})
    assert all(dsmem.inference_footprint(arch, work).total_bytes for arch, work, *_ in cells)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_command_line_says_in_one_sentence_that_there_is_no_gpu(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        runs.main(["record", "--device", "cuda", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "device='cuda'" in said and "'cpu'" in said and len(said.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_records_and_prints_where(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "sweep", lambda *_: CELLS)
    runs.main(["record", "--device", "fake", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert str(path) in capsys.readouterr().out
    assert "record --device fake" in runs.load(path)["provenance"]["command"]


def test_tokens_a_second_come_one_for_each_workload_and_from_one_model(refuses):
    rates = dsmem.runs.run.tokens_per_second(TINY, [Workload(b, 8, "decode", weights="bf16") for b in (1, 4)], "cpu")
    assert rates.shape == (2,) and rates.min() > 0
    mixed = [Workload(1, 8, "decode", weights=weights) for weights in ("bf16", "fp32")]
    refuses(lambda: dsmem.runs.run.tokens_per_second(TINY, mixed, "cpu"), "works", "'bf16'", "one kind")
