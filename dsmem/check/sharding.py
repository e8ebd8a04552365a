"""Exercises of notebook 07: ZeRO's stages, a share of rows, and both kinds of cache on one of many ranks."""

from dsmem import formulas
from dsmem.check.cases import bits_mistakes, fields
from dsmem.check.exercise import Exercise, Mistake
from dsmem.config.architecture import Architecture

_STAGES = (
    lambda n, data: formulas.training_states_bytes(n, 16, 16, 32, 32),
    lambda n, data: formulas.zero1_states_bytes(n, data, 16, 16, 96),
    lambda n, data: formulas.zero2_states_bytes(n, data, 16, 16, 96),
    lambda n, data: formulas.zero3_states_bytes(n, data, 16, 16, 96),
)


def _zero(n_params, data, zero):
    return _STAGES[min(zero, 3)](n_params, data)


def _by_hand(weights, gradients, states):
    """The bytes of a rank: each argument {stage: bytes a parameter that are shared out from it on}."""

    def slip(n_params, data, zero):
        parts = (weights, gradients, states)
        return sum(nbytes * n_params // (data if zero >= stage else 1) for stage, nbytes in parts)

    return slip


def _zero_case(n_params, data, zero):
    return {"n_params": n_params, "data": data, "zero": zero}


zero_bytes = Exercise(
    "zero_bytes",
    "Return what one of `data` ranks holds at stage `zero` (0 to 3): BF16 parameters and gradients, and 12 bytes of "
    "optimizer states a parameter.",
    _zero,
    (
        *(_zero_case(7_500_000_000, 64, zero) for zero in (1, 2, 3)),  # the paper's own
        _zero_case(70_553_706_496, 512, 3),
        _zero_case(7_615_616_512, 8, 1),
        _zero_case(7_615_616_512, 8, 0),
    ),
    nudge="There are parts of 2, 2 and 12 bytes, and each stage shares out one part more: which one goes first?",
    mistakes=(
        Mistake(
            "everything shared out at every stage",
            "Only stage 3 shares out the parameters, too.",
            _by_hand((1, 2), (1, 2), (1, 12)),
        ),
        Mistake(
            "no stage shares anything",
            "That is stage 0, plain data parallel: from stage 1 on the optimizer states are shared out.",
            {"zero": 0},
        ),
        Mistake(
            "parameters shared out first",
            "The stages begin with the optimizer states, the largest part: then gradients, then parameters.",
            _by_hand((1, 2), (2, 2), (3, 12)),
        ),
        Mistake(
            "master copy forgotten",
            "The states are 12 bytes: two FP32 averages and an FP32 copy of the parameters.",
            _by_hand((3, 2), (2, 2), (1, 8)),
        ),
        Mistake("gradients forgotten", "They are 2 bytes a parameter.", _by_hand((3, 2), (2, 0), (1, 12))),
    ),
    formula="states = 12 * n_params // (data if zero >= 1 else 1)\n"
    "gradients = 2 * n_params // (data if zero >= 2 else 1)\n"
    "return states + gradients + 2 * n_params // (data if zero >= 3 else 1)",
    notebook="07",
)


def _shard_case(rows, width, ranks, bits):
    return {"rows": rows, "width": width, "ranks": ranks, "bits": bits}


padded_shard_bytes = Exercise(
    "padded_shard_bytes",
    "Return the bytes that each of `ranks` ranks holds of a matrix of `rows` × `width` numbers under FSDP2: whole "
    "rows, as many on every rank.",
    formulas.shard_bytes,
    (
        _shard_case(128_256, 4096, 12, 16),
        _shard_case(151_936, 896, 1024, 32),  # Qwen2.5's embedding on 1,024 ranks
        _shard_case(256, 2048 * 7168, 1024, 16),  # R1's experts, one matrix: a row is a whole expert
        _shard_case(151, 128, 4, 4),
    ),
    nudge="How many rows has the rank that has most? All others are filled up to that.",
    mistakes=(
        Mistake(
            "numbers shared out, not rows",
            "A row is never cut, so round the number of rows, not that of all numbers.",
            lambda rows, width, ranks, bits: -(-rows * width // ranks) * bits // 8,
        ),
        Mistake(
            "rounded down",
            "Then some rows would lie nowhere: round up.",
            lambda rows, width, ranks, bits: rows // ranks * width * bits // 8,
        ),
        Mistake("the whole matrix", "Only the rank's own rows are there at rest.", {"ranks": 1}),
        Mistake("columns shared out", "The first axis is cut, the rows.", {"rows": "width", "width": "rows"}),
        *bits_mistakes(formulas.shard_bytes),
    ),
    notebook="07",
)


def _rank_kv(cache_len, num_hidden_layers, num_key_value_heads, head_dim, tensor, bits):
    heads = -(-num_key_value_heads // tensor)
    return 2 * cache_len * num_hidden_layers * heads * head_dim * bits // 8


def _kv_case(model, cache_len, tensor, bits=16):
    names = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    return {"cache_len": cache_len, "tensor": tensor, "bits": bits} | fields(model, *names)


rank_kv_cache_bytes = Exercise(
    "rank_kv_cache_bytes",
    "Return the bytes of keys and values of `cache_len` tokens on each of `tensor` ranks; where ranks are more than "
    "heads, a head stands on several.",
    _rank_kv,
    (
        _kv_case("qwen3-235b-a22b", 367_404, 4),
        _kv_case("qwen3-235b-a22b", 32_768, 16),  # 4 heads on 16 ranks
        _kv_case("deepseek-r1-distill-llama-70b", 8192, 2),
        _kv_case("qwen2.5-0.5b", 1000, 2, bits=4),
    ),
    nudge="How many key-value heads has one rank? It cannot have half of one.",
    mistakes=(
        Mistake(
            "shared out without end",
            "No rank has less than one head: with more ranks than heads the cache does not shrink any more.",
            lambda cache_len, num_hidden_layers, num_key_value_heads, head_dim, tensor, bits: (
                2 * cache_len * num_hidden_layers * num_key_value_heads * head_dim * bits // 8 / tensor
            ),
        ),
        Mistake("the whole cache on every rank", "Heads are shared out, and their cache with them.", {"tensor": 1}),
        Mistake("the 2 forgotten", "Keys and values are two tensors.", {"times": 1 / 2}),
        Mistake(
            "heads in place of key-value heads",
            "Only num_key_value_heads heads are cached.",
            {"num_key_value_heads": "num_attention_heads"},
        ),
        Mistake("layers forgotten", "Every layer caches keys and values of its own.", {"num_hidden_layers": 1}),
        *bits_mistakes(_rank_kv),
    ),
    notebook="07",
)


def _rank_latent(sequences, cache_len, num_hidden_layers, kv_lora_rank, qk_rope_head_dim, tensor, attention):
    own = -(-sequences // tensor) if attention == "data" else sequences
    return 2 * own * cache_len * num_hidden_layers * (kv_lora_rank + qk_rope_head_dim)


def _latent_case(model, sequences, cache_len, tensor, attention, **changes):
    load = {"sequences": sequences, "cache_len": cache_len, "tensor": tensor, "attention": attention}
    return load | fields(
        Architecture.of(model).scaled(**changes), "num_hidden_layers", "kv_lora_rank", "qk_rope_head_dim"
    )


rank_latent_cache_bytes = Exercise(
    "rank_latent_cache_bytes",
    "Return the bytes of MLA's cache in BF16 on the rank that has most of `tensor`: their `sequences` of `cache_len` "
    'tokens are attended to by all of them together (attention="tensor") or are shared out among them ("data").',
    _rank_latent,
    (
        _latent_case("deepseek-r1", 32, 4096, 8, "tensor"),
        _latent_case("deepseek-r1", 32, 4096, 8, "data"),
        _latent_case("deepseek-v2-lite", 5, 1000, 4, "data", kv_lora_rank=256, qk_rope_head_dim=32, head_dim=32),
        _latent_case("deepseek-r1", 1, 65_536, 16, "tensor"),
    ),
    nudge="All heads read the same latent: what can be cut, then, heads or sequences?",
    mistakes=(
        Mistake(
            "cut by ranks in any case",
            "There is one latent for all heads, so ranks that share out heads each keep all of it.",
            lambda sequences, **inputs: _rank_latent(sequences=sequences, **inputs | {"attention": "data"}),
        ),
        Mistake(
            "never cut",
            'With attention="data" every rank keeps the cache of its own sequences alone.',
            {"attention": "tensor"},
        ),
        Mistake("the rope part forgotten", "Beside the latent lie qk_rope_head_dim numbers.", {"qk_rope_head_dim": 0}),
        Mistake(
            "sequences cut",
            "A sequence stays on one rank: the one that has most has a whole number of them, rounded up.",
            lambda sequences, tensor, attention, **inputs: (
                _rank_latent(sequences=sequences, tensor=1, attention="tensor", **inputs)
                / (tensor if attention == "data" else 1)
            ),
        ),
        Mistake("keys and values apart", "MLA caches one latent for both.", {"times": 2}),
        Mistake("layers forgotten", "Every layer caches a latent of its own.", {"num_hidden_layers": 1}),
    ),
    notebook="07",
)
