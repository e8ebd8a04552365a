"""Whose tensor is this many bytes? From the line of an out-of-memory error to the tensors that have this size."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.footprint.stored import weight_bytes
from dsmem.table import Table
from dsmem.units import BLOCK_FORMATS, BYTE_UNITS, format_bytes, whole_number

FORMATS = {"fp32": 32, "bf16 or fp16": 16, "fp8 or int8": 8}
PACKED = {  # of weights alone: numbers in a block, and its bytes
    "4 bit, two in a byte": (2, 1),  # NF4, AWQ, GPTQ and NVFP4 keep their scales elsewhere
    "q8_0": BLOCK_FORMATS["q8_0"],
    "q6_K": BLOCK_FORMATS["q6_K"],
    "q5_K": BLOCK_FORMATS["q5_K"],
    "q4_K or q4_0": BLOCK_FORMATS["q4_K"],
    "mxfp4": BLOCK_FORMATS["mxfp4"],
}
RANKS = (1, 2, 4, 8)  # of tensor parallelism, which cuts a matrix or the vocabulary
MOST_TOKENS = 2**24
_SIZE = re.compile(r"([\d,]+(?:\.(\d+))?)\s*(bytes|[KMGT]i?B|B)\b", re.IGNORECASE)
_UNITS = {name.lower(): nbytes for name, nbytes in BYTE_UNITS.items()} | {"b": 1}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One tensor of the size that was asked for.

    what: its name. shape: in elements, with `tokens` where the number of tokens is what explains it. element: the
    number format. nbytes: its exact bytes, of the likeliest number of tokens. when: what must hold for it to be this
    one, in words. rank: the lower, the likelier.
    """

    what: str
    shape: str
    element: str
    nbytes: int
    when: str
    rank: int


class Found(Table):
    """The candidates of `find_tensor`, the likeliest first: a `Table`, with `candidates`."""

    def __init__(self, candidates: list[Candidate], title: str):
        self.candidates = candidates
        columns = {"tensor": None, "shape": None, "format": None, "bytes": ",", "when": None}
        super().__init__(columns, [(c.what, c.shape, c.element, c.nbytes, c.when) for c in candidates], title)


def find_tensor(size: Any, model: Any, most: int = 12) -> Found:
    """The tensors of a model that have a size, the likeliest first: weights, activations, scores, cache, logits.

    size: bytes; or a text such as "448 MiB"; or the line of an out-of-memory error as it is ("Tried to allocate
    448.00 MiB"), which says the size to two digits: whatever rounds to it counts. model: whatever `Architecture.of`
    takes. most: candidates to keep. Raises ValueError for a text without a size.
    Left out: tensors of the optimizer, and blocks that an engine takes for itself (a cache pool).

    >>> found = find_tensor("Tried to allocate 56.00 MiB", "deepseek-r1").candidates
    >>> [(c.what.rpartition(", ")[2], c.element) for c in found[:2]]
    [('experts.gate_up_proj of one expert', 'bf16 or fp16'), ('experts.down_proj of one expert', 'fp32')]
    """
    arch, (low, high), most = Architecture.of(model), size_range(size), whole_number("most", most)
    found = [c for c in (*_weights(arch, low, high), *_by_token(arch, low, high), *_scores(arch, low, high))]
    found.sort(key=lambda candidate: candidate.rank)
    said = format_bytes(low) if low == high else f"{format_bytes((low + high) // 2)}, as rounded"
    title = f"{len(found)} tensors of {arch.name} have {said}" + (
        f"; the likeliest {most}" if len(found) > most else ""
    )
    return Found(found[:most], title)


def size_range(size: Any) -> tuple[int, int]:
    """The least and the most bytes that a size may stand for, by the digits it is given with.

    >>> size_range("Tried to allocate 1.96 GiB"), size_range(512)
    ((2099165266, 2109902684), (512, 512))
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size, size
    match = _SIZE.search(size) if isinstance(size, str) else None
    unit = _UNITS.get(match[3].lower()) if match else None
    if not unit:
        raise ValueError(
            f"size={size!r} holds no size; it must be bytes, a text such as '448 MiB', or the line of an out-of-memory "
            "error"
        )
    number, digits = float(match[1].replace(",", "")), len(match[2] or "")
    if number == 0 or size.strip().startswith("-"):
        raise ValueError(f"size={size!r} is nothing; it must be above 0")
    slack = 0 if unit == 1 else 0.5 * 10**-digits * unit
    exact = number * unit
    if digits == 0 and unit > 1:
        slack = 0.005 * unit  # "448 MiB" as people write it stands for 448.00
    return math.ceil(exact - slack), math.floor(exact + slack)


# --- Weights ----------------------------------------------------------------------------------------------------------


def _weights(arch: Architecture, low: int, high: int) -> Iterator[Candidate]:
    for what, shape in _matrices(arch).items():
        for element, bits in FORMATS.items():
            for ranks in RANKS:
                nbytes = formulas.tensor_bytes(math.prod(shape), bits) / ranks
                if low <= nbytes <= high:
                    when = "weights in this format" if ranks == 1 else f"weights cut over {ranks} GPUs"
                    yield Candidate(what, _shape(shape), element, int(nbytes), when, (ranks > 1) * 4 + (bits != 16))
        for element, block in PACKED.items():
            nbytes = formulas.block_bytes(math.prod(shape), *block)
            if low <= nbytes <= high:
                yield Candidate(what, _shape(shape), element, nbytes, "weights packed so", 3)
    for element, weights in (("fp32", "fp32"), ("bf16 or fp16", "bf16")):
        nbytes = weight_bytes(arch, weights)
        if low <= nbytes <= high:
            yield Candidate("all weights at once", f"{arch.n_params:,}", element, nbytes, "a loader warms up", 0)


def _matrices(arch: Architecture) -> dict[str, tuple]:
    """Every matrix that is stored: single, joined as engines join them, and in whole stacks."""
    shapes = {name: (n_out, n_in) for name, (n_in, n_out, _) in arch.linears().items()}
    found = {"embed_tokens": (arch.vocab_size, arch.hidden_size), **shapes}
    if arch.learned_positions:
        found["embed_positions"] = arch.learned_positions + arch.position_offset, arch.hidden_size
    if "k_proj" in shapes:
        rows = sum(shapes[name][0] for name in ("q_proj", "k_proj", "v_proj"))
        found["q_proj, k_proj and v_proj joined"] = rows, arch.hidden_size
    for prefix in ("", "shared_experts."):
        if f"{prefix}gate_proj" in shapes:
            rows, width = shapes[f"{prefix}gate_proj"]
            found[f"{prefix}gate_proj and {prefix}up_proj joined"] = 2 * rows, width
    for name, (experts, n_out, n_in) in arch.expert_stacks().items():
        found[f"{name} of one expert"] = n_out, n_in
        found[f"{name} of all experts"] = experts, n_out, n_in
    return _twins(found)


def _twins(found: dict[str, Any]) -> dict[str, Any]:
    """Tensors of one shape, turned or not, under one name: their bytes cannot tell them apart."""
    names = {}
    for name, shape in found.items():
        names.setdefault(tuple(sorted(shape)) if isinstance(shape, tuple) else shape, []).append(name)
    return {", ".join(twins): found[twins[0]] for twins in names.values()}


# --- What grows with the tokens ---------------------------------------------------------------------------------------


def _by_token(arch: Architecture, low: int, high: int) -> Iterator[Candidate]:
    for what, width in _widths(arch).items():
        for element, bits in FORMATS.items():
            for ranks in RANKS if what == "logits" else (1,):
                row = width * bits / 8 / ranks
                tokens = math.ceil(low / row), math.floor(high / row)
                if row >= 1 and 1 <= tokens[0] <= tokens[1] <= MOST_TOKENS:
                    yield _of_tokens(what, width // ranks, element, row, tokens, ranks, usual=_usual(what, bits))


def _usual(what, bits):
    """Are these tensors made in this format as a rule? Logits are upcast to FP32 by many losses and samplers."""
    return bits == 16 or (what == "logits" and bits == 32)


def _widths(arch: Architecture) -> dict[str, int]:
    """Elements per token of what a pass makes."""
    widths = {"hidden state": arch.hidden_size}
    for _, n_out, _ in arch.head_linears().values():
        widths["logits"] = n_out
    widths["queries of a layer"] = arch.query_width
    for name, (heads, width) in arch.cache_rows().items():
        widths[f"cached {name} of a layer"] = heads * width
        if arch.sliding_window is None:  # else it grows by fewer layers the longer it is
            widths[f"cached {name} of all layers"] = arch.layers_caching(name, False) * heads * width
    if arch.latent:
        widths["expanded keys of a layer"] = arch.kv_width
    if len(arch.expert_layers) < arch.num_hidden_layers:
        made = "up or what it activates" if arch.gpt_block else "gate, up or their product"
        widths[f"MLP: {made}"] = arch.intermediate_size
    if arch.joined_qkv:
        widths["queries, keys and values of a layer, joined"] = arch.query_width + 2 * arch.kv_width
    if arch.n_routed_experts:
        widths["rows of the chosen experts"] = arch.num_experts_per_tok * arch.hidden_size
    return _twins(widths)


def _of_tokens(what, width, element, row, tokens, ranks, usual):
    likely = _roundest(*tokens)
    span = f"{likely:,} tokens" if tokens[0] == tokens[1] else f"{tokens[0]:,} to {tokens[1]:,} tokens"
    when = f"batch × length is {span}" + (f", vocabulary cut over {ranks} GPUs" if ranks > 1 else "")
    # a number of tokens that people choose is a multiple of a high power of two
    roundness = min((likely & -likely).bit_length() - 1, 10)
    rank = 2 + (10 - roundness) + 3 * (not usual) + 3 * (ranks > 1) + 2 * (tokens[1] - tokens[0] > 64)
    return Candidate(what, f"tokens × {width:,}", element, int(likely * row), when, rank)


def _roundest(low: int, high: int) -> int:
    """The number from low to high that the highest power of two divides."""
    step = 1
    while -(-low // (2 * step)) * 2 * step <= high:
        step *= 2
    return -(-low // step) * step


def _scores(arch: Architecture, low: int, high: int) -> Iterator[Candidate]:
    kinds = {"attention scores": (arch.num_attention_heads, "eager attention")}
    if arch.indexed:  # in float32 everywhere
        kinds |= {"indexer scores": (1, "an indexer"), "indexer scores by head": (arch.index_n_heads, "eager indexer")}
    for what, (heads, who) in kinds.items():
        for element, bits in FORMATS.items():
            if bits > 8 and (bits == 32 or what == "attention scores"):
                yield from _squares(what, heads, who, element, bits, low, high)


def _squares(what, heads, who, element, bits, low, high):
    """Scores of all pairs of a prompt's tokens, by each number of prompts."""
    for batch in (1, 2, 4, 8, 16, 32):
        pair = batch * heads * bits / 8
        least, most = math.ceil(math.sqrt(low / pair)), math.floor(math.sqrt(high / pair))
        if 1 <= least <= most:
            seq_len = _roundest(least, most)
            roundness = min((seq_len & -seq_len).bit_length() - 1, 8)
            shape = f"{batch} × {heads} × {seq_len:,} × {seq_len:,}"
            when = f"{who}, prompts of {seq_len:,} tokens"
            yield Candidate(
                what, shape, element, int(seq_len**2 * pair), when, 4 + (8 - roundness) + batch.bit_length()
            )


def _shape(shape):
    return " × ".join(f"{size:,}" for size in shape)
