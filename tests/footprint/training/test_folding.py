"""Layers that are counted are told as if each had run, instant by instant; and the peak is found without them."""

import functools
import time
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import any_architectures

import dsmem
from dsmem.footprint.instants import Footprint
from dsmem.footprint.training import operators
from dsmem.footprint.training.step import training_footprint

SIZES = st.sampled_from(((2, 24), (np.arange(2, 6), 24), (2, np.array([9, 700, 4000])), (np.array([[2], [3]]), 8)))


@st.composite
def deep(draw, **widths):
    """Any decoder with up to 12 layers of every kind."""
    arch, layers = draw(any_architectures(**widths)), draw(st.integers(1, 12))
    last = draw(st.sets(st.integers(0, 11), max_size=3))
    more = {"mlp_only_layers": tuple(sorted(last))} if arch.n_routed_experts else {}
    return arch.scaled(num_hidden_layers=layers, layer_types=(arch.layer_types * 12)[:layers], **more)


def unfolded(*args, **fields):
    """The footprint of a step in which every layer runs."""
    with mock.patch.object(operators, "kinds", lambda arch, _: {n: n for n in range(arch.num_hidden_layers)}):
        return training_footprint(*args, **fields)


def same(one, other):
    assert list(one) == list(other)
    for name, parts in one.items():
        assert sorted(parts) == sorted(other[name]), name
        for part, nbytes in parts.items():
            assert np.array_equal(nbytes, other[name][part]), (name, part)


@settings(max_examples=60)
@given(
    arch=deep(width=48, hidden=64),
    sizes=SIZES,
    attention=st.sampled_from(("fused", "expanded", "eager")),
    checkpointing=st.sampled_from(("none", "full", "selective")),
    kernel=st.sampled_from(("foreach", "loop")),
    precision=st.sampled_from(("pure", "autocast")),
    lora=st.none() | st.sampled_from(("o_proj", "gate_proj", "up_proj", "lm_head")),
)
def test_what_does_not_run_is_told_as_if_it_had(arch, sizes, attention, checkpointing, kernel, precision, lora):
    fields = {"batch": sizes[0], "seq_len": sizes[1], "attention": attention, "checkpointing": checkpointing}
    fields |= {"optimizer_kernel": kernel, "precision": precision}
    fields |= {"lora_rank": 4, "lora_targets": (lora,)} if lora else {}
    try:
        told = training_footprint(arch, **fields)
    except ValueError as error:
        assert "no formula in training" in str(error) or "lora_targets" in str(error)
        return
    whole = unfolded(arch, **fields)
    same(told.instants, whole.instants)
    peak = Footprint(told.instants)
    assert np.array_equal(told.total_bytes, peak.total_bytes)
    assert np.array_equal(told.peak_instant, peak.peak_instant)
    same({"peak": told.parts}, {"peak": peak.parts})


SLIDING = {"sliding_window": 64, "layer_types": (*["full_attention"] * 3, *["sliding_attention"] * 21)}
SCALED = {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}  # but in layer 7, where it cancels out


DEEP = {"deepseek-r1": {}, "gpt2": SCALED, "qwen2.5-0.5b": SLIDING}


@pytest.mark.parametrize("precision", ["pure", "autocast"])
@pytest.mark.parametrize("name", DEEP)
def test_a_deep_model_is_told_as_if_all_layers_had_run(name, precision):
    arch = dsmem.Architecture.of(name).scaled(**DEEP[name])
    fields = {"batch": 2, "seq_len": 512, "attention": "eager", "precision": precision}
    same(training_footprint(arch, **fields).instants, unfolded(arch, **fields).instants)


def test_a_slider_over_the_largest_model_does_not_wait():
    arch = dsmem.Architecture.of("deepseek-r1")
    told = functools.partial(training_footprint, arch, seq_len=4096, checkpointing="full")
    start = time.process_time()
    for batch in (1, 2, 4, 8):
        assert told(batch=batch).total_bytes > 0
    one = (time.process_time() - start) / 4
    start = time.process_time()
    assert (told(batch=np.arange(1, 65)).total_bytes > 0).all()
    assert one < 0.1 and time.process_time() - start < 0.3  # 0.01 and 0.03 on a machine at rest
