"""A step of a few layers written out for many is the step of many."""

import numpy as np
import pytest

from dsmem import Training, Workload
from dsmem.memory.records import BEFORE
from dsmem.memory.steps import KEPT, StepEvents
from dsmem.runs.lora_training import _ledger

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("quant", ["none", "nf4"])
@pytest.mark.parametrize("attention", ["eager", "fused"])
def test_it_is_the_step_of_all_layers_event_by_event(quant, attention):
    work = Workload(2, 16, weights="fp16", cache="none", attention=attention)
    training = Training(checkpointing="full", lora_rank=4)
    few, owners = _ledger(TINY | {"num_hidden_layers": KEPT}, work, training, quant)
    many, _ = _ledger(TINY | {"num_hidden_layers": 9}, work, training, quant)
    found, end = StepEvents(few, owners, 9), many.marks["optimizer step"]
    want = [sign * record.nbytes for record, sign in many.events[:end] if record.op != BEFORE]
    assert [change for _, change, _ in found.step] == want
    there = [record.nbytes for record, _ in many.events if record.op == BEFORE and record.shape]
    assert sorted(nbytes for _, (_, nbytes, _) in found.before) == sorted(there)
    before = len([record for record, _ in many.events if record.op == BEFORE])
    assert found.turn == many.marks["backward"] - before
    assert np.cumsum(want).max() > 0
