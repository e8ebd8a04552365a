"""The passes that a recording asks a GPU for, the most telling first: the first third is worth having alone."""

import itertools
from collections.abc import Iterator

from dsmem.config.architecture import Architecture
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.model import hub
from dsmem.model.devices import attention_for
from dsmem.model.flash import attention_backend
from dsmem.units import INT8_SCHEMES

SHAPES = ((4, 1024), (1, 128), (16, 4096), (1, 4096), (16, 128), (1, 1024), (16, 1024), (4, 128), (4, 4096))
"""Batch and length: one in the middle for every kind of pass, then the corners, then what lies between."""

TINY = (2, 16)  # of a rehearsal
SOME = 3  # so many shapes for what is not in every shape
THEIRS = SHAPES[:2] + SHAPES[5:6] + SHAPES[7:8]  # those of transformers' code

TRAINED = SHAPES[5:6] + SHAPES[1:2]  # those of training steps, which a GPU of 15 GiB holds

TRAININGS = (  # what moves the peak of a step, the most telling first
    Training(optimizer_kernel="foreach"),
    Training(optimizer_kernel="fused"),
    Training(lora_rank=8),
    Training(optimizer_kernel="fused", checkpointing="full"),
    Training(precision="master"),
    Training(optimizer_kernel="loop"),
    Training(lora_rank=8, checkpointing="full"),
)

# R1's own widths and heads, with so few layers and experts that a GPU of 15 GiB holds them
CUT = {"num_hidden_layers": 3, "first_k_dense_replace": 1, "n_routed_experts": 16, "n_group": 4, "topk_group": 2}
NARROW = {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 128, "vocab_size": 1000}
NARROW |= {"num_attention_heads": 8, "num_key_value_heads": 8, "q_lora_rank": 64, "kv_lora_rank": 64}
NARROW |= {"n_routed_experts": 8, "num_experts_per_tok": 2}


def sweep(device: str = "fake") -> list[tuple]:
    """The cells that `record` measures unless told otherwise: (Architecture, Workload), the most telling first.

    device: whose kernels and formats are asked for. Where transformers is installed its own code for some of the cells
    is among them: (Architecture, Workload, "transformers"). A fourth item, a `Training`, makes it a training step.
    """
    dense = [Architecture.from_config(name) for name in ("qwen2.5-0.5b", f"{_DISTILL}-1.5b", f"{_DISTILL}-7b")]
    experts = [
        _named("deepseek-r1", "3 layers, 16 experts", **CUT),
        _named("deepseek-v2-lite", "4 layers", num_hidden_layers=4),
        _named("qwen3-30b-a3b", "4 layers", num_hidden_layers=4),
    ]
    cells = []
    for number, shape in enumerate(SHAPES):
        few = number >= SOME
        rows = [_kinds(device, arch, shape, few) for arch in dense]
        rows += [_kinds(device, arch, shape) for arch in experts[: 0 if few else 1 if number else 3]]
        rows += [_theirs(arch, shape) for arch in dense if shape in THEIRS]
        rows += [_trainings(device, dense[0], trained) for trained in TRAINED[number : number + 1]]
        # in turn, so that each model has had its FP16 passes before one has had them all
        cells += [cell for turn in itertools.zip_longest(*rows) for cell in turn if cell]
    return cells


def rehearsal(device: str = "fake") -> list[tuple]:
    """Every kind of cell once on models of two or three narrow layers, for a machine without a GPU."""
    dense = Architecture.from_config("qwen2.5-0.5b").scaled(num_hidden_layers=2, vocab_size=1000)
    latent = _named("deepseek-r1", "3 narrow layers", **CUT | NARROW)
    passes = [*_kinds(device, dense, TINY), *_theirs(dense, TINY), *_kinds(device, latent, TINY)]
    return [*passes, *_trainings(device, dense, TINY)]


def rates(device: str, small: bool = False) -> list[tuple]:
    """What tokens a second are taken of: (Architecture, [Workload]) with the weights of one model in each.

    small: of a model of two layers, as in `rehearsal`. Nothing on fake tensors: they take no time that means anything.
    """
    if device == "fake":
        return []
    if small:
        models = [rehearsal(device)[0][0]]
    else:
        models = [Architecture.from_config(name) for name in (f"{_DISTILL}-7b", "qwen2.5-0.5b")]
    seq_len, batches = (TINY[1], (1, 2)) if small else (1024, (1, 4, 16, 64))
    return [
        (arch, [*_steps(device, arch, weights, batches, seq_len)]) for arch in models for weights in ("fp16", *_STORED)
    ]


_DISTILL = "deepseek-r1-distill-qwen"
_STORED = (*INT8_SCHEMES, "fp8", "int4")


def _kinds(device, arch, shape, few=False) -> Iterator[tuple]:
    """The passes of one model at one shape; `few` of them leave FP8 and INT4 out."""
    fused = {"attention": attention_for(device, arch)}
    # a GPU whose attention cannot share keys has no BF16 of its own either
    floats = ("fp16",) if attention_backend(device) == "memory-efficient" else ("fp16", "bf16")
    for weights in (*floats, *(INT8_SCHEMES if few else _STORED)):
        for phase in ("prefill", "decode"):
            yield arch, Workload(*shape, phase, weights=weights, **fused)
    yield arch, Workload(*shape, logits="last", **fused)
    yield arch, Workload(*shape, logits="last", attention="eager")
    if arch.latent:
        for cache in ({"mla_cache": "expanded"}, {"kv_cache": "int8"}, {"kv_cache": "fp8"}, {"cache": "growing"}):
            yield arch, Workload(*shape, "decode", **fused, **cache)


def _theirs(arch, shape) -> Iterator[tuple]:
    if hub.has_transformers():
        for attention, logits in (("fused", "all"), ("fused", "last"), ("eager", "last")):
            yield arch, Workload(*shape, attention=attention, logits=logits), "transformers"


def _trainings(device, arch, shape) -> Iterator[tuple]:
    """Training steps of one model at one shape, in our code, and the first three in transformers'."""
    weights = "fp16" if attention_backend(device) == "memory-efficient" else "bf16"
    for number, training in enumerate(TRAININGS):
        work = training.workload(Workload(*shape, weights=weights, attention=attention_for(device, arch)))
        yield arch, work, "dsmem", training
        if number < 3 and hub.has_transformers():
            yield arch, work.changed(attention="fused"), "transformers", training


def _steps(device, arch, weights, batches, seq_len) -> Iterator[Workload]:
    """A prefill of one sequence, then decode steps of more and more."""
    how = {"weights": weights, "attention": attention_for(device, arch), "logits": "last"}
    yield Workload(1, seq_len, **how)
    for batch in batches:
        yield Workload(batch, seq_len, "decode", **how)


def _named(name, cut, **changes):
    """A shipped model cut down, under a name that says so: a recording tells cells apart by the model's name."""
    return Architecture.from_config(name).scaled(name=f"{name}, {cut}", **changes)
