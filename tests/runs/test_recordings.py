"""Recording and reading back, without a GPU."""

import dataclasses
import json

import pytest
import torch

import dsmem
from dsmem import Architecture, Workload
from dsmem.model import hub
from dsmem.runs import cells as cells_module
from dsmem.runs import recordings as runs
from dsmem.runs.__main__ import main
from dsmem.runs.sweep import rehearsal

TINY = Architecture.from_config("qwen2.5-0.5b").scaled(num_hidden_layers=2, vocab_size=1000)
CELLS = [(TINY, Workload(2, 8)), (TINY, Workload(2, 8, "decode"))]


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
    measure = cells_module.measure

    def small_machine(arch, work, device, **options):
        if work.seq_len > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(arch, work, device, **options)

    monkeypatch.setattr(cells_module, "measure", small_machine)
    cells = [(TINY, Workload(2, 8)), (TINY, Workload(2, 800)), (TINY, Workload(2, 9))]
    recorded = runs.load(runs.record(tmp_path, device="cpu", cells=cells))["cells"]
    assert [cell["outcome"] for cell in recorded] == ["ok", "did not fit", "ok"]
    assert recorded[1]["seq_len"] == 800 and recorded[1]["formula_bytes"] > 0
    assert "ledger_bytes" not in recorded[1]


def test_a_cell_that_fails_is_recorded_with_its_reason_and_the_sweep_goes_on(tmp_path, monkeypatch):
    measure = cells_module.measure

    def broken_kernel(arch, work, device, **options):
        if work.seq_len > 100:
            raise RuntimeError("no kernel image is available\nCompile with ...")
        return measure(arch, work, device, **options)

    monkeypatch.setattr(cells_module, "measure", broken_kernel)
    run = runs.load(runs.record(tmp_path, device="cpu", cells=[(TINY, Workload(2, 800)), (TINY, Workload(2, 9))]))
    assert [cell["outcome"] for cell in run["cells"]] == ["failed: no kernel image is available", "ok"]
    assert "failed: no kernel image is available: model=" in runs.error_report(run)
    assert "0 cells did not fit" in runs.error_report(run)


@pytest.mark.parametrize("error", [ValueError("attention='fused' is not run"), KeyError("head"), ZeroDivisionError()])
def test_an_error_of_any_kind_is_kept_in_its_cell(error, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr(cells_module, "measure", broken)
    (cell,) = runs.load(runs.record(tmp_path, device="fake", cells=CELLS[:1]))["cells"]
    assert cell["outcome"].startswith(f"failed: {type(error).__name__}") and "Traceback" in cell["error"]


def test_resume_asks_what_is_new_first_and_then_what_failed(tmp_path, monkeypatch):
    broken = [True]
    measure, asked = cells_module.measure, []

    def sometimes(arch, work, device, **options):
        asked.append(work.seq_len)
        if work.seq_len == 9 and broken:
            raise RuntimeError("CUDA error: misaligned address")
        if work.seq_len == 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(arch, work, device, **options)

    monkeypatch.setattr(cells_module, "measure", sometimes)
    cells = [(TINY, Workload(2, seq_len)) for seq_len in (8, 9, 10, 11)]
    path = runs.record(tmp_path, device="fake", cells=cells[:3])
    broken.clear(), asked.clear()
    runs.record(device="fake", cells=cells, resume=path)
    assert asked == [11, 9]
    recorded = {cell["seq_len"]: cell["outcome"] for cell in runs.load(path)["cells"]}
    assert recorded == {8: "ok", 9: "ok", 10: "did not fit", 11: "ok"}


@pytest.mark.parametrize("field", ["device", "torch", "transformers", "source", "environment"])
def test_a_recording_of_another_machine_is_not_resumed(field, tmp_path, refuses):
    path = runs.record(tmp_path, device="fake", cells=CELLS[:1])
    run = runs.load(path)
    run["provenance"][field] = "another"
    path.write_text(json.dumps(run), encoding="utf-8")
    refuses(lambda: runs.record(device="fake", cells=CELLS, resume=path), "resume", field, "'another'")


def test_a_recording_holds_the_shape_of_its_models(tmp_path):
    run = runs.load(runs.record(tmp_path, device="fake", cells=CELLS[:1]))
    (fields,) = run["models"].values()
    assert Architecture(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}) == TINY


def test_the_comparison_leaves_out_what_lay_on_the_gpu_before(tmp_path):
    run = runs.load(runs.record(tmp_path, device="cpu", cells=CELLS[:1]))
    (cell,) = run["cells"]
    said = {
        "allocated": cell["replay_bytes"] + 1000,
        "reserved": cell["replay_reserved_bytes"] + 1000,
        "elsewhere": 1000,
    }
    cell["device"] = said
    assert "allocated: median +0.00%" in runs.error_report(run) and "reserved: median +0.00%" in runs.error_report(run)


@pytest.mark.skipif(not hub.has_transformers(), reason="transformers is not installed")
def test_transformers_code_is_recorded_beside_ours(tmp_path):
    work = Workload(2, 8, logits="last")
    cells = [(TINY, work), (TINY, work, "transformers")]
    run = runs.load(runs.record(tmp_path, device="fake", cells=cells))
    ours, theirs = run["cells"]
    assert (ours["code"], theirs["code"], theirs["outcome"]) == ("dsmem", "transformers", "ok")
    assert theirs["ledger_bytes"] == pytest.approx(ours["ledger_bytes"], rel=0.01)  # the weights are most of it
    assert "formula and ledger differ in 0 cells" in runs.error_report(run)


def test_a_recording_cut_off_in_the_middle_leaves_a_whole_file(tmp_path, monkeypatch):
    measure, calls = cells_module.measure, []

    def cut_off(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr(cells_module, "measure", cut_off)
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
    lines = runs.error_report(WHOLE | {"cells": cells}).splitlines()
    for level in ("allocated", "reserved"):
        at = next(index for index, line in enumerate(lines) if line.startswith(level))
        assert "median +0.50%, -12.00% to +10.00%" in lines[at]
        assert lines[at + 1].startswith("  worst, -12.00%: model=m") and "batch=2," in lines[at + 1]
    assert "75% of cells off by more than 0.5%" in lines[1]
    assert "50% of cells off by more than 2.0%" in lines[3]
    assert lines[0] == "4 cells on a GPU, 2026" and lines[-1].startswith("formula and ledger differ in 0 cells")


def test_the_comparison_counts_where_formula_and_ledger_differ_and_what_did_not_fit():
    wrong, theirs, unfit = (
        cell(1, 1) | {"ledger_bytes": 2},
        cell(1, 1) | {"code": "transformers", "ledger_bytes": 2},
        cell(1, 1),
    )
    unfit |= {"outcome": "did not fit", "device": None}
    said = runs.error_report(WHOLE | {"cells": [wrong, theirs, unfit, cell(1, 1)]})
    assert "formula and ledger differ in 1 cells; 1 cells did not fit" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_command_line_says_in_one_sentence_that_there_is_no_gpu(tmp_path, capsys):
    assert main(["record", "--device", "cuda", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "device='cuda'" in said and "'cpu'" in said and len(said.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_records_and_prints_where(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "sweep", lambda *_: CELLS)
    assert main(["record", "--device", "fake", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    assert str(path) in capsys.readouterr().out
    assert "record --device fake" in runs.load(path)["provenance"]["command"]


def test_training_steps_are_cells_with_their_phases(tmp_path):
    cells = [one for one in rehearsal() if len(one) == 4]
    kinds = {(one[2], one[3].optimizer_kernel, one[3].lora_rank) for one in cells}
    assert {("dsmem", "foreach", None), ("dsmem", "fused", None), ("dsmem", "foreach", 8)} <= kinds
    asked = [one for one in cells if one[2] == "dsmem"][:3]
    path = runs.record(tmp_path, device="cpu", cells=asked)
    recording = runs.load(path)
    for cell, (arch, work, _, training) in zip(recording["cells"], asked, strict=True):
        assert cell["outcome"] == "ok" and cell["formula_bytes"] in (None, cell["ledger_bytes"])
        assert cell["phases"] == dsmem.measure(arch, work, training=training).ledger.phases
        assert all(seconds > 0 for seconds in cell["step_seconds"].values())
        assert "a training step" in cells_module.question_text(cell)
    assert runs.Recording(path, recording).left(asked) == []
    assert "formula and ledger differ in 0 cells" in runs.error_report(recording)
