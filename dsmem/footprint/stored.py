"""What is stored before a pass begins: weights in every format, the KV cache, buffers. The one way to these bytes."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.schemes import INT4_GROUP, PACKED, SCHEMES, packed
from dsmem.config.workload import EXPERTS, LINEARS, Workload
from dsmem.units import BLOCK_FORMATS, FLOATS, dtype_bits, format_name, names, one_of, whole_number

PARTS = ("embed_tokens", "attention", "mlp", "experts", "shared_experts", "other", "lm_head", "weight_scales")
"""Where the bytes of a model's weights are, as `weight_parts` names it."""

FLASHMLA_ROWS = {512 + 64: 64, 128: 0}  # width of a cached row: numbers of it that stay in BF16

KEPT = {  # what a menu calls it: the linear layers that stay in 16 bit
    "head": ("lm_head",),
    "nothing more": (),
    "head and attention": ("lm_head", *(name for name in LINEARS if name.startswith(("q", "k", "v_", "o_", "index")))),
    "all but routed experts": tuple(name for name in LINEARS if not name.startswith("experts.")),
}
"""Usual choices of `modules_to_not_convert`, by what a menu calls them."""


# --- Weights ----------------------------------------------------------------------------------------------------------


def weights_by_layer(
    arch: Any,
    weights: Any = "bf16",
    modules_to_not_convert: tuple = ("lm_head",),
    activations: Any = None,
    group_size: int = INT4_GROUP,
) -> dict[str, tuple[int, int, int]]:
    """{name of `arch.census()`: (bytes in the activations' format, bytes of converted numbers, bytes of scales)}.

    arch: whatever `Architecture.of` takes. weights: a float format for all, or a scheme of `config.schemes` for linear
    layers and expert stacks, or "awq", "gptq", "mxfp4", "nvfp4"; embedding, norms, biases, router and a tied head
    never convert, nor do experts in "nf4": see `Scheme`. modules_to_not_convert:
    linear layers and stacks that keep the activations' format, by name. activations: that format; defaults to the
    weights' own, or 16 bit for a scheme. group_size: of AWQ and GPTQ. Raises ValueError for an unknown format or name.
    """
    arch, weights = Architecture.of(arch), format_name(weights)
    one_of("weights", weights, (*FLOATS, *SCHEMES, *PACKED), "a format")
    scheme = packed(weights, group_size) if weights in PACKED else SCHEMES.get(weights)
    for name in (modules_to_not_convert := names("modules_to_not_convert", modules_to_not_convert)):
        one_of("modules_to_not_convert", name, LINEARS, "a linear layer")
    plain = dtype_bits(activations or (weights if weights in FLOATS else "fp16"), "activations")
    matrices = _converted(arch, scheme, modules_to_not_convert) if scheme else {}
    found = {}
    for name, count in arch.census().items():
        if name in matrices:
            n_in, n_out, copies = matrices[name]
            payload, whole = scheme.payload_bytes(n_in, n_out), scheme.linear_bytes(n_in, n_out)
            kept = formulas.tensor_bytes(count - copies * n_in * n_out, plain)
            found[name] = kept, copies * payload, copies * (whole - payload)
        else:
            found[name] = formulas.tensor_bytes(count, plain), 0, 0
    return found


def _converted(arch, scheme, kept):
    """{name: (in_features, out_features, copies)} of the matrices that a scheme converts, as it stores them."""
    kept = (*kept, *EXPERTS) if scheme.stacks == "kept" else kept
    found = {name: matrix for name, matrix in arch.matrices().items() if name not in kept}
    if scheme.stacks == "one by one" and EXPERTS[0] in found:  # gate and up apart
        n_in, n_out, copies = found[EXPERTS[0]]
        found[EXPERTS[0]] = n_in, n_out // 2, 2 * copies
    return found


def weight_bytes(arch: Any, weights: Any = "bf16", **options: Any) -> int:
    """Bytes of all weights as stored, scales included; arguments as in `weights_by_layer`.

    Left out: buffers, and modules that predict further tokens (`published.published_bytes` counts those).

    >>> weight_bytes("deepseek-r1-distill-qwen-7b", "int8")
    8711506944
    """
    return sum(map(sum, weights_by_layer(arch, weights, **options).values()))


def weight_parts(arch: Any, weights: Any = "bf16", **options: Any) -> dict[str, int]:
    """{part: bytes} of all weights by where they are, the parts of `PARTS` that the model has; see `weights_by_layer`.

    >>> parts = weight_parts("deepseek-r1-distill-qwen-7b", "int8")
    >>> parts["mlp"], sum(parts.values())
    (5703204864, 8711506944)
    """
    arch, sums = Architecture.of(arch), dict.fromkeys(PARTS, 0)
    for name, (plain, payload, scales) in weights_by_layer(arch, weights, **options).items():
        sums[weight_part(arch, name)] += plain + payload
        sums["weight_scales"] += scales
    return {part: nbytes for part, nbytes in sums.items() if nbytes}


def weight_part(arch: Architecture, name: str) -> str:
    """The part of `PARTS` that a name of `arch.census()` belongs to.

    >>> weight_part(Architecture.of("deepseek-r1"), "kv_b_proj")
    'attention'
    """
    if name == "sinks" or name in arch.attention_linears() or name in arch.indexer_census():
        return "attention"
    if name in arch.mlp_linears():
        return "mlp"
    first = name.partition(".")[0]
    return first if first in PARTS else "other"


def weight_formats(arch: Any, work: Workload | None = None, **fields: Any) -> dict[str, int]:
    """{part: bytes} of all weights by how they are stored, as a footprint lists them.

    arch: whatever `Architecture.of` takes. work: a `Workload`, or its fields as keywords. "weights" are those in the
    activations' format, "weights_int8" and the like the numbers of converted layers, "weight_scales" their scales.

    >>> weight_formats("deepseek-r1-distill-qwen-7b", weights="int8")
    {'weights': 2180656128, 'weights_int8': 6525288448, 'weight_scales': 5562368}
    """
    arch = Architecture.of(arch)
    work = Workload.of(work, **fields).on(arch)
    work.check(arch)
    options = {"modules_to_not_convert": work.modules_to_not_convert, "activations": work.activations}
    plain, payload, scales = map(sum, zip(*weights_by_layer(arch, work.weights, **options).values(), strict=True))
    if not payload:
        return {"weights": plain}
    return {"weights": plain, f"weights_{SCHEMES[work.weights].element}": payload, "weight_scales": scales}


def buffer_bytes(arch: Any) -> int:
    """Bytes of what a model keeps beside its weights: rotary frequencies and router biases, where it has them."""
    arch = Architecture.of(arch)
    biased = len(arch.expert_layers) if arch.scoring_func == "sigmoid" else 0
    routers = biased * formulas.router_bias_bytes(arch.n_routed_experts)
    rotary = 0 if arch.learned_positions else arch.rotary_bases * formulas.rope_frequencies_bytes(arch.rotated_dim)
    return rotary + routers


def check_range(work: Workload, total_of: Callable[[Workload], int]) -> None:
    """Raise ValueError where an array's largest case is beyond 64-bit integers, which wrap around without a word.

    total_of: the bytes of a workload without arrays.
    """
    sizes = {name: getattr(work, name) for name in ("batch", "seq_len", "cached_tokens")}
    if not any(isinstance(size, np.ndarray) for size in sizes.values()):
        return
    largest = {name: int(np.max(size)) for name, size in sizes.items()}
    total = total_of(work.changed(**largest))  # Python integers have no end
    if total >= 2**60:  # a tensor's bits are counted before they are divided by 8
        raise ValueError(
            f"batch={largest['batch']} with seq_len={largest['seq_len']} takes {total:,} bytes, more than an array's "
            "64-bit integers hold; ask for such a case by itself, with whole numbers"
        )


# --- The KV cache -----------------------------------------------------------------------------------------------------


def cache_rows(
    kv_cache: str, batch: Any, tokens: Any, heads: int, width: int, row_alignment: int = 1
) -> tuple[Any, Any]:
    """(numbers, scales) in bytes of one kind of rows in one layer: `heads` rows of `width` for each token.

    kv_cache: a float format, "fp8", or "int8" with a float32 scale for each row; or "q8_0" or "q4_0", whose
    blocks hold their scales; or "fp8_ds_mla". batch, tokens: numbers or arrays. row_alignment: bytes that each row
    fills up to a multiple of, as vLLM pads latent rows to 256.
    """
    if whole_number("row_alignment", row_alignment, what="a number of bytes") > 1:
        rows, scales = cache_rows(kv_cache, 1, 1, 1, width)
        return formulas.aligned_rows_bytes(batch, tokens, heads, rows, row_alignment), batch * tokens * heads * scales
    if kv_cache == "fp8_ds_mla":
        row = formulas.fp8_latent_row_bytes(width - _rotated(width), _rotated(width))
        return formulas.aligned_rows_bytes(batch, tokens, heads, row, 1), 0
    if kv_cache in BLOCK_FORMATS:
        return formulas.cache_blocks_bytes(batch, tokens, heads, width, *BLOCK_FORMATS[kv_cache]), 0
    scales = formulas.cache_scales_bytes(batch, tokens, heads) if kv_cache == "int8" else 0
    return formulas.cache_rows_bytes(batch, tokens, heads, width, dtype_bits(kv_cache, "kv_cache")), scales


def _rotated(width):
    """Numbers of a row of FlashMLA's FP8 cache that stay in BF16: of a latent row 64, of an indexer's key none."""
    if width not in FLASHMLA_ROWS:
        raise ValueError(
            f"kv_cache='fp8_ds_mla' has no row of {width} numbers; allowed: MLA's latent, {max(FLASHMLA_ROWS)}"
        )
    return FLASHMLA_ROWS[width]


def model_rows(
    rows: dict[str, tuple[int, int]], layers: int, kv_cache: str, batch: Any, tokens: Any, row_alignment: int = 1
) -> tuple[Any, Any]:
    """(numbers, scales) in bytes of `layers` layers of `rows`, {name: (heads, width)} as in `Architecture.cache_rows`.

    >>> model_rows({"latents": (1, 576)}, 61, "bf16", 1, 1)
    (70272, 0)
    """
    whole_number("layers", layers, least=0)
    pairs = [cache_rows(kv_cache, batch, tokens, *shape, row_alignment) for shape in rows.values()]
    return layers * sum(stored for stored, _ in pairs), layers * sum(scales for _, scales in pairs)


def rows_of(
    arch: Architecture,
    rows: dict[str, tuple[int, int]],
    kv_cache: str,
    batch: Any,
    tokens: Any,
    row_alignment: int = 1,
    block_size: Any = 1,
) -> tuple[Any, Any]:
    """(numbers, scales) in bytes of `rows` in all layers of `arch` that keep them; an indexer's keys not all do.

    tokens: cached per sequence; of a layer that slides every layout keeps the last `sliding_window - 1`, a growing
    cache as what it holds once it is full, the others as room for them. block_size: of whole pages.
    """
    pairs = []
    for slide, (name, shape) in itertools.product((False, True), rows.items()):
        kept, layers = arch.kept_tokens(slide, tokens), arch.layers_caching(name, slide)
        room = formulas.paged_tokens(kept, block_size)
        pairs.append(model_rows({name: shape}, layers, kv_cache, batch, room, row_alignment))
    return sum(stored for stored, _ in pairs), sum(scales for _, scales in pairs)


def cache_part(arch: Architecture, work: Workload, name: str = "") -> str:
    """The part that the cache's rows called `name` are: "kv_cache" or "latent_cache", or "indexer_cache"."""
    if name == "indexer_keys":
        return "indexer_cache"
    return "latent_cache" if "latents" in arch.cache_rows(work.mla_cache) else "kv_cache"


def cache_bytes(arch: Any, work: Workload | None = None, row_alignment: int = 1, **fields: Any) -> dict[str, Any]:
    """{part: bytes} of the KV cache before the pass: its rows, their scales, and the places of a paged one's tokens.

    An indexer's keys are a part of their own, "indexer_cache".

    arch: whatever `Architecture.of` takes. work: a `Workload`, or its fields as keywords. row_alignment: see
    `cache_rows`.

    >>> cache_bytes("deepseek-r1", seq_len=4096, weights="bf16")
    {'latent_cache': 287834112}
    """
    arch, work = Architecture.of(arch), Workload.of(work, **fields)
    if work.cache == "none":
        return {}
    arch.check_positions(work.cache_len)
    check_range(work, lambda largest: sum(cache_bytes(arch, largest, row_alignment).values()))
    tokens = work.cached_tokens if work.cache == "growing" else work.cache_len
    block_size = work.block_size if work.cache == "paged" else 1
    kinds = arch.cache_rows(work.mla_cache)
    if work.kv_cache == "fp8_ds_mla" and "latents" not in kinds:
        raise ValueError(
            f"kv_cache='fp8_ds_mla' is a format of latent rows, and {arch.name} caches {' and '.join(kinds)}; allowed "
            "there: any other"
        )
    parts, scales = {}, 0
    for name, shape in kinds.items():
        stored, extra = rows_of(arch, {name: shape}, work.kv_cache, work.batch, tokens, row_alignment, block_size)
        part, scales = cache_part(arch, work, name), scales + extra
        parts[part] = parts.get(part, 0) + stored
    if work.kv_cache == "int8":
        parts["cache_scales"] = scales
    if work.cache == "paged":
        # layers that slide have a table of their own
        kept = [arch.kept_tokens(slide, tokens) for slide in (False, True) if arch.layers_that(slide)]
        places = sum(formulas.paged_tokens(room, block_size) for room in kept)
        parts["slot_mapping"] = formulas.token_ids_bytes(work.batch, places)
    return parts
