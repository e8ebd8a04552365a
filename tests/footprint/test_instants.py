"""Every instant by name: the footprint's total is what the ledger holds right after the birth that the name stands for.

One table for all kinds of decoders: module, operator (None: any), and which of its births in the first such layer.
"""

import pytest
from hypothesis import given, settings
from strategies import any_architectures, drawn_for, kinds_of_architectures, live_after, passes, workloads

import dsmem
from dsmem.units import QUANTIZED

KINDS = kinds_of_architectures()


def inside(module, table):
    """The table with its modules named from the root; those of `module` itself are ""."""
    return {name: (f"{module}.{part}".rstrip("."), op, index) for name, (part, op, index) in table.items()}


SWIGLU = {
    "gate_proj": ("gate_proj", None, 0),
    "silu": ("", "silu", 0),
    "gelu_pytorch_tanh": ("", "gelu", 0),
    "up_proj": ("up_proj", None, 0),
    "gate_up_proj": ("gate_up_proj", None, 0),
    "gate_times_up": ("", "mul", 0),
    "down_proj": ("down_proj", None, 0),
}
ATTENTION = {
    **{name: (name, None, 0) for name in ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj")},
    **{name: (name, None, 0) for name in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")},
    **{name: (name, "rms_norm", 1) for name in ("q_norm", "q_a_layernorm", "kv_a_layernorm")},
    "rotate": ("", "mul", 0),
    "attention": ("", "attention", 1),
    "scores": ("", "bmm", 0),
    "softmax": ("", "_softmax", 0),
}
GROUPED = ATTENTION | {
    "read keys": ("", "_to_copy", 0),
    "read values": ("", "_to_copy", 1),
    "widen_keys": ("", "clone", 0),
    "widen_values": ("", "clone", 1),
    "queries_by_head": ("", "clone", 2),
    "merge_heads": ("", "clone", 3),
}
JOINED = {"join keys": ("", "new_empty", 0), "join values": ("", "new_empty", 1)}  # in layers that slide
LATENT = ATTENTION | {"rotate_key": ("", "mul", 1), "keys": ("", "cat", 0)}
LATENT_FUSED = LATENT | {"pad_values": ("", "constant_pad_nd", 0), "trim_heads": ("", "clone", 1)}
LATENT_EAGER = LATENT | {
    "widen_keys": ("", "clone", 1),
    "widen_values": ("", "clone", 2),
    "queries_by_head": ("", "clone", 3),
    "merge_heads": ("", "clone", 4),
}
ABSORBED = LATENT | {
    "absorb_queries": ("", "cat", 0),
    "scores": ("", "bmm", 1),
    "mix_latents": ("", "bmm", 2),
    "absorb_output": ("", "clone", 1),
}
INDEXER = {
    **{f"indexer.{name}": (name, None, 0) for name in ("wq_b", "wk", "weights_proj")},
    "indexer.rotate": ("", "mul", 0),
    "indexer.k_norm": ("k_norm", "layer_norm", 2),
    "indexer.rotate_key": ("", "mul", 1),
    "widen_index_weights": ("", "_to_copy", 0),
    "index_scores": ("", "index_scores", -1),
    "choose_keys": ("", "topk", 1),
    "index_bias": ("", "new_full", 0),
}
INDEXER_EAGER = INDEXER | {"index_scores by head": ("", "bmm", 0), "index_scores": ("", "bmm", 1)}
GPT = inside("layers.0.self_attn", GROUPED | {"qkv_proj": ("qkv_proj", None, 0)}) | {
    "embed_positions": ("embed_positions", "embedding", 0),
    "add_positions": ("", "add", 0),
    "input_layernorm": ("layers.0.input_layernorm", "layer_norm", 2),
    "post_attention_layernorm": ("layers.0.post_attention_layernorm", "layer_norm", 2),
    "up_proj": ("layers.0.mlp.up_proj", None, 0),
    "gelu_new": ("layers.0.mlp", "gelu", 0),
    "relu": ("layers.0.mlp", "relu", 0),
    "down_proj": ("layers.0.mlp.down_proj", None, 0),
    "add_mlp": ("layers.0", "add", 1),
    "norm": ("norm", "layer_norm", 2),
}
EXPERTS = {
    "router": ("gate", "mm", 0),
    "route": ("gate", None, -1),
    "experts.gate_up_proj": ("experts.gate_up_proj", "grouped_linear", 0),
    "experts.silu": ("experts", "silu", 0),
    "experts.gate_times_up": ("experts", "mul", 0),
    "experts.down_proj": ("experts.down_proj", "grouped_linear", 0),
    "experts.sum": ("experts", "index", 1),
    **{
        f"shared_experts.{name}": (f"shared_experts.{part}".rstrip("."), *rest)
        for name, (part, *rest) in SWIGLU.items()
    },
    "shared_expert_gate": ("shared_expert_gate", None, 0),
    "shared_gate_sigmoid": ("", "sigmoid", 0),
    "scale_shared_experts": ("", "mul", 0),
    "add_shared_experts": ("", "add", 0),
}
CLAMPED = {  # gpt-oss's experts
    "router": ("gate", "addmm", 0),
    "experts.clamped_swiglu": ("experts", "mul", 0),
    "experts.gate_times_up": ("experts", "no operator", 0),
}


def in_float32(work):
    """Where the softmax of 16-bit scores is when it is in float32; of FP16 ones it is an operator of ours.

    Its copies are of the kind that reading a cache in another format makes, so the cache must be in the same one.
    """
    if work.attention != "eager_fp32" or work.activations == "fp32":
        return {}
    kernel = {"bf16": "_softmax", "fp16": "softmax_from_fp16"}[work.activations]
    rounded = {"softmax": ("", kernel, 0), "round_weights": ("", "_to_copy", -1)}
    return rounded | dict.fromkeys(("read keys", "read values"), ("", "no operator", 0))


def places(arch, work):
    """{instant: (module, operator, which birth)} for all that this kind of decoder may go through."""
    ends = {"add_attention": ("layers.0", "add", 0), "lm_head": ("lm_head", None, 0)}
    if arch.gpt_block:
        return GPT | inside("layers.0.self_attn", in_float32(work)) | ends
    kind = LATENT_EAGER if work.eager else LATENT_FUSED
    kind = (ABSORBED if work.absorbed(arch) else kind) if arch.latent else GROUPED
    if arch.latent and work.absorbed(arch):
        kind = kind | {"keys": ("", "no operator", 0)}
    if arch.attention_sinks and work.eager:
        kind = kind | {"join_sinks": ("", "cat", 0)}
    if arch.joined_qkv and arch.rotary_dim is None:
        kind = kind | {"rotate_key": ("", "mul", 1)}
    kind, found = kind | in_float32(work), {}
    for slide in (False, True):
        if layers := arch.layers_that(slide):
            prefix = "sliding." if slide and arch.layers_that(False) else ""
            table = inside(f"layers.{layers[0]}.self_attn", kind | JOINED if slide else kind)
            if arch.attn_logit_softcapping is not None:
                table["attention"] = (f"layers.{layers[0]}.self_attn", "capped_attention", 1)
            if arch.gemma_block:
                table["post_attention_layernorm"] = (f"layers.{layers[0]}.post_attention_layernorm", "rms_norm", 1)
            table["add_attention"] = (f"layers.{layers[0]}", "add", 0)
            found |= {prefix + name: place for name, place in table.items()}
    found |= {"lm_head": ends["lm_head"]}
    if arch.indexed:
        found |= inside("layers.0.self_attn.indexer", INDEXER_EAGER if work.eager else INDEXER)
    for sparse, table, added in ((False, SWIGLU, "add_mlp"), (True, EXPERTS, "add_experts")):
        layers = [index for index in range(arch.num_hidden_layers) if arch.has_experts(index) == sparse]
        if layers:
            if sparse and arch.expert_bias:
                table = table | CLAMPED
            found |= inside(f"layers.{layers[0]}.mlp", table) | {added: (f"layers.{layers[0]}", "add", 1)}
    if arch.gemma_block:
        found["post_feedforward_layernorm"] = ("layers.0.post_feedforward_layernorm", "rms_norm", 1)
    return found


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("attention", ["fused", "expanded", "eager", "eager_fp32"])
@pytest.mark.parametrize("kind", KINDS)  # each by itself: of a draw among all, many options of one are never seen
def test_every_instant_is_what_the_ledger_holds_there(kind, phase, attention):
    @drawn_for(kind, phase, attention)
    @given(KINDS[kind], workloads(phase, attention))
    @settings(max_examples=8)
    def check(arch, work):
        # a dense layer and one with experts, each with an indexer where there are any
        arch = arch.scaled(num_hidden_layers=min(arch.num_hidden_layers, 2), indexer_types=())
        if arch.latent or attention == "eager_fp32":
            work = work.changed(kv_cache=None)  # or rows are encoded and read back, which has no fixed place
        run = dsmem.measure(arch, work)
        seen = {name: live_after(run.ledger, *place) for name, place in places(arch, work).items()}
        # both ways: no birth of the table is left out of the footprint, either
        assert run.footprint.totals == {name: nbytes for name, nbytes in seen.items() if nbytes is not None}

    check()


@given(any_architectures(), workloads("decode"))
@settings(max_examples=25)
def test_a_growing_cache_has_grown_in_the_layers_before_and_in_none_after(arch, work):
    """What a peak seldom shows: the rows of earlier layers are new, and those of the layer at hand are still old."""
    arch, work = arch.scaled(indexer_types=()), work.changed(cache="growing")
    run, first = dsmem.measure(arch, work), next(iter(arch.attention_linears()))
    for slide in (False, True):
        if layers := arch.layers_that(slide):
            prefix = "sliding." if slide and arch.layers_that(False) else ""
            for name, place in {first: f"layers.{layers[-1]}.self_attn.{first}", "add_attention": None}.items():
                place = (place, None, 0) if place else (f"layers.{layers[-1]}", "add", 0)
                assert run.footprint.totals[prefix + name] == live_after(run.ledger, *place), name


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_every_linear_layer_peaks_where_the_footprint_says(scheme):
    @drawn_for(scheme)
    @given(passes(scheme, cache="static"))
    @settings(max_examples=20)
    def check(case):
        case = case[0].scaled(indexer_types=()), case[1]
        run = dsmem.measure(*case)
        most, totals = {}, run.footprint.totals
        live = run.ledger.timeline().live_bytes
        linears = [name for name in totals if name.split(".")[-1].endswith(("proj", "mqa", "lm_head", "wq_b", "wk"))]
        modules = {place[0]: name for name, place in places(*case).items() if name in linears}
        for record in run.ledger.records:
            if name := modules.get(record.module):
                most[name] = max(most.get(name, 0), int(live[record.birth]))
        before = ("unpack", "quantize")  # an instant of the same layer before its product
        assert {name: max([totals[name], *(totals.get(f"{name} {b}", 0) for b in before)]) for name in linears} == most

    check()
