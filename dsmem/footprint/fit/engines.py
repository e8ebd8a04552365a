"""What a serving engine would take, as far as formulas reach: vLLM's pool of blocks, llama.cpp's weights and cache.

Each answer names what the formulas do not reach; what others measured of it lies in `data/measured`.
"""

import dataclasses
from typing import Any

import numpy as np

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.devices import Devices, devices, usable_words
from dsmem.config.overhead import fits, overhead, unknown
from dsmem.config.ranks import rank_architecture
from dsmem.config.workload import Workload
from dsmem.footprint.checkpoints.gguf import gguf_tensors, tensor_bytes
from dsmem.footprint.fit.answer import Answer
from dsmem.footprint.fit.asked import Asked
from dsmem.footprint.fit.spread import spread
from dsmem.footprint.stored import cache_bytes
from dsmem.table import Table
from dsmem.units import finite, format_bytes, format_name, one_of, parse_bytes, whole_number

BATCHED_TOKENS = 2048  # vLLM's max_num_batched_tokens where a user sets none; more on large GPUs in later versions
VLLM_NOTES = ("Not in it: CUDA graphs, sampling, and vLLM's own buffers, which leave the pool smaller than this.",)
VLLM_FIELDS = ("weights", "activations", "kv_cache", "attention", "mla_cache", "modules_to_not_convert")
LLAMA_CACHES = ("fp32", "fp16", "bf16", "q8_0", "q4_0")
LLAMA_NOTES = (
    "Not in it: llama.cpp's compute buffers, which it plans for its own kernels: see data/measured for some of them.",
)


@dataclasses.dataclass(frozen=True, repr=False)
class Engine(Answer):
    """What an engine takes of one device, the fullest.

    parts: {part: bytes}, the overhead among them, at its most. usable_bytes: what the engine may take of a device.
    numbers: what follows, by name: blocks and tokens of a pool, and how many requests it holds. host_bytes: of the
    machine's own memory. fits, sentence, notes: the answer, and what it does not reach.
    """

    name: str
    model: str
    devices: Devices
    parts: dict[str, int]
    usable_bytes: int
    numbers: dict[str, int]
    fits: bool
    sentence: str
    notes: tuple[str, ...]
    host_bytes: int = 0

    def table(self) -> Table:
        """The bytes, part by part, then the numbers that follow."""
        rows = [(part, nbytes, format_bytes(nbytes)) for part, nbytes in self.parts.items()]
        rows += [("may take", self.usable_bytes, format_bytes(self.usable_bytes))]
        rows += [("on the host", self.host_bytes, format_bytes(self.host_bytes))] if self.host_bytes else []
        rows += [(name, number, "") for name, number in self.numbers.items()]
        return Table({"part": None, "number": ",", "": None}, rows, self.sentence)

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain numbers and texts, for JSON."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return found | {"devices": str(self.devices), "notes": list(self.notes)}


def vllm(
    model: Any,
    gpu: Any,
    utilization: float = 0.9,
    seq_len: int = 4096,
    batch: int = 1,
    max_num_batched_tokens: int = BATCHED_TOKENS,
    block_size: int = 16,
    **fields: Any,
) -> Engine:
    """vLLM's pool of KV blocks on a GPU, and the requests that it holds at once.

    The pool is what `utilization` of the memory leaves after weights, the pass of its profile run
    (`max_num_batched_tokens` tokens, logits of the last), context, workspace and segments.
    model: whatever `Architecture.of` takes. gpu: as in `config.devices.devices`; several are tensor parallel.
    seq_len: tokens of a request; batch: how many requests must fit. fields: those of a `Workload` in `VLLM_FIELDS`.
    Raises ValueError for what is not modelled.

    >>> vllm("deepseek-r1-distill-qwen-14b", "A100 80 GB", seq_len=8192).numbers["requests"]
    28
    """
    if np.ndim(utilization) or not 0 < finite("utilization", utilization, "a share of the memory") <= 1:
        raise ValueError(f"utilization={utilization!r} is not a share of the memory; it must be above 0 and at most 1")
    found, arch = devices(gpu), Architecture.of(model)
    for name, value in (("seq_len", seq_len), ("batch", batch), ("max_num_batched_tokens", max_num_batched_tokens)):
        whole_number(name, value)
    for name in fields:
        one_of("field", name, VLLM_FIELDS, "a field that vLLM's pool depends on")
    profile = {"seq_len": max_num_batched_tokens, "logits": "last", "cache": "none"}
    asked = spread(Asked.of(arch, **profile | fields), found)
    parts = asked.parts() | {part: most for part, (_, most) in overhead(found, asked.segment_bytes()).items()}
    may = int(utilization * found.usable_bytes)
    pool = max(0, may - sum(parts.values()))
    block = _block_bytes(asked, whole_number("block_size", block_size))
    blocks = pool // block
    needed = formulas.paged_tokens(seq_len, block_size) // block_size
    numbers = {"block bytes": block, "blocks": blocks, "tokens": blocks * block_size, "requests": blocks // needed}
    verdict, beyond = blocks >= needed * batch, sum(parts.values()) - may
    over = f"; weights and trial pass alone are {format_bytes(beyond)} too much" if beyond > 0 else ""
    sentence = (
        f"vLLM at {utilization:g} of {found} ({usable_words(found)}) {'serves' if verdict else 'does not serve'} "
        f"{batch:,} × {seq_len:,} tokens of {arch.name} in {asked.weights_words}: a pool of {format_bytes(pool)} holds "
        f"{blocks * block_size:,} tokens, {numbers['requests']:,} such requests at once{over}"
    )
    notes = (*VLLM_NOTES, *asked.notes, *filter(None, [unknown(found)]))
    return Engine("vllm", arch.name, found, parts, may, numbers, verdict, sentence, notes)


def _block_bytes(asked, block_size):
    """Bytes of one block of tokens in all layers, on one device."""
    work = asked.work.changed(seq_len=block_size, cache="static")
    if asked.sharding is None:
        arch = asked.arch
    else:
        arch = rank_architecture(asked.arch, asked.sharding)
    return sum(cache_bytes(arch, work).values())


def llama_cpp(
    model: Any,
    gpu: Any,
    weights: str = "q4_k_m",
    seq_len: int = 4096,
    batch: int = 1,
    kv_cache: str = "fp16",
    experts_on_host: bool = False,
    weight_bytes: Any = None,
    doubled_kv_b: bool = False,
) -> Engine:
    """llama.cpp's weights and cache of a GGUF file, whole layers spread evenly over the GPUs.

    weights: a mix of `checkpoints.gguf.MIXES`. seq_len, batch: slots of so many tokens, together its n_ctx. kv_cache:
    "fp16", "q8_0", "q4_0". experts_on_host: the routed experts stay in the machine's memory, as the embedding always
    does. weight_bytes: of a file in another mix, on the GPUs, shared out by layers: "211 GiB". doubled_kv_b: as in
    `gguf_tensors`. Raises ValueError for a mix that is not known.

    >>> llama_cpp("deepseek-r1-distill-qwen-7b", "RTX 3060").fits
    True
    """
    found, arch = devices(gpu), Architecture.of(model)
    seq_len, batch = whole_number("seq_len", seq_len), whole_number("batch", batch)
    one_of("kv_cache", format_name(kv_cache), LLAMA_CACHES, "a format of llama.cpp's cache")
    work = Workload(seq_len=seq_len, batch=batch, kv_cache=kv_cache)
    _check_host(arch, experts_on_host, weight_bytes, doubled_kv_b)
    layers, gpus = arch.num_hidden_layers, found.count
    counts = [layers // gpus + (index < layers % gpus) for index in range(gpus)]
    if weight_bytes is None:
        held, host = _by_gpu(arch, weights, counts, experts_on_host, doubled_kv_b)
    else:
        whole, host, weights = parse_bytes(weight_bytes, "weight_bytes"), 0, f"a file of {weight_bytes}"
        held = [-(-whole * count // layers) for count in counts]
    caches = [sum(cache_bytes(arch.scaled(num_hidden_layers=n), work).values()) if n else 0 for n in counts]
    beside = {part: most for part, (_, most) in overhead(found, 0).items() if part != "segments"}
    fullest = max(range(gpus), key=lambda index: held[index] + caches[index])
    parts = {"weights": held[fullest], "kv_cache": caches[fullest], **beside}
    needed = sum(parts.values())
    verdict = bool(fits(needed, found.usable_bytes))
    left = found.usable_bytes - needed
    sentence = (
        f"llama.cpp with {arch.name} in {weights} {'fits' if verdict else 'does not fit'} {found} "
        f"({usable_words(found)}): weights and {batch:,} × {seq_len:,} tokens of {work.kv_cache} cache need "
        f"{format_bytes(needed)}, {format_bytes(abs(left))} {'left for compute buffers' if verdict else 'too much'}"
    )
    numbers = {"n_ctx": batch * seq_len}
    notes = (*LLAMA_NOTES, *filter(None, [unknown(found)]))
    where = found, parts, found.usable_bytes, numbers, verdict, sentence, notes, host
    return Engine("llama.cpp", arch.name, *where)


def _check_host(arch, experts_on_host, weight_bytes, doubled_kv_b):
    for name, value in (("experts_on_host", experts_on_host), ("doubled_kv_b", doubled_kv_b)):
        if type(value) is not bool:
            raise ValueError(f"{name}={value!r} is not a choice; allowed: True, False")
    if experts_on_host and not arch.n_routed_experts:
        raise ValueError(f"experts_on_host=True moves routed experts, which {arch.name} has not; it must be False")
    if experts_on_host and weight_bytes is not None:
        raise ValueError(
            f"weight_bytes={weight_bytes!r} is what lies on the GPUs, whatever experts_on_host says; give one of both"
        )


def _by_gpu(arch, mix, counts, experts_on_host, doubled_kv_b):
    """Bytes of each GPU's layers, norm and head with the last; and of what stays on the host."""
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    held, host = [0] * len(counts), 0
    for name, tensor in gguf_tensors(arch, mix, doubled_kv_b).items():
        nbytes = tensor_bytes(*tensor)
        if "embed_tokens" in name or (experts_on_host and ".experts." in name):
            host += nbytes
        if "embed_tokens" in name and not arch.tie_word_embeddings:
            continue  # a tied one is the head as well, and lies on the GPU a second time
        if not (experts_on_host and ".experts." in name):
            layer = int(name.split(".")[2]) if ".layers." in name else arch.num_hidden_layers - 1
            held[next(index for index, end in enumerate(ends) if layer < end)] += nbytes
    return held, host
