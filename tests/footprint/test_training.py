"""A training step's formula against the ledger of a real step: every instant at which memory is at a height."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import any_architectures

import dsmem
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.training import training_footprint
from dsmem.memory.ledger import Ledger
from dsmem.model.decoder import build_model
from dsmem.model.training import TrainingStep

WIDE = {"intermediate": 96, "vocab": 200}


def stepped(arch, work, training, device="fake"):
    """The closed ledger of one step of our decoder."""
    model = build_model(arch, weights=training.parameters(work), device=device)
    step = TrainingStep(
        model, torch.zeros(work.batch, work.seq_len, dtype=torch.long), training, work.activations, work.attention
    )
    with Ledger(model) as ledger:
        step.observer = ledger
        step.run()
    return ledger


def heights(ledger):
    """Live bytes wherever something dies right after a birth, from the first operator of the layers on.

    Not those between the turns in which a mixture adds up its choices: the largest turn is an instant, the others not.
    """
    live = list(itertools.accumulate(sign * record.nbytes for record, sign in ledger.events))
    start = next(n for n, (record, _) in enumerate(ledger.events) if record.op == "embedding")
    found = []
    for number in range(start, len(live)):
        record, sign = ledger.events[number]
        dies_next = number + 1 == len(live) or ledger.events[number + 1][1] < 0
        turn = (
            record.op in ("tensor", "lift_fresh")
            or record.op == "mul"
            and record.module == ""
            and len(record.shape) == 2
        )
        if sign > 0 and dies_next and not turn:
            found.append((f"{record.op} {record.module} {record.shape}", live[number]))
    return found


def check(arch, work, training):
    ledger, fp = stepped(arch, work, training), training_footprint(arch, work, training)
    instants, place = list(fp.totals.items()), 0
    for name, height in heights(ledger):
        ahead = range(max(place - 1, 0), len(instants))
        found = next((number for number in ahead if instants[number][1] == height), None)
        assert found is not None, f"{name}: {height:,} is no instant after {instants[max(place - 1, 0)]}"
        place = found + 1
    assert fp.total_bytes == ledger.peak_bytes
    assert fp.phases == {name: ledger.phases[name] for name in fp.phases}


@settings(max_examples=40)
@given(
    arch=any_architectures(width=48, **WIDE),
    work=st.builds(
        Workload,
        batch=st.integers(1, 3),
        seq_len=st.integers(2, 40),
        weights=st.sampled_from(("bf16", "fp16", "fp32")),
        attention=st.sampled_from(("fused", "expanded", "eager")),
        cache=st.just("none"),
    ),
    checkpointing=st.sampled_from(("none", "full", "selective")),
    optimizer=st.sampled_from(("none", "adamw", "sgd")),
    kernel=st.sampled_from(("foreach", "loop", "fused")),
    precision=st.sampled_from(("pure", "master")),
)
def test_every_height_of_a_step_is_an_instant_of_the_formula(arch, work, checkpointing, optimizer, kernel, precision):
    assume(min(arch.hidden_size, arch.intermediate_size, arch.vocab_size) > 1)
    training = Training(optimizer, kernel, precision, checkpointing=checkpointing)
    try:
        training_footprint(arch, work, training)
    except ValueError as error:
        assert "no formula in training" in str(error)
        assume(False)
    check(arch, work, training)


@pytest.mark.parametrize("attention", ["fused", "eager"])
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_dropout_of_a_gpt_block_keeps_its_masks(attention, checkpointing):
    arch = dsmem.Architecture.of("gpt2").scaled(
        hidden_size=48, num_attention_heads=4, num_key_value_heads=4, head_dim=12
    )
    arch = arch.scaled(intermediate_size=192, num_hidden_layers=2, vocab_size=99)
    work = Workload(batch=2, seq_len=16, weights="bf16", attention=attention, cache="none")
    check(arch, work, Training(dropout=0.1, checkpointing=checkpointing))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"precision": "autocast"}, ["precision='autocast'"]),
        ({"optimizer": "lion"}, ["optimizer='lion'"]),
        ({"lora_rank": 8}, ["lora_rank=8"]),
        ({"loss_chunk": 8}, ["loss_chunk=8"]),
        ({"step_in_backward": True}, ["step_in_backward=True"]),
        ({"sharding": 2}, ["sharding=2"]),
        ({"seq_len": 1}, ["seq_len=1"]),
        ({"phase": "decode", "cache": "static"}, ["phase='decode'"]),
        ({"weights": "int8"}, ["weights='int8'"]),
        ({"optimiser": "adamw"}, ["field='optimiser'"]),
    ],
)
def test_what_has_no_formula_is_refused_by_name_with_the_way_on(fields, words, refuses):
    refuses(lambda: training_footprint("qwen2.5-0.5b", **fields), *words)


def test_a_step_of_the_largest_model_is_told_in_a_second_and_over_arrays():
    fp = training_footprint("deepseek-r1", batch=np.array([1, 2, 8]), seq_len=4096, checkpointing="full")
    one = training_footprint("deepseek-r1", batch=8, seq_len=4096, checkpointing="full")
    assert fp.total_bytes[2] == one.total_bytes and fp.phases["forward"][2] == one.phases["forward"]
