"""Which engine of torch runs which way to spread a model, what that means, and what none of them runs."""

from collections.abc import Iterable

from dsmem.config.architecture import Architecture
from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.units import whole_number

ENGINES = ("ddp", "zero1", "fsdp2", "tensor", "expert")
"""DistributedDataParallel, it with ZeroRedundancyOptimizer, `fully_shard`, DTensor, and experts spread over ranks."""


def engine_of(sharding: Sharding, arch: Architecture) -> str:
    """The engine that runs `sharding` of `arch`, one of `ENGINES`; ValueError for what none of them runs.

    >>> from dsmem import Architecture
    >>> engine_of(Sharding(data=4, zero=3), Architecture.of("qwen2.5-0.5b"))
    'fsdp2'
    """
    refused = {
        f"pipeline={sharding.pipeline}": sharding.pipeline > 1,
        f"context={sharding.context}": sharding.context > 1,
        "sequence_parallel=True": sharding.sequence_parallel,
        f"attention={sharding.attention!r}": sharding.attention != "tensor",
        f"vocab_multiple={sharding.vocab_multiple}": sharding.vocab_multiple > 1,
        f"tensor={sharding.tensor} beside data={sharding.data}": sharding.tensor > 1 and sharding.data > 1,
        f"expert={sharding.expert} beside data={sharding.data}": sharding.expert not in (1, sharding.data),
        f"expert={sharding.expert} with zero={sharding.zero}": sharding.expert > 1 and sharding.zero > 0,
        f"expert={sharding.expert} of n_routed_experts={arch.n_routed_experts}": sharding.expert > 1
        and (not arch.n_routed_experts or arch.n_routed_experts % sharding.expert > 0),
    }
    if sharding.tensor > 1:
        refused |= _not_cut(arch, sharding.tensor)
    found = next((what for what, is_so in refused.items() if is_so), None)
    if found:
        raise ValueError(f"{found} is not run on real ranks; allowed: data with zero=0 to 3, tensor, or expert=data")
    if sharding.tensor > 1:
        return "tensor"
    if sharding.expert > 1:
        return "expert"
    return ("ddp", "zero1", "fsdp2", "fsdp2")[sharding.zero]


def _not_cut(arch, tensor):
    """What `tensor_plan` does not cut, {what: whether `arch` has it}."""
    return {
        f"tensor={tensor} of the mixture {arch.name}": bool(arch.expert_layers),
        f"tensor={tensor} of {arch.name}, whose matrices are joined,": any(
            name in arch.linears() for name in ("qkv_proj", "gate_up_proj")
        ),
        f"tensor={tensor} of the block of {arch.name}": arch.gpt_block or arch.gemma_block,
        f"tensor={tensor} of num_attention_heads={arch.num_attention_heads}": arch.num_attention_heads % tensor > 0,
        f"tensor={tensor} of num_key_value_heads={arch.num_key_value_heads}": bool(
            not arch.latent and arch.num_key_value_heads % tensor
        ),
    }


SAID = {
    "ddp": "Every rank keeps everything, and DistributedDataParallel's buckets hold each gradient a second time.",
    "zero1": "ZeRO's stage 1: each rank has the optimizer states of whole tensors, handed out to whoever has least; "
    "parameters, gradients and the buckets that add them up are whole on every rank.",
    "fsdp2": "ZeRO's stage 3: parameters, gradients and states are cut by rows on every rank, each part filled up to "
    "the same size; a layer is gathered for its forward and again for its backward, the outermost unit (embedding, "
    "norm, head) stays gathered in between.",
    "stage 2": "Near ZeRO's stage 2: from a layer's forward to its backward its parameters are whole on every rank, as "
    "there; but before and after the step FSDP2 keeps a part of them alone, where stage 2 would keep all.",
    "tensor": "Megatron's cut by DTensor: matrices of attention and MLP, embedding and head are shared out, norms and "
    "the hidden state are whole on every rank.",
    "expert": "Each rank has its share of the routed experts, whole ones, and all else; tokens travel to the experts, "
    "so what its activations take depends on the routing.",
}
"""Which bytes each engine shares out, and when it stands for which stage of ZeRO (arXiv 1910.02054)."""


def check_step(work: Workload, training: Training, engines: Iterable[str]) -> None:
    """Raise ValueError for a step that is not run on ranks by all of `engines`."""
    for name in ("batch", "seq_len"):
        whole_number(name, getattr(work, name), what="one number, and one workload is run at a time")
    refused = {
        f"lora_rank={training.lora_rank}": training.lora_rank is not None,
        f"loss_chunk={training.loss_chunk}": training.loss_chunk is not None,
        "step_in_backward=True": training.step_in_backward,
        f"optimizer={training.optimizer!r} with zero=1": training.optimizer not in ("adamw", "sgd")
        and "zero1" in engines,
        f"precision={training.precision!r} with zero=1": training.precision == "master" and "zero1" in engines,
    }
    found = next((what for what, is_so in refused.items() if is_so), None)
    if found:
        raise ValueError(f"{found} is not run on ranks; leave it out, or see dsmem.measure(..., training=...)")


def sharding_words(sharding: Sharding) -> str:
    """How a model is spread, in words.

    >>> sharding_words(Sharding(data=4, zero=3)), sharding_words(Sharding(tensor=2))
    ('data 4 (zero 3)', 'tensor 2')
    """
    degrees = {name: getattr(sharding, name) for name in ("data", "tensor", "expert")}
    said = [
        f"{name} {count}" + f" (zero {sharding.zero})" * (name == "data")
        for name, count in degrees.items()
        if count > 1
    ]
    return ", ".join(said) or "one rank"
