"""Hypothesis strategies: random decoders, and the workloads that they run; and where a ledger saw an instant."""

import dataclasses
import zlib

from hypothesis import seed, settings
from hypothesis import strategies as st

import dsmem
from dsmem.config.windows import KINDS
from dsmem.config.workload import LINEARS
from dsmem.units import FLOATS

DENSE_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
KV_CACHES = (None, "fp32", "bf16", "fp16")
BOOLEANS = st.booleans()
SMALL = {"hidden": 48, "intermediate": 96, "vocab": 200, "head_dim": 16}  # small enough for real passes on a CPU


@st.composite
def architectures(draw, hidden=2048, intermediate=8192, vocab=50_000, head_dim=128):
    """A decoder with any mix of options, of layers that slide, too; the arguments are its largest widths."""
    kv_heads, groups, layers = draw(st.integers(1, 4)), draw(st.integers(1, 8)), draw(st.integers(1, 3))
    half = draw(st.integers(1, head_dim // 2))
    kinds = st.lists(st.sampled_from(KINDS), min_size=layers, max_size=layers).map(tuple)
    qk_norm = draw(BOOLEANS)
    return dsmem.Architecture(
        name="random",
        model_type="llama",
        hidden_size=draw(st.integers(1, hidden)),
        num_hidden_layers=layers,
        num_attention_heads=kv_heads * groups,
        num_key_value_heads=kv_heads,
        head_dim=2 * half,
        intermediate_size=draw(st.integers(1, intermediate)),
        vocab_size=draw(st.integers(1, vocab)),
        tie_word_embeddings=draw(BOOLEANS),
        qkv_bias=draw(BOOLEANS),
        o_bias=draw(BOOLEANS),
        mlp_bias=draw(BOOLEANS),
        qk_norm=qk_norm,
        qk_norm_type=draw(st.sampled_from(("per_head", "per_layer"))),
        rotary_dim=draw(st.none() | st.just(2 * draw(st.integers(1, half)))),
        joined_qkv=not qk_norm and draw(BOOLEANS),
        joined_gate_up=draw(BOOLEANS),
        sliding_window=draw(st.none() | st.integers(2, 40) | st.integers(2, 600)),
        layer_types=draw(st.just(()) | kinds),
        attention_sinks=draw(BOOLEANS),
    )


@st.composite
def latent_architectures(draw, hidden=512, rank=64, head_dim=64, **widths):
    """A decoder with latent attention (MLA), dense or with experts."""
    arch, nope, rope = (
        draw(architectures(hidden=hidden, **widths)),
        draw(st.integers(1, head_dim)),
        draw(st.integers(1, 8)),
    )
    heads = draw(st.integers(1, 6))
    return arch.scaled(
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=2 * rope,
        rotary_dim=None,
        qk_norm=False,
        joined_qkv=False,
        sliding_window=None,
        attention_sinks=False,
        q_lora_rank=draw(st.none() | st.integers(1, rank)),
        kv_lora_rank=draw(st.integers(1, rank)),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=2 * rope,
        v_head_dim=draw(st.integers(1, nope + 2 * rope)),
        rope_interleave=draw(BOOLEANS),
        scale_emb=draw(st.sampled_from((1.0, 12.0))),
        scale_depth=draw(st.sampled_from((None, 1.4))),
        dim_model_base=draw(st.none() | st.integers(1, 64)),
    )


@st.composite
def indexed_architectures(draw, **widths):
    """A decoder with latent attention to the keys that an indexer chooses."""
    arch = draw(latent_architectures(**widths))
    rest = st.lists(st.sampled_from(("full", "shared")), max_size=3)
    return arch.scaled(
        indexer_types=("full", *draw(rest)),
        q_lora_rank=arch.q_lora_rank or draw(st.integers(1, 64)),
        index_n_heads=draw(st.integers(1, 6)),
        index_head_dim=arch.qk_rope_head_dim + draw(st.integers(0, 40)),
        index_topk=draw(st.integers(1, 600)),
        indexer_rope_interleave=draw(BOOLEANS),
    )


@st.composite
def with_experts(draw, dense, width=256):
    """A decoder of `dense` with mixtures of experts in some of its layers."""
    arch, group_size, n_group = draw(dense), draw(st.integers(2, 5)), draw(st.integers(1, 3))
    topk_group, layers = draw(st.integers(1, n_group)), st.integers(0, arch.num_hidden_layers - 1)
    shared = draw(st.sampled_from(("n_shared_experts", "shared_expert_intermediate_size")))
    limit = draw(st.none() | st.just(7.0))
    return arch.scaled(
        n_routed_experts=group_size * n_group,
        n_group=n_group,
        topk_group=topk_group,
        num_experts_per_tok=draw(st.integers(1, group_size * topk_group)),
        **{shared: draw(st.integers(0, 2 if shared == "n_shared_experts" else width))},
        moe_intermediate_size=draw(st.integers(1, width)),
        first_k_dense_replace=draw(st.integers(0, 2)),
        mlp_only_layers=tuple(sorted(draw(st.sets(layers)))),
        scoring_func=draw(st.sampled_from(("softmax", "sigmoid"))),
        norm_topk_prob=draw(BOOLEANS),
        expert_bias=limit is not None,
        swiglu_limit=limit,
    )


@st.composite
def gpt_architectures(draw, **widths):
    """A decoder of GPT blocks: GPT-2, OPT, and mixes of both."""
    arch = draw(architectures(**widths))
    return arch.scaled(
        num_key_value_heads=arch.num_attention_heads,
        qk_norm=False,
        sliding_window=None,
        attention_sinks=False,
        layer_norm_epsilon=1e-5,
        learned_positions=draw(st.integers(1024, 1100)),
        position_offset=draw(st.sampled_from((0, 2))),
        joined_qkv=draw(BOOLEANS),
        joined_gate_up=False,
        hidden_act=draw(st.sampled_from(("gelu_new", "relu"))),
        scale_attn_weights=draw(BOOLEANS),
        scale_attn_by_inverse_layer_idx=draw(BOOLEANS),
    )


@st.composite
def gemma_architectures(draw, **widths):
    """A decoder of Gemma's layers, of the second or the third kind, and mixes of both."""
    return draw(architectures(**widths)).scaled(
        gemma_block=True,
        attention_sinks=False,
        rotary_dim=None,
        joined_qkv=False,
        joined_gate_up=False,
        hidden_act="gelu_pytorch_tanh",
        query_pre_attn_scalar=draw(st.integers(1, 300)),
        attn_logit_softcapping=draw(st.none() | st.just(50.0)),
        final_logit_softcapping=draw(st.none() | st.just(30.0)),
        rope_local_base_freq=draw(st.none() | st.just(10_000.0)),
    )


def kinds_of_architectures(width=256, **widths):
    """{name: decoders of this kind}: any attention, dense or with experts, GPT blocks and Gemma's."""
    latent = {"hidden": 512} | widths
    kinds = {
        "grouped": architectures(**widths),
        "latent": latent_architectures(**latent),
        "indexed": indexed_architectures(**latent),
    }
    experts = {f"{name}, experts": with_experts(kind, width) for name, kind in kinds.items()}
    return kinds | experts | {"gpt": gpt_architectures(**widths), "gemma": gemma_architectures(**widths)}


def drawn_for(*case):
    """Other examples for every case of a parametrized test, which would all be given the same; alike at every run."""
    fixed = settings.default.derandomize
    return seed(zlib.crc32(" ".join(case).encode())) if fixed else lambda test: test


def any_architectures(width=256, **widths):
    """A decoder of any kind, at most as wide as the arguments."""
    return st.one_of(*kinds_of_architectures(width, **widths).values())


@st.composite
def workloads(draw, phase=None, attention=None, batch=4, seq_len=512, weights=FLOATS):
    """A forward pass, also a prefill after cached tokens; `phase` and `attention` may be fixed, `batch` and `seq_len`
    are the largest."""
    phase = phase or draw(st.sampled_from(("prefill", "decode")))
    cached = draw(st.none() | st.integers(0, seq_len))
    reads = phase == "decode" or cached
    return dsmem.Workload(
        batch=draw(st.integers(1, batch)),
        seq_len=draw(st.integers(1, seq_len)),
        phase=phase,
        cached_tokens=cached,
        weights=draw(st.sampled_from(weights)),
        kv_cache=draw(st.sampled_from(KV_CACHES)),
        attention=attention or draw(st.sampled_from(("fused", "expanded", "eager", "eager_fp32"))),
        logits=draw(st.sampled_from(("all", "last"))),
        cache="static" if reads else draw(st.sampled_from(("static", "none"))),
    )


@st.composite
def cached_workloads(draw, **fixed):
    """A forward pass on any kind of cache, in any format; a prefill from the start may do without."""
    work = draw(workloads(**fixed))
    reads = work.phase == "decode" or work.cached_tokens
    layouts = ("static", "growing", "paged") + (() if reads else ("none",))
    return dataclasses.replace(
        work,
        cache=draw(st.sampled_from(layouts)),
        kv_cache=draw(st.sampled_from(("fp32", "bf16", "fp16", "fp8", "int8"))),
        mla_cache=draw(st.sampled_from(("latent", "expanded"))),
        block_size=draw(st.integers(1, 20)),
    )


def in_eights(arch):
    """The same decoder, its widths rounded up to multiples of 8, as INT8 products need them."""
    widths = [field.name for field in dataclasses.fields(arch) if field.name.endswith(("_size", "_dim", "_rank"))]
    sizes = {name: getattr(arch, name) for name in widths}
    return arch.scaled(**{name: -(-size // 8) * 8 for name, size in sizes.items() if size})


@st.composite
def passes(draw, weights=None, small=False, dense=False, cache=None, **fixed):
    """A decoder of any kind and a workload with its weights in a scheme, some layers kept in 16 or 32 bit.

    weights: a scheme, or None for any float format. small: for real passes on a CPU. dense: grouped heads, no experts.
    cache: fixed; fixed: more of it, as in `workloads`.
    """
    widths = {"width": 32, **SMALL} if small else {}
    arch = draw(architectures() if dense else any_architectures(**widths))
    fixed = {"batch": 2, "seq_len": 16} | fixed if small else fixed
    work = draw(workloads(**fixed) if cache == "static" else cached_workloads(**fixed))
    if weights is None:
        return arch, work
    arch = arch.scaled(num_hidden_layers=min(arch.num_hidden_layers, 2))  # a third only repeats the second
    kept = draw(st.sampled_from(((), ("lm_head",))) | st.sets(st.sampled_from(LINEARS)).map(sorted).map(tuple))
    if arch.tie_word_embeddings and "lm_head" not in kept:
        kept = (*kept, "lm_head")
    formats = {"weights": weights, "activations": draw(st.sampled_from(FLOATS)), "modules_to_not_convert": kept}
    # as drawn, or what follows from the activations
    formats["kv_cache"] = None if draw(BOOLEANS) else work.kv_cache
    return in_eights(arch) if weights == "int8_w8a8" else arch, dataclasses.replace(work, **formats)


def live_after(ledger, module, op, index):
    """Live bytes right after the birth number `index` (-1: the last) by `op` in `module`; None if there is none."""
    live = ledger.timeline().live_bytes
    births = [
        int(live[step])
        for step, (record, sign) in enumerate(ledger.events)
        if sign > 0 and record.module == module and op in (None, record.op)
    ]
    return births[index] if len(births) > max(index, 0) else None
