"""Every parameter of a decoder, or of a rank's share of one: name, shape, and whether a scheme may convert it."""

import functools
from typing import NamedTuple

from dsmem.config.architecture import Architecture


class Held(NamedTuple):
    """A parameter: its shape, and what `Workload.scheme` calls it where it is a matrix that may convert, else ""."""

    shape: tuple[int, ...]
    matrix: str = ""


@functools.lru_cache(maxsize=256)
def tensors(arch: Architecture) -> dict[str, Held]:
    """{name: `Held`} of every parameter of `arch`, or of a rank's share of one, in the order of the decoder's."""
    hidden, norms = arch.hidden_size, ("weight", "bias") if arch.gpt_block else ("weight",)
    found = {}
    if arch.first_stage:
        found["embed_tokens.weight"] = Held((arch.embedding_rows, hidden))
    if arch.first_stage and arch.learned_positions:
        found["embed_positions.weight"] = Held((arch.learned_positions + arch.position_offset, hidden))
    kinds = {}
    for index in range(arch.num_hidden_layers):
        kind = arch.has_experts(index), arch.indexed and not arch.shares_index(index)
        if kind not in kinds:
            kinds[kind] = _layer(arch, *kind, norms)
        found |= {f"layers.{index}.{name}": held for name, held in kinds[kind].items()}
    if arch.last_stage:
        found |= {f"norm.{part}": Held((hidden,)) for part in norms}
        if not arch.tie_word_embeddings:
            for name, shape in arch.head_linears().items():
                found |= _linear(name, shape, name)
    return found


def _layer(arch, experts, indexer, norms):
    first, *others = arch.layer_norms()
    halves = [_norms(arch, [first], norms), _attention(arch, indexer), _norms(arch, others, norms)]
    if arch.gemma_block:
        halves[1:] = reversed(halves[1:])
    found = halves[0] | halves[1] | halves[2]
    return found | {f"mlp.{name}": held for name, held in (_experts(arch) if experts else _mlp(arch)).items()}


def _norms(arch, names, parts):
    return {f"{name}.{part}": Held((arch.hidden_size,)) for name in names for part in parts}


def _attention(arch, indexer):
    found, inner = {"sinks": Held((arch.num_attention_heads,))} if arch.attention_sinks else {}, dict(arch.norms())
    for name, shape in arch.attention_linears().items():
        found |= _linear(name, shape, name)
        if (norm := name.replace("b_proj", "a_layernorm")) in inner:
            found[f"{norm}.weight"] = Held((inner.pop(norm),))
    found |= {f"{name}.weight": Held((width,)) for name, width in inner.items()}
    if indexer:
        for name, shape in arch.indexer_linears().items():
            found |= _linear(name, shape, name)
        found |= {f"indexer.k_norm.{part}": Held((arch.index_head_dim,)) for part in ("weight", "bias")}
        found["indexer.weights_proj.weight"] = Held((arch.index_n_heads, arch.hidden_size))
    return {f"self_attn.{name}": held for name, held in found.items()}


def _mlp(arch):
    found = {}
    for name, shape in arch.mlp_linears().items():
        found |= _linear(name, shape, name)
    return found


def _experts(arch):
    found = {f"{name}_bias": Held(shape) for name, shape in arch.expert_biases().items()}
    found |= {f"{name}.weight": Held(shape, name) for name, shape in arch.expert_stacks().items()}
    found |= _linear("gate", (arch.hidden_size, arch.n_routed_experts, arch.expert_bias), "")
    for name, shape in arch.shared_linears().items():
        found |= _linear(name, shape, name)
    if arch.shared_expert_intermediate_size:
        found["shared_expert_gate.weight"] = Held((1, arch.hidden_size))
    return found


def _linear(name, shape, matrix):
    n_in, n_out, bias = shape
    return {f"{name}.weight": Held((n_out, n_in), matrix)} | ({f"{name}.bias": Held((n_out,))} if bias else {})
