"""One line at a prompt gets an answer, whatever form the model and the formats have; what cannot be is one sentence."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

import dsmem
from dsmem import Architecture, Workload, inference_footprint, measure

NAME = "qwen2.5-0.5b"
ARCH = Architecture.from_config(NAME)
CONFIG = json.loads((dsmem.config.source.DATA / "models" / f"{NAME}.json").read_text(encoding="utf-8"))
ROOMS = "check config formulas footprint memory model plots publish runs serving site table teaching units".split()


# Answers


def test_a_pass_is_measured_by_one_line():
    run = measure(NAME, batch=4, seq_len=1024)
    predicted = inference_footprint(NAME, batch=4, seq_len=1024)
    assert run.footprint.total_bytes == run.ledger.peak_bytes == predicted.total_bytes
    assert run.work == Workload(4, 1024) and run.arch == ARCH


def test_r1_is_predicted_by_one_line():
    fp = inference_footprint("deepseek-r1", seq_len=4096, weights="fp8")
    assert fp.parts["latent_cache"] == 4096 * 70_272
    assert sum(fp.parts[part] for part in fp.parts if part.startswith("weight")) == 673_150_552_416


def forms(folder):
    """The same model in every form that is taken."""
    folder = Path(folder) / NAME
    folder.mkdir()
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    config = AutoConfig.for_model(**CONFIG)
    hub_name = f"Qwen/{NAME.upper().replace('QWEN', 'Qwen')}"
    return [NAME, hub_name, str(path), path, folder, str(folder), dict(CONFIG), config, config.to_dict(), ARCH]


@pytest.mark.parametrize("form", range(10))
@pytest.mark.parametrize(
    "call",
    [
        lambda model: inference_footprint(model, batch=2, seq_len=8).total_bytes,
        lambda model: measure(model, batch=2, seq_len=8).ledger.peak_bytes,
        lambda model: sum(p.nbytes for p in dsmem.build_model(model, "bf16", "fake").parameters()),
        lambda model: dsmem.footprint.stored.weight_bytes(model),
        lambda model: len(dsmem.find_tensor("259.66 MiB", model).candidates),
    ],
)
def test_a_model_is_taken_in_every_form(form, call, tmp_path):
    assert call(forms(tmp_path)[form]) == call(ARCH)


@pytest.mark.parametrize("spelling", ["bf16", "bfloat16", "torch.bfloat16", torch.bfloat16, "BF16", "BFloat16"])
def test_a_format_is_taken_in_every_spelling(spelling):
    work = Workload(weights=spelling, kv_cache=spelling)
    assert (work.weights, work.activations, work.kv_cache) == ("bf16", "bf16", "bf16")
    assert dsmem.build_model(NAME, spelling, "fake").lm_head.weight.dtype == torch.bfloat16
    assert dsmem.footprint.stored.weight_bytes(NAME, spelling) == 2 * ARCH.n_params


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("float16", "fp16"), (torch.float16, "fp16"), ("half", "fp16"), (torch.float32, "fp32"), ("float", "fp32")]
    + [(torch.float8_e4m3fn, "fp8"), (torch.int8, "int8"), ("INT8", "int8")],
)
def test_torchs_spellings_name_the_kits_formats(spelling, name):
    assert Workload(weights=spelling) == Workload(weights=name)


def test_attention_auto_is_what_the_device_runs():
    run = measure(NAME, seq_len=8, attention="auto")
    assert run.work.attention == "fused"
    assert inference_footprint(NAME, seq_len=8, attention="auto").total_bytes == run.ledger.peak_bytes


def test_a_workload_may_be_given_whole_changed_or_by_its_fields():
    work = Workload(2, 16, "decode", kv_cache="int8")
    for given in (
        inference_footprint(NAME, work),
        inference_footprint(NAME, work=work),
        inference_footprint(NAME, work.changed(batch=1), batch=2),
        inference_footprint(NAME, batch=2, seq_len=16, phase="decode", kv_cache="int8"),
    ):
        assert given.work == work


# Refusals


def build(model):
    return dsmem.build_model(model, device="fake")


def find(model):
    return dsmem.find_tensor("448 MiB", model)


@pytest.mark.parametrize("source", [None, 3, 3.5, [], b"qwen", object, "no-such", "", {}, {"model_type": 3}], ids=str)
@pytest.mark.parametrize("call", [measure, inference_footprint, Architecture.of, build, find])
def test_what_is_not_a_model_is_refused(call, source, refuses):
    words = ("model_type",) if isinstance(source, dict) else ("source", repr(source), NAME)
    refuses(lambda: call(source), *words)


WRONG = {  # field: values that it cannot have
    "batch": ["4", None, 1.5, 0, -1, True, float("nan"), [], {"a": 1}, [[1], [2, 3]], object],
    "seq_len": ["1024", None, 1e3, 0, True, [1, None]],
    "block_size": ["16", None, 0, 1.5],
    "phase": [None, 1, "train", "Prefill", ["prefill"]],
    "attention": [None, True, "flash", 1],
    "logits": [None, "none", 1],
    "cache": [None, "swapped", False],
    "mla_cache": [None, "absorbed", 0],
    "weights": [16, "fp6", True, ["fp16"], torch.float64, torch.int32, "nf4"],
    "activations": [16, "int8", True, "fp6"],
    "kv_cache": [16, "int4", True, ["fp16"]],
    "modules_to_not_convert": [None, 3, "head", ["head"], [None], [1]],
}


CASES = [(field, value) for field, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("field", "value"), CASES, ids=str)
def test_a_field_that_cannot_be_is_refused(field, value, refuses):
    said = dsmem.units.format_name(value) if field in ("weights", "activations", "kv_cache") else value
    said = value[0] if field == "modules_to_not_convert" and isinstance(value, list) else said
    refuses(lambda: inference_footprint(NAME, **{field: value}), f"{field}={said!r}")
    refuses(lambda: measure(NAME, Workload(), **{field: value}), f"{field}={said!r}")


@pytest.mark.parametrize("call", [measure, inference_footprint, dsmem.footprint.stored.cache_bytes])
@pytest.mark.parametrize("field", ["batchsize", "seq_length", "dtype", "max_len"])
def test_a_field_that_does_not_exist_is_refused_with_those_that_do(call, field, refuses):
    refuses(lambda: call(NAME, **{field: 4}), f"field={field!r}", *(f.name for f in dataclasses.fields(Workload)))


@pytest.mark.parametrize("work", ["prefill", 3, {"batch": 4}, [4, 1024], Workload])
@pytest.mark.parametrize("call", [measure, inference_footprint])
def test_what_is_not_a_workload_is_refused(call, work, refuses):
    refuses(lambda: call(NAME, work), f"work={work!r}", "batch=4")


EVENTS = [("a", 512, "a")]
REFUSED = {
    "device of another kind": (lambda: measure(NAME, device=3), "device=3", "'fake'"),
    "device unknown": (lambda: measure(NAME, device="gpu"), "device='gpu'", "'fake'"),
    "code unknown": (lambda: measure(NAME, code="hf"), "code='hf'", "transformers"),
    "seed a text": (lambda: measure(NAME, seed="a"), "seed='a'", "whole number"),
    "seed none": (lambda: dsmem.build_model(NAME, device="fake", seed=None), "seed=None", "whole number"),
    "an array measured": (lambda: measure(NAME, batch=[1, 2]), "batch", "array"),
    "sharding": (lambda: inference_footprint(NAME, sharding=4), "tensor=4", "num_attention_heads=14"),
    "explain nothing": (lambda: dsmem.explain(None), "run=None", "measure"),
    "a ledger of a name": (lambda: dsmem.Ledger(NAME), f"model={NAME!r}", "Module"),
    "replay nothing": (lambda: dsmem.replay(None), "source=None", "ledger"),
    "replay numbers": (lambda: dsmem.replay([1]), "source=[1]", "(key, bytes, label)"),
    "replay fractions": (lambda: dsmem.replay([("a", 1.5, "")]), "events[0]", "1.5"),
    "workspace a text": (lambda: dsmem.replay(EVENTS, workspace_bytes="3"), "workspace_bytes='3'", "bytes"),
    "capacity a text": (lambda: dsmem.replay(EVENTS, capacity="3"), "capacity='3'", "bytes"),
    "formula unknown": (lambda: dsmem.show("x"), "formula='x'", "kv_cache_bytes"),
    "formula none": (lambda: dsmem.show(None), "formula=None", "kv_cache_bytes"),
    "size none": (lambda: dsmem.find_tensor(None, NAME), "size=None", "448 MiB"),
    "size without unit": (lambda: dsmem.find_tensor("448", NAME), "size='448'", "448 MiB"),
    "most a text": (lambda: dsmem.find_tensor("448 MiB", NAME, most="3"), "most='3'", "at least 1"),
    "most zero": (lambda: dsmem.find_tensor("448 MiB", NAME, most=0), "most=0", "at least 1"),
    "gpu unknown": (lambda: dsmem.GPUS["T5"], "gpu='T5'", "T4"),
    "gpu none": (lambda: dsmem.GPUS[None], "gpu=None", "T4"),
    "no instants": (lambda: dsmem.Footprint({}), "instants={}", "{part: bytes}"),
    "instants none": (lambda: dsmem.Footprint(None), "instants=None", "{part: bytes}"),
    "scaled by a text": (lambda: ARCH.scaled(vocab_size="2"), "vocab_size='2'", "whole number"),
    "scaled in no field": (lambda: ARCH.scaled(layers=2), "field='layers'", "num_hidden_layers"),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_a_call_that_cannot_be_is_refused(call, refuses):
    refuses(call[0], *call[1:])


# What is shown


@pytest.fixture(scope="module")
def run():
    return measure("deepseek-v2-lite", seq_len=64, weights="fp8", activations="bf16")


SHOWN = {
    "Run": lambda run: run,
    "Ledger": lambda run: run.ledger,
    "Replay": lambda run: run.replay,
    "Footprint": lambda run: run.footprint,
    "Architecture": lambda run: run.arch,
    "Waterfall": lambda run: run.gaps(),
    "Found": lambda run: dsmem.find_tensor("448 MiB", run.arch),
}
# a peak with experts has a dozen parts, and a title and a total beside them
MOST_LINES = {"Footprint": 16, "Found": 16}


@pytest.mark.parametrize("name", SHOWN)
def test_a_prompt_shows_a_few_lines_and_a_notebook_a_table(name, run):
    shown = SHOWN[name](run)
    lines = repr(shown).splitlines()
    assert 1 <= len(lines) <= MOST_LINES.get(name, 12), repr(shown)
    assert max(map(len, lines)) <= 160
    table = shown._repr_html_()
    assert table.startswith("<table>") and table.endswith("</table>") and table.count("<tr>") >= 3
    assert not re.search(r"object at 0x", repr(shown) + table)


def test_what_holds_arrays_or_nothing_is_still_one_line():
    arrays = inference_footprint(NAME, batch=np.array([1, 2]))
    for shown in (arrays, dsmem.Ledger(), dsmem.Ledger(torch.nn.Linear(2, 2))):
        assert len(repr(shown).splitlines()) == 1 and "object at" not in repr(shown)
        assert shown._repr_html_() is None


# What there is


def test_dir_lists_the_rooms_and_the_public_names_and_nothing_private():
    assert dir(dsmem) == sorted({*ROOMS, *dsmem.__all__})
    assert [name for name in dir(dsmem) if name.startswith("_")] == []


@pytest.mark.parametrize(
    "room", [room for room in ROOMS if room not in ("publish", "site", "table", "teaching", "units")]
)
def test_a_room_lists_its_files_and_names_and_nothing_private(room):
    listed = dir(getattr(dsmem, room))
    public = [name for name in listed if not name.startswith("__")]
    assert public and [name for name in public if name.startswith("_")] == []
    assert all(hasattr(getattr(dsmem, room), name) for name in listed)


def public():
    """{dotted name: object} of every public function and class of the package and of its rooms' own lists."""
    found = {f"dsmem.{name}": getattr(dsmem, name) for name in dsmem.__all__}
    for room in ROOMS:
        module = getattr(dsmem, room)
        names = getattr(module, "__all__", [])
        found |= {f"dsmem.{room}.{name}": getattr(module, name) for name in names}
    return {name: thing for name, thing in found.items() if inspect.isfunction(thing) or inspect.isclass(thing)}


PUBLIC = public()


def functions():
    """Every public function, and of public classes the constructor and the public methods that they define."""
    for thing in PUBLIC.values():
        if inspect.isfunction(thing):
            yield thing
            continue
        for name, value in vars(thing).items():
            plain = getattr(value, "fget", getattr(value, "__func__", value))
            if inspect.isfunction(plain) and (name == "__init__" or not name.startswith("_")):
                yield plain


def hinted(function):
    """Whether every argument and the result say their type; a constructor has no result."""
    signature = inspect.signature(function)
    arguments = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    returns = function.__name__ == "__init__" or signature.return_annotation is not signature.empty
    return returns and all(argument.annotation is not argument.empty for argument in arguments)


def unhinted():
    """Their names, those of formulas apart: a formula takes numbers, arrays and symbols alike."""
    names = {f"{f.__module__}.{f.__qualname__}".removeprefix("dsmem.") for f in functions() if not hinted(f)}
    return sorted(name for name in names if not name.startswith("formulas."))


def test_every_public_name_has_a_docstring():
    assert [name for name, thing in PUBLIC.items() if not inspect.getdoc(thing)] == []


# Public names without all their type hints. The list only gets shorter: hint a name, and take it out.
UNHINTED = """
memory.allocator.rounded_bytes
memory.allocator.segment_bytes
""".split()


def test_every_public_name_has_type_hints_but_those_that_are_listed():
    assert unhinted() == sorted(UNHINTED)
