"""Every scheme: footprint and ledger are one number. Those beyond INT8: stored bytes, and outputs near float64."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import SMALL, layer, linear_layers, normal, relative_error
from strategies import quantized_passes

import dsmem
from dsmem import Workload, build_model, inference_footprint
from dsmem.config import schemes
from dsmem.model.decoder import TORCH_DTYPES
from dsmem.model.quantize import LAYERS
from dsmem.units import FLOATS, INT8_SCHEMES, QUANTIZED

WEIGHT_ONLY = [name for name in QUANTIZED if name not in INT8_SCHEMES]
# The norm of the difference to float64 over the norm, normal data. E4M3 keeps 3 bits behind the leading one: steps of
# 1/8 to 1/16 of the number, over sqrt(12), so about 2.6%.
# INT4: steps of a group's span (about 5.2 sigma of 128 numbers) / 15, over sqrt(12), so about 10%.
LAYER_BOUND = {"fp8": 0.03, "int4": 0.12}
LOGITS_BOUND = {"fp8": 0.06, "int4": 0.25}
every_scheme = pytest.mark.parametrize("scheme", QUANTIZED)
each_scheme = pytest.mark.parametrize("scheme", WEIGHT_ONLY)
each_float = pytest.mark.parametrize("activations", FLOATS)


def test_every_scheme_has_a_layer_and_a_size():
    assert set(LAYERS) == {name for name, scheme in schemes.SCHEMES.items() if scheme.runs} == set(QUANTIZED)


@every_scheme
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_total_is_the_ledgers_peak(scheme, phase):
    @given(quantized_passes(scheme, phase=phase))
    @settings(max_examples=30)
    def check(case):
        run = dsmem.measure(*case, device="fake")
        assert run.footprint.total_bytes == run.ledger.peak_bytes

    check()


@every_scheme
def test_the_total_is_the_ledgers_peak_on_real_tensors(scheme):
    @given(quantized_passes(scheme, small=True))
    @settings(max_examples=20)
    def check(case):
        run = dsmem.measure(*case, device="cpu")
        assert run.footprint.total_bytes == run.ledger.peak_bytes

    check()


@every_scheme
def test_every_linear_layer_peaks_where_the_footprint_says(scheme):
    @given(quantized_passes(scheme))
    @settings(max_examples=20)
    def check(case):
        run = dsmem.measure(*case, device="fake")
        live, most = run.ledger.timeline().live_bytes, {}
        for record in run.ledger.records:
            name = record.module.split(".")[-1]
            if name.endswith(("proj", "lm_head")) and record.module.startswith(("layers.0.", "lm_head")):
                most[name] = max(most.get(name, 0), int(live[record.birth]))
        totals = run.footprint.totals
        before = ("unpack", "quantize")  # an instant of the same layer before its product
        assert {name: max([totals[name], *(totals.get(f"{name} {b}", 0) for b in before)]) for name in most} == most

    check()


@each_scheme
def test_stored_bytes_are_those_of_the_models_parameters(scheme):
    @given(quantized_passes(scheme))
    @settings(max_examples=30)
    def check(case):
        arch, work = case
        model = build_model(arch, scheme, "fake", work.activations, work.modules_to_not_convert)
        parts = inference_footprint(arch, work).instants["rotate"]
        stored = {name: part for name, part in parts.items() if name.startswith("weight")}
        assert sum(stored.values()) == sum(parameter.nbytes for parameter in model.parameters())
        payload = [m.weight.nbytes for m in linear_layers(model).values() if type(m) is LAYERS[scheme]]
        assert stored.get(f"weights_{schemes.SCHEMES[scheme].element}", 0) == sum(payload)

    check()


@each_scheme
def test_arrays_give_the_same_as_loops(scheme):
    @given(quantized_passes(scheme), *2 * [st.lists(st.integers(1, 600), min_size=1, max_size=4)])
    @settings(max_examples=20)
    def check(case, batch, seq_len):
        arch, work = case
        work = dataclasses.replace(work, cached_tokens=None)  # of a decode, it follows seq_len
        grid = inference_footprint(arch, work.changed(batch=np.array(batch)[:, None], seq_len=np.array(seq_len)))
        for (i, j), total in np.ndenumerate(grid.total_bytes):
            one = inference_footprint(arch, work.changed(batch=batch[i], seq_len=seq_len[j]))
            assert (total, grid.peak_instant[i, j]) == (one.total_bytes, one.peak_instant)

    check()


@each_float
@each_scheme
@pytest.mark.parametrize(("n_in", "n_out"), [(64, 64), (300, 200), (896, 1000), (1000, 896)])
def test_a_layer_is_near_float64(scheme, activations, n_in, n_out):
    dtype = TORCH_DTYPES[activations]
    weight, x = (0.02 * normal(n_out, n_in)).to(dtype), normal(40, n_in, seed=1).to(dtype)
    got = layer(scheme, weight, activations)(x)
    assert got.dtype == dtype
    assert LAYER_BOUND[scheme] / 3 < relative_error(got, x.double() @ weight.double().T) <= LAYER_BOUND[scheme]


@each_float
@each_scheme
def test_a_bias_is_added(scheme, activations):
    dtype = TORCH_DTYPES[activations]
    made, x = layer(scheme, 0.02 * normal(96, 64), activations, bias=True), normal(2, 5, 64, seed=1).to(dtype)
    without = made(x)
    made.bias.copy_(normal(96, seed=2))
    torch.testing.assert_close(made(x).float(), without.float() + made.bias.float(), rtol=0.01, atol=0.01)


@each_scheme
def test_a_weight_of_zeros_gives_zeros(scheme):
    assert not layer(scheme, torch.zeros(130, 140))(normal(4, 140)).any()


@each_float
@each_scheme
@torch.no_grad()
def test_the_logits_of_a_model_are_near_those_before_rounding(scheme, activations):
    tokens = torch.randint(96, (2, 24), generator=torch.Generator().manual_seed(5))
    exact = build_model(SMALL, activations, "cpu", seed=3)(tokens).double()
    rounded = build_model(SMALL, scheme, "cpu", activations=activations, seed=3)(tokens)
    assert rounded.dtype == TORCH_DTYPES[activations]
    assert 0 < relative_error(rounded, exact) <= LOGITS_BOUND[scheme]


@each_scheme
def test_a_head_that_is_the_embedding_cannot_be_converted(scheme, refuses):
    arch = SMALL.scaled(tie_word_embeddings=True)
    work = Workload(weights=scheme, modules_to_not_convert=())
    refuses(lambda: inference_footprint(arch, work), "lm_head", "ties", arch.name)


@each_scheme
def test_a_scheme_is_no_format_to_compute_in(scheme, refuses):
    refuses(lambda: Workload(weights=scheme, activations=scheme), f"activations={scheme!r}", "fp16")
