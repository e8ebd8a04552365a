"""Check a reader's answer in the cell where it was written, and keep the guesses made before a run.

    def my_kv_cache_bytes(batch, cache_len, num_hidden_layers, num_key_value_heads, head_dim, bits):
        return ...

    dsmem.check.kv_cache_bytes(my_kv_cache_bytes)

An exercise is called with the reader's function. It prints a tick, or the first case that fails and, where the answers
are those of a usual mistake, its name. The function is given, by name, whatever inputs its arguments name: sizes
(`batch`, `bits`), the fields of a model (`head_dim`) or the model itself (`arch`). Nothing is ever raised.
"""

import re

from dsmem import cache_exercises, caching, formulas, serving
from dsmem.architecture import Architecture
from dsmem.exercise import Exercise, Mistake, call
from dsmem.footprint import Footprint
from dsmem.predictions import Predictions
from dsmem.units import gb, gib
from dsmem.weighing_exercises import active_params, attention_params, fp8_linear_bytes

__all__ = ["EXERCISES", "Predictions", "active_params", "attention_params", "fp8_linear_bytes"]

_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "vocab_size", "n_params"),
)


def _case(model, batch, seq_len, bits):
    """A real model and a load; the length goes by every name that a formula has for it."""
    arch = Architecture.from_config(model)
    lengths = dict.fromkeys(("seq_len", "key_len", "cache_len", "positions"), seq_len)
    return {"arch": arch, "batch": batch, **lengths, "bits": bits} | {name: getattr(arch, name) for name in _FIELDS}


_MODELS = (
    _case("deepseek-r1-distill-qwen-7b", 4, 1024, 16),
    _case("llama-2-7b", 1, 4096, 16),
    _case("deepseek-r1-distill-llama-70b", 2, 300, 32),
    _case("qwen2.5-0.5b", 3, 77, 8),
)
_LAYERS = tuple(
    dict(tokens=tokens, in_features=in_features, out_features=out_features, bits=bits)
    for tokens, in_features, out_features, bits in ((4096, 3584, 18944, 16), (1, 18944, 3584, 16), (77, 896, 128, 32))
)
_NO_BATCH = Mistake("batch forgotten", "Every sequence of the batch has its own.", {"batch": 1})


def _weights(count, unit=gib):
    return lambda arch, bits: unit(formulas.tensor_bytes(count(arch), bits))


def _without(*parts):
    return _weights(lambda arch: arch.n_params - sum(arch.census().get(part, 0) for part in parts))


def _nominal(arch):
    return 1e9 * float(re.search(r"([\d.]+)b$", arch.name)[1])


weights_gib = Exercise(
    "weights_gib",
    "Return the GiB (2**30 bytes) of all weights of `arch` at `bits` per parameter.",
    _without(),
    _MODELS,
    (
        Mistake("GB called GiB", "A GiB is 2**30 bytes, a GB 1e9.", _weights(lambda arch: arch.n_params, gb)),
        Mistake("embedding dropped", "It has vocab_size * hidden_size parameters.", _without("embed_tokens")),
        Mistake("untied head dropped", "Unless it is tied, it is as large as the embedding.", _without("lm_head")),
        Mistake("embedding and head dropped", "The layers are not everything.", _without("embed_tokens", "lm_head")),
        Mistake("two matrices in the MLP", "A gated MLP has three: gate, up and down.", _without("up_proj")),
        Mistake(
            "tied head counted twice",
            "Where tie_word_embeddings is true, head and embedding are one tensor.",
            _weights(lambda arch: arch.scaled(tie_word_embeddings=False).n_params),
        ),
        Mistake(
            "grouped heads ignored",
            "With num_key_value_heads heads, k_proj and v_proj are narrower than q_proj.",
            _weights(lambda arch: arch.scaled(num_key_value_heads=arch.num_attention_heads).n_params),
        ),
        Mistake("the number in the name", "The 7B of a name is rounded: count the parameters.", _weights(_nominal)),
    ),
    unit="GiB",
)

hidden_state_bytes = Exercise(
    "hidden_state_bytes",
    "Return the bytes of one hidden state: a vector of `hidden_size` for every token of the batch.",
    formulas.hidden_state_bytes,
    _MODELS,
    (
        _NO_BATCH,
        Mistake("one token only", "A prefill holds all seq_len tokens at once.", {"seq_len": 1}),
        Mistake("one for every layer", "It dies when the next layer's is made.", {"times": "num_hidden_layers"}),
    ),
)

logits_bytes = Exercise(
    "logits_bytes",
    "Return the bytes of the logits of all positions.",
    formulas.logits_bytes,
    _MODELS,
    (
        Mistake(
            "hidden_size in place of vocab_size", "There is one logit for every word.", {"vocab_size": "hidden_size"}
        ),
        _NO_BATCH,
        Mistake("last position only", "Asked for is every position, not only the last.", {"positions": 1}),
        Mistake("always float32", "Logits come in the format of the pass, until somebody copies them.", {"bits": 32}),
    ),
)

attention_scores_bytes = Exercise(
    "attention_scores_bytes",
    "Return the bytes of one layer's attention scores: one number per head, token and attended token.",
    formulas.attention_scores_bytes,
    _MODELS,
    (
        Mistake("seq_len once", "Every token looks at every token, so the length counts squared.", {"key_len": 1}),
        Mistake(
            "key-value heads in place of heads",
            "Every query head has scores of its own, even where heads share their keys.",
            {"num_attention_heads": "num_key_value_heads"},
        ),
        Mistake(
            "hidden_size in place of heads",
            "A score is one number per head: head_dim is summed over.",
            {"num_attention_heads": "hidden_size"},
        ),
        _NO_BATCH,
    ),
)


def _mlp_product_bytes(batch, seq_len, intermediate_size, bits):
    return 3 * formulas.mlp_width_bytes(batch, seq_len, intermediate_size, bits)


mlp_product_bytes = Exercise(
    "mlp_product_bytes",
    "Return the bytes of the wide MLP tensors alive while the activated gate is multiplied by up.",
    _mlp_product_bytes,
    _MODELS,
    (
        Mistake("one wide tensor", "The two factors of the product are alive as well.", {"times": 1 / 3}),
        Mistake("two wide tensors", "The product is a third tensor beside its two factors.", {"times": 2 / 3}),
        Mistake("four wide tensors", "The gate is gone once it is activated.", {"times": 4 / 3}),
        Mistake(
            "4 * hidden_size in place of intermediate_size",
            "Four times as wide was the rule of older models; these name their width.",
            lambda batch, seq_len, hidden_size, bits: _mlp_product_bytes(batch, seq_len, 4 * hidden_size, bits),
        ),
        _NO_BATCH,
    ),
)

kv_cache_bytes = Exercise(
    "kv_cache_bytes",
    "Return the bytes of the keys and values of `cache_len` tokens in all layers.",
    formulas.kv_cache_bytes,
    _MODELS,
    (
        Mistake("the 2 forgotten", "Keys and values are two tensors.", {"times": 1 / 2}),
        Mistake(
            "heads in place of key-value heads",
            "Only num_key_value_heads heads are cached; several query heads share each of them.",
            {"num_key_value_heads": "num_attention_heads"},
        ),
        Mistake("layers forgotten", "Every layer caches keys and values of its own.", {"num_hidden_layers": 1}),
        _NO_BATCH,
        Mistake("one token only", "The cache keeps every token so far.", {"cache_len": 1}),
    ),
)

int8_linear_bytes = Exercise(
    "int8_linear_bytes",
    "Return the bytes of a linear layer's weight in INT8, with one float32 scale for every output channel.",
    formulas.int8_linear_bytes,
    _LAYERS,
    (
        Mistake(
            "scales forgotten",
            "There are 4 bytes for every output channel.",
            lambda in_features, out_features: in_features * out_features,
        ),
        Mistake(
            "16 bit",
            "INT8 takes one byte for an element.",
            lambda in_features, out_features: 2 * in_features * out_features,
        ),
        Mistake(
            "a scale per input channel",
            "The elements of one output channel share a scale, so there are out_features of them.",
            lambda in_features, out_features: in_features * out_features + 4 * in_features,
        ),
    ),
)

int4_linear_bytes = Exercise(
    "int4_linear_bytes",
    "Return the bytes of a layer's weight in INT4, with a 16-bit scale and a 16-bit zero point for every group.",
    formulas.int4_linear_bytes,
    tuple(case | {"group_size": size} for case, size in zip(_LAYERS, (128, 100, 32), strict=True)),
    (
        Mistake(
            "scales and zero points forgotten",
            "Every group has 2 bytes for its scale and 2 for its zero point.",
            lambda in_features, out_features: out_features * in_features // 2,
        ),
        Mistake(
            "zero points forgotten",
            "Every group has a zero point of 2 bytes beside its scale.",
            lambda in_features, out_features, group_size: (
                out_features * (in_features // 2 + 2 * -(-in_features // group_size))
            ),
        ),
        Mistake(
            "a byte for each number",
            "Two numbers of 4 bits share a byte.",
            lambda in_features, out_features, group_size: (
                out_features * (in_features + 4 * -(-in_features // group_size))
            ),
        ),
        Mistake(
            "groups along the outputs",
            "A group is a piece of one output channel, so in_features are divided.",
            lambda in_features, out_features, group_size: (
                in_features * (out_features // 2 + 4 * -(-out_features // group_size))
            ),
        ),
        Mistake(
            "the shorter last group forgotten",
            "The last group of a channel may be shorter, and has a scale all the same.",
            lambda in_features, out_features, group_size: (
                out_features * (in_features // 2 + 4 * (in_features // group_size))
            ),
        ),
    ),
)


def _matmul_bytes(tokens, in_features, out_features, bits):
    elements = (tokens * in_features, in_features * out_features, tokens * out_features)
    return sum(formulas.tensor_bytes(count, bits) for count in elements)


def _minus(first, second):
    """What is left of the matrix product without the tensor of these two widths."""
    return lambda bits, **inputs: (
        call(_matmul_bytes, inputs | {"bits": bits}) - inputs[first] * inputs[second] * bits // 8
    )


matmul_bytes = Exercise(
    "matmul_bytes",
    "Return the bytes of input, weight and output of one matrix product, all three alive at once.",
    _matmul_bytes,
    _LAYERS,
    (
        Mistake("output forgotten", "The product is a new tensor.", _minus("tokens", "out_features")),
        Mistake("weight forgotten", "It is there whatever the batch.", _minus("in_features", "out_features")),
        Mistake("input forgotten", "It is alive while the product is computed.", _minus("tokens", "in_features")),
    ),
)


def _instants(model, batch, seq_len):
    """Three instants of a pass in 16 bit with their largest tensors (`phases`), and summed up (`totals`)."""
    case = _case(model, batch, seq_len, 16)
    held = {"weights": formulas.tensor_bytes(case["n_params"], 16)}
    phases = {
        "attention": held | {"scores": call(formulas.attention_scores_bytes, case)},
        "mlp": held | dict.fromkeys(("gate", "up", "gated"), call(formulas.mlp_width_bytes, case)),
        "head": held | {"logits": call(formulas.logits_bytes, case)},
    }
    return {"totals": {instant: sum(parts.values()) for instant, parts in phases.items()}, "phases": phases}


def _sum_of_largest_parts(phases):
    parts = {part for instant in phases.values() for part in instant}
    return sum(max(instant.get(part, 0) for instant in phases.values()) for part in parts)


peak_bytes = Exercise(
    "peak_bytes",
    "Return the peak of a pass from the bytes alive at each of its instants.",
    lambda phases: Footprint(phases).total_bytes,
    (
        _instants("deepseek-r1-distill-qwen-7b", 4, 1024),
        _instants("llama-2-7b", 1, 4096),
        _instants("llama-1-65b", 8, 256),
    ),
    (
        Mistake(
            "sum in place of the largest",
            "Instants follow each other, and the same memory serves them all.",
            lambda totals: sum(totals.values()),
        ),
        Mistake(
            "sum of the largest parts",
            "They are never alive together: add up within an instant first, then take the largest.",
            _sum_of_largest_parts,
        ),
        Mistake("last instant", "The most may have come before.", lambda totals: list(totals.values())[-1]),
    ),
)

_MIB = 2**20
_REQUESTS = tuple({"nbytes": n} for n in (1000, 512, 1, 300_001, _MIB, _MIB + 1, 9 * _MIB, 10 * _MIB, 11 * _MIB + 3))

rounded_bytes = Exercise(
    "rounded_bytes",
    "Return the bytes of the block that holds a tensor of `nbytes`: a whole number of 512.",
    caching.rounded_bytes,
    _REQUESTS[:6],
    (
        Mistake("not rounded", "A block is a whole number of 512 bytes.", lambda nbytes: nbytes),
        Mistake("rounded down", "A block that is too small holds no tensor.", lambda nbytes: nbytes // 512 * 512),
        Mistake(
            "always one more",
            "A tensor that is a whole number of 512 bytes needs no block beyond them.",
            lambda nbytes: (nbytes // 512 + 1) * 512,
        ),
        Mistake("counted in blocks", "Asked for are bytes, 512 for each.", lambda nbytes: -(-nbytes // 512)),
    ),
)

segment_bytes = Exercise(
    "segment_bytes",
    "Return the bytes that the allocator takes from the card for the first tensor of all, of `nbytes`.",
    caching.segment_bytes,
    _REQUESTS[2:],
    (
        Mistake("the block alone", "The card is asked for whole segments.", caching.rounded_bytes),
        Mistake(
            "whole 2 MiB for all",
            "Between 1 and 10 MiB the allocator takes 20 MiB, so that several such tensors can share them.",
            lambda nbytes: -(-nbytes // (2 * _MIB)) * 2 * _MIB,
        ),
        Mistake(
            "20 MiB for all that is large",
            "From 10 MiB on a tensor gets a segment of its own, in whole 2 MiB.",
            lambda nbytes: 2 * _MIB if nbytes <= _MIB else -(-nbytes // (20 * _MIB)) * 20 * _MIB,
        ),
        Mistake(
            "own segments not rounded",
            "A segment of its own is a whole number of 2 MiB.",
            lambda nbytes: caching.segment_bytes(nbytes) if nbytes < 10 * _MIB else caching.rounded_bytes(nbytes),
        ),
    ),
)


def _padding_bytes(lengths, token_bytes):
    return token_bytes * (serving.padded_tokens(lengths, len(lengths)) - serving.packed_tokens(lengths))


padding_bytes = Exercise(
    "padding_bytes",
    "Return the bytes that a batch of sequences of these `lengths` wastes when all are padded to the longest.",
    _padding_bytes,
    (
        {"lengths": [3, 10, 4, 9], "token_bytes": 57_344},
        {"lengths": [700, 700], "token_bytes": 28_672},
        {"lengths": [1, 2048, 2, 16, 300], "token_bytes": 57_344},
    ),
    (
        Mistake(
            "the whole batch",
            "What the tokens themselves take is no waste.",
            lambda lengths, token_bytes: len(lengths) * max(lengths) * token_bytes,
        ),
        Mistake(
            "what is used", "That is what the tokens need.", lambda lengths, token_bytes: sum(lengths) * token_bytes
        ),
        Mistake(
            "counted in tokens",
            "Each token takes token_bytes.",
            lambda lengths: len(lengths) * max(lengths) - sum(lengths),
        ),
        Mistake(
            "the shortest alone",
            "Every sequence is padded, not only the shortest.",
            lambda lengths, token_bytes: (max(lengths) - min(lengths)) * token_bytes,
        ),
    ),
)

latent_cache_bytes = cache_exercises.latent_cache_bytes
paged_waste_bytes = cache_exercises.paged_waste_bytes

EXERCISES = {name: value for name, value in globals().items() if isinstance(value, Exercise)}
"""Every exercise by its name."""
