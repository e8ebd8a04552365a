"""The most that transformers allocates while it generates, in the formats that Qwen's makers measured."""

import dataclasses
import functools
import math

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.schemes import INT4_GROUP
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.memory.allocator import rounded_bytes
from dsmem.memory.cuda import expected_workspace_bytes
from dsmem.memory.ledger import BEFORE
from dsmem.memory.replay import replay
from dsmem.runs.run import measure
from dsmem.units import one_of

NEW_TOKENS = 2048  # that the benchmark generates
A100 = (8, 0)  # compute capability


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a format of Qwen's benchmark stores a linear layer: `bits` a number, in groups of 128 with scale and zero.

    index: whether each input channel has its group as a 32-bit number. scratch: whether the kernel keeps room for the
    largest layer in 16 bit. head_apart: whether a tied head lies apart from its embedding while the model loads.
    """

    bits: int = 16
    index: bool = False
    scratch: bool = False
    head_apart: bool = False


PACKED = {
    "BF16": Packing(),
    "GPTQ-Int8": Packing(8, index=True),
    "GPTQ-Int4": Packing(4, index=True, scratch=True),
    "AWQ": Packing(4, head_apart=True),
}
"""The formats of Qwen's benchmark, as AutoGPTQ (4 bits: ExLlamaV2's kernels) and AutoAWQ keep them."""


@functools.cache
def generation_peak(arch: Architecture, prompt: int, weights: str = "BF16", gpus: int = 1) -> int:
    """The most bytes that `transformers.generate` has allocated, in 16 bit on A100s, on all GPUs together.

    weights: one of `PACKED`. The larger of the prefill and the last decode step is replayed on the allocator, after
    cuBLAS's workspace. Our pass lacks one tensor of theirs: the embedded prompt, which their model holds to the end.
    Layers are spread over `gpus`, and each GPU has a workspace and, at its own peak, the activations of the pass.
    Left out: what kernels unpack while a layer runs, and what sampling makes of the logits.
    """
    packing = PACKED[one_of("weights", weights, PACKED, "a format of that benchmark")]
    ledger, work = _pass(arch, prompt)
    events, shapes = _packed(ledger, arch, packing)
    scratch = packing.scratch and max(formulas.tensor_bytes(math.prod(shape), 16) for shape in shapes)
    workspace = expected_workspace_bytes(A100) + scratch
    peak = replay(events, workspace_bytes=workspace).peak_allocated_bytes
    embedded = rounded_bytes(formulas.hidden_state_bytes(1, work.new_tokens, arch.hidden_size, 16))
    parts = inference_footprint(arch, work).parts
    passing = sum(nbytes for part, nbytes in parts.items() if part not in ("weights", "buffers", "kv_cache"))
    whole = peak + embedded + (gpus - 1) * (passing + workspace)
    return max(whole, _loading(arch, events)) if packing.head_apart else whole


@functools.lru_cache(maxsize=2)
def _pass(arch, prompt):
    """The ledger and the workload of the larger pass: the prefill, or the last decode step."""
    common = {"weights": "bf16", "cache": "growing", "logits": "last"}
    prefill = Workload(seq_len=prompt, **common)
    decode = Workload(seq_len=prompt + NEW_TOKENS - 1, phase="decode", **common)
    work = max((prefill, decode), key=lambda work: inference_footprint(arch, work).total_bytes)
    return measure(arch, work).ledger, work


def _packed(ledger, arch, packing):
    """A ledger's events with its linear layers stored as `packing` says, and the shapes of those layers."""
    events, shapes = [], []
    for record, sign in ledger.events:
        sizes = [record.nbytes]
        if record.category == "weight" and len(record.shape) == 2 and arch.vocab_size not in record.shape:
            shapes.append(record.shape)
            sizes = _packed_sizes(packing, *record.shape) if packing.bits < 16 else sizes
        events += [((id(record), part), sign * nbytes, record.op) for part, nbytes in enumerate(sizes)]
    return events, shapes


def _packed_sizes(packing, n_out, n_in):
    groups = n_out * -(-n_in // INT4_GROUP)
    sizes = [(n_out * n_in, packing.bits), (groups, 16), (groups, packing.bits), (packing.index * n_in, 32)]
    return [formulas.tensor_bytes(*size) for size in sizes if size[0]]


def _loading(arch, events):
    """The weights, with the head a second time where it is tied."""
    weights = sum(nbytes for _, nbytes, op in events if op == BEFORE and nbytes > 0)
    return weights + arch.tie_word_embeddings * formulas.tensor_bytes(arch.vocab_size * arch.hidden_size, 16)
