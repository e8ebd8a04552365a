"""A training step as Megatron-LM runs it on one rank, with Transformer Engine's layers and its distributed optimizer.

It keeps less for backward than autograd alone: what enters and leaves a norm, as the rank's part of the tokens;
queries, keys, values and attention's output; gate and up as one tensor; and what enters down_proj. Gradients of weights
are added into one FP32 buffer at once. What autograd is handed in their place are tensors without meaning: Transformer
Engine keeps one for each shape, and the head makes a new one. Sources: Megatron-LM 23e00ed, megatron/core/
tensor_parallel/layers.py, pipeline_parallel/schedules.py, distributed/param_and_grad_buffer.py; TransformerEngine 2.11,
pytorch/module.
"""

from typing import Any

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.ranks import RankArchitecture, rank_architecture
from dsmem.config.sharding import Sharding
from dsmem.footprint.instants import Footprint
from dsmem.footprint.parameters import tensors
from dsmem.footprint.sharded.shares import elements
from dsmem.units import whole_number


def megatron_footprint(arch: Any, sharding: Any, rank: int = 0, batch: int = 1, seq_len: int = 4096) -> Footprint:
    """The `Footprint` of a step in BF16, without recomputation and dropout, the cross entropy fused, on `rank`.

    arch: a dense model with gated MLPs; whatever `Architecture.of` takes. sharding: whatever `Sharding.of` takes, the
    optimizer's states shared out over `data` (zero=1 of a flat buffer, as `--use-distributed-optimizer`) and, where
    `tensor` ranks cut, tokens as well (`--sequence-parallel`). batch, seq_len: of one microbatch, of which there are at
    least as many as pipeline stages. Raises ValueError for what is not modelled. Left out: workspaces of cuBLAS and
    Transformer Engine, NCCL's buffers, the allocator's rounding, a few numbers for each token.

    >>> fp = megatron_footprint("llama-2-7b", {"tensor": 2, "data": 4})
    >>> fp.parts["gradient_buffer"] // fp.parts["weights"], fp.peak_instant
    (2, 'backward of lm_head')
    """
    arch, spread = Architecture.of(arch), Sharding.of(sharding)
    spread = Sharding.of(
        spread,
        zero=1,
        zero_unit="flat",
        sequence_parallel=spread.tensor > 1,
        vocab_multiple=max(spread.vocab_multiple, 128 * spread.tensor),
    )
    _check(arch, spread)
    share = rank_architecture(arch, spread, rank)
    tokens = whole_number("batch", batch) * whole_number("seq_len", seq_len)
    return Footprint(_instants(share, tokens), share)


def _instants(share, tokens):
    """The instants at which a stage holds most: backward of its last layer, of the head, and of the embedding."""
    cut, kept, ends = share.sharding.tensor, layer_bytes(share, tokens), _ends(share, tokens)
    layers = share.num_hidden_layers * sum(kept.values())
    waiting = share.sharding.in_flight(share.place.pipeline) - 1
    own, whole = _hidden(share, tokens // cut), _hidden(share, tokens)
    held = _held(share) | {"activations": layers, "other_microbatches": layers * waiting}
    if not share.first_stage:
        held["sent_gradient"] = own  # of the microbatch before, which the schedule still has a name for
    passing = own + 2 * kept["down_proj_input"]  # the residual stream's gradient, and that of gate and up
    found = {"backward of the last layer's MLP": held | {"passing_gradients": passing}}
    if share.last_stage:
        gathered = {"tokens_gathered": whole} if cut > 1 else {}
        passing = whole + own * (cut > 1)
        found["backward of lm_head"] = held | ends | gathered | {"passing_gradients": passing} | _table(share)
    if share.first_stage:
        found["backward of embed_tokens"] = held | {"activations": 0} | _table(share)
    return found


def _hidden(share, tokens):
    return formulas.tensor_bytes(tokens * share.hidden_size, 16)


def _check(arch, spread):
    refused = {
        f"the mixture {arch.name}": arch.n_routed_experts > 0,
        f"the latent attention of {arch.name}": arch.latent,
        f"the blocks of {arch.name}": arch.gpt_block or arch.gemma_block,
        f"the tied head of {arch.name}": arch.tie_word_embeddings,
        f"the norms of heads of {arch.name}": arch.qk_norm,
        f"context={spread.context}": spread.context > 1,
        f"attention={spread.attention!r}": spread.attention != "tensor",
    }
    if found := next((what for what, is_so in refused.items() if is_so), None):
        raise ValueError(f"{found} is not modelled as Megatron-LM runs it; allowed: dense models like Llama")


def _held(share: RankArchitecture) -> dict[str, int]:
    """{part: bytes} that are there from the second step's start to its end."""
    count = sum(elements(share).values())
    matrices = _joined(share)
    return {
        "weights": formulas.tensor_bytes(count, 16),
        "gradient_buffer": formulas.tensor_bytes(count, 32),
        "optimizer_states": formulas.shard_bytes(count, 1, share.sharding.data, 96),
        "unused_gradients": sum(formulas.tensor_bytes(rows * width, 16) for rows, width in matrices),
    }


def _joined(share):
    """Shapes of a layer's matrices as Transformer Engine has them: q, k and v are one, gate and up are one."""
    layer = {name.split(".")[-2]: held.shape for name, held in tensors(share).items() if name.startswith("layers.0.")}
    rows = sum(layer[name][0] for name in ("q_proj", "k_proj", "v_proj"))
    gate_up = 2 * layer["gate_proj"][0], share.hidden_size
    return {(rows, share.hidden_size), gate_up, layer["o_proj"], layer["down_proj"]}


def layer_bytes(share: RankArchitecture, tokens: int) -> dict[str, int]:
    """{what: bytes} that one layer keeps of a microbatch for backward. tokens: of the whole microbatch."""
    own = tokens // share.sharding.tensor  # where the width is not cut
    sizes = {
        "norm_inputs": 2 * own * share.hidden_size,
        "norm_outputs": 2 * own * share.hidden_size,
        "query": tokens * share.query_width,
        "key_value": 2 * tokens * share.kv_width,
        "attention_out": tokens * share.query_width,
        "gate_up": 2 * tokens * share.intermediate_size,
        "down_proj_input": tokens * share.intermediate_size,
    }
    found = {what: formulas.tensor_bytes(count, 16) for what, count in sizes.items()}
    return found | {
        "logsumexp": formulas.logsumexp_bytes(1, tokens, share.num_attention_heads),
        "inverse_rms": 2 * formulas.inverse_rms_bytes(1, own, 1),
    }


def _ends(share, tokens):
    """{part: bytes} kept of the last stage's end: what enters and leaves the last norm, and the logits."""
    if not share.last_stage:
        return {}
    logits = formulas.tensor_bytes(tokens * share.vocab_size, 16)
    return {"final_norm": 2 * _hidden(share, tokens // share.sharding.tensor), "logits": logits}


def _table(share):
    """The gradient of embedding or head, beside the buffer that it goes into."""
    return {"table_gradient": formulas.tensor_bytes(share.vocab_size * share.hidden_size, 16)}
