"""The front door of what fits: three depths, and the machine at hand."""

import json

import pytest
from safetensors.numpy import save_file

import dsmem
from dsmem.config.source import DATA
from dsmem.footprint.checkpoints.weigh import checkpoint
from dsmem.footprint.fit.verdict import fit as by_formula
from dsmem.runs.fit import here

UNKNOWN = {  # a family without formulas, small
    "model_type": "stablelm",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "vocab_size": 200,
    "max_position_embeddings": 64,
}


def test_a_family_that_is_read_is_answered_by_its_formulas():
    answer = dsmem.fit("qwen2.5-0.5b", gpu="T4", batch=2)
    assert answer.asked.depth == "formula" and str(answer) == str(by_formula("qwen2.5-0.5b", gpu="T4", batch=2))


def test_another_is_answered_by_the_ledger_of_transformers_code(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(UNKNOWN), encoding="utf-8")
    answer = dsmem.fit(str(path), gpu=("mine", "24 MiB"), seq_len=16)
    assert answer.asked.depth == "ledger" and "more runs of seconds" in answer.sentence
    assert answer.peak_bytes == dsmem.measure(str(path), seq_len=16).ledger.peak_bytes
    assert any("transformers" in note for note in answer.notes)
    room = answer.needed_bytes + 200_000
    roomy = dsmem.fit(str(path), gpu=("mine", room), seq_len=16)

    def needed(**fields):
        peak = dsmem.measure(str(path), **fields).ledger.peak_bytes
        return peak + sum(most for _, most in roomy.overhead.values())

    most, longest = roomy.largest_batch, roomy.longest_context
    assert needed(batch=most, seq_len=16) <= room < needed(batch=most + 1, seq_len=16)
    assert longest == 64 or needed(seq_len=longest) <= room < needed(seq_len=longest + 1)
    with pytest.raises(ValueError, match="count=2 of a model without formulas"):
        dsmem.fit(str(path), gpu="T4", count=2)
    with pytest.raises(ValueError, match="sharding={'data': 2} of a model without formulas"):
        dsmem.fit(UNKNOWN, gpu="T4", sharding={"data": 2})


def test_files_alone_are_weighed_and_no_more_is_claimed(tmp_path, refuses):
    import numpy as np

    save_file({"model.embed_tokens.weight": np.zeros((512, 1024), np.float16)}, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors", str(tmp_path)):
        answer = dsmem.fit(path, gpu="T4")
        assert answer.asked.depth == "checkpoint" and answer.peak_bytes == checkpoint(tmp_path).total_bytes == 2**20
        assert answer.fits and answer.largest_batch is None and "nothing is claimed" in str(answer)
        assert answer.to_dict()["depth"] == "checkpoint" and repr(answer)
        for asked in ({"batch": 4}, {"training": True}, {"sharding": 2}):
            refuses(lambda path=path, asked=asked: dsmem.fit(path, gpu="T4", **asked), next(iter(asked)), "config")
    small = dsmem.fit(tmp_path, gpu=("mine", 2**20))
    assert not small.fits and "do not fit" in str(small)
    assert dsmem.fit(DATA / "small-r1", gpu="T4", seq_len=8).asked.depth == "formula"  # it has a config


def test_here_is_the_machine_at_hand():
    found, machine = here("here"), dsmem.here()
    assert (found.name, found.usable_bytes, found.backend) == (machine.name, machine.total_bytes, machine.device)
    assert here(machine) == found and dsmem.fit("qwen2.5-0.5b", seq_len=16).devices == found
    if machine.device == "cpu":
        assert dsmem.fit("qwen2.5-0.5b").overhead == {} and "not counted" in dsmem.fit("qwen2.5-0.5b").notes[-1]


@pytest.mark.parametrize("model", [None, 5, "no-such", "", {}, [1]])
def test_what_is_no_model_is_one_sentence(model, refuses):
    refuses(lambda: dsmem.fit(model, gpu="T4"), "model_type" if model == {} else "source")
