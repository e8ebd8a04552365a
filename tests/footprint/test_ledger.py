"""Formula and ledger are one number, to the byte: every kind of decoder, every format, every cache, fake and real."""

import collections

import pytest
import torch
from hypothesis import given, settings
from strategies import architectures, drawn_for, passes, workloads

import dsmem
from dsmem import Architecture, Workload
from dsmem.model import checkpoint, small
from dsmem.units import QUANTIZED

FORMATS = ("float", *QUANTIZED)
R1 = Architecture.from_config("deepseek-r1")
PIECES = torch.tensor(list(small.small_text()[: 2 * 64])).view(2, 64)
each_format = pytest.mark.parametrize("weights", FORMATS)
each_attention = pytest.mark.parametrize("attention", ["fused", "expanded", "eager", "eager_fp32"])
each_phase = pytest.mark.parametrize("phase", ["prefill", "decode"])


def holds(run):
    """The peak is the ledger's, and the ledger holds each instant's total at one step or other."""
    assert run.footprint.total_bytes == run.ledger.peak_bytes
    assert set(run.footprint.totals.values()) <= set(run.ledger.timeline().live_bytes.tolist())


@each_format
@each_phase
@each_attention
def test_the_total_is_the_ledgers_peak_and_every_instant_is_seen(weights, phase, attention):
    @drawn_for(weights, phase, attention)
    @given(passes(None if weights == "float" else weights, phase=phase, attention=attention))
    @settings(max_examples=40 if weights == "float" else 10)
    def check(case):
        holds(dsmem.measure(*case))

    check()


@each_format
def test_the_total_is_the_ledgers_peak_on_real_tensors(weights):
    @drawn_for(weights)
    @given(passes(None if weights == "float" else weights, small=True))
    @settings(max_examples=40 if weights == "float" else 20)
    def check(case):
        holds(dsmem.measure(*case, device="cpu"))

    check()


def tensor_sizes(parts):
    """The sizes of the tensors behind the parts, weights apart; the tables are two, cosines twice the sines."""
    sizes = {name: nbytes for name, nbytes in parts.items() if not name.startswith("weight")}
    tables = sizes.pop("rope_tables")
    return collections.Counter([*sizes.values(), tables // 3 * 2, tables // 3])


def live_sizes(ledger):
    """The sizes of the tensors alive at the ledger's peak, parameters apart, the caches of all layers as one."""
    alive = [record for record in ledger.at_peak() if record.category != "weight"]
    cache = sum(record.nbytes for record in alive if record.category == "kv_cache")
    others = [record.nbytes for record in alive if record.category != "kv_cache"]
    return collections.Counter([*others, cache] if cache else others)


@given(architectures(), workloads())
@settings(max_examples=60)
def test_the_parts_are_the_tensors_alive_at_the_peak_in_the_ledgers_categories(arch, work):
    run = dsmem.measure(arch, work)
    # equal instants may differ in their parts, and either may be the ledger's
    peaks = [p for p in run.footprint.instants.values() if sum(p.values()) == run.footprint.total_bytes]
    assert live_sizes(run.ledger) in [tensor_sizes(parts) for parts in peaks]
    parts, booked = run.footprint.parts, run.ledger.by_category()
    named = {"weights": "weight", "kv_cache": "kv_cache", "buffers": "buffer", "token_ids": "input"}
    assert {part: parts.get(part, 0) for part in named} == {part: booked.get(c, 0) for part, c in named.items()}
    rest = sum(nbytes for part, nbytes in parts.items() if part not in named)
    assert rest == booked.get("activation", 0) + booked.get("temporary", 0)


def test_r1_at_full_size_on_fake_tensors():
    work = Workload(1, 4096, weights="fp8", activations="bf16")
    run = dsmem.measure(R1, work)
    holds(run)
    assert run.ledger.by_category()["kv_cache"] == 4096 * 70_272
    # a hidden s**2 would be 128 heads of 4,096 x 4,096 scores
    made = [r.nbytes for r in run.ledger.records if r.category in ("activation", "temporary")]
    assert max(made) < 2 * 128 * 4096**2 // 2
    holds(dsmem.measure(R1, Workload(1, 4097, "decode", weights="fp8", activations="bf16")))


@pytest.mark.parametrize("weights", ["bf16", *QUANTIZED])
@torch.no_grad()
def test_the_trained_model_peaks_where_the_footprint_says(weights):
    model = checkpoint.load_model(small.small_path(), weights=weights, activations="bf16")
    formats = {"weights": weights, "activations": "bf16"}
    passes = [(PIECES, None, Workload(2, 64, cache="none", **formats))]
    for mla_cache in ("latent", "expanded"):
        cache = model.new_cache(2, 65, mla_cache=mla_cache)
        model(PIECES, cache=cache)
        passes.append((PIECES[:, :1], cache, Workload(2, 65, "decode", 64, mla_cache=mla_cache, **formats)))
    for tokens, cache, work in passes:
        own = tokens.clone()  # a view would count as the whole text
        with dsmem.Ledger(model) as ledger:
            model(own, cache=cache)
        assert ledger.peak_bytes == dsmem.inference_footprint(model.arch, work).total_bytes
