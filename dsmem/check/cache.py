"""Exercises of notebook 03: the KV cache, MLA's latent, and what pages leave empty."""

from dsmem import formulas
from dsmem.check.cases import MODELS, NO_BATCH, bits_mistakes, fields, model_case
from dsmem.check.exercise import Exercise, Mistake
from dsmem.config.architecture import Architecture


def _derived_head_dim(batch, cache_len, num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, bits):
    width = num_key_value_heads * (hidden_size // num_attention_heads)
    return 2 * batch * cache_len * num_hidden_layers * width * bits // 8


kv_cache_bytes = Exercise(
    "kv_cache_bytes",
    "Return the bytes of the keys and values of `cache_len` tokens in all layers.",
    formulas.kv_cache_bytes,
    (*MODELS, model_case("qwen3-30b-a3b", 5, 999, 16)),  # its head_dim is not hidden_size / num_attention_heads
    nudge="Start with one token in one layer: how many vectors does it leave there, and how wide is each?",
    mistakes=(
        Mistake("the 2 forgotten", "Keys and values are two tensors.", {"times": 1 / 2}),
        Mistake(
            "heads in place of key-value heads",
            "Only num_key_value_heads heads are cached; several query heads share each of them.",
            {"num_key_value_heads": "num_attention_heads"},
        ),
        Mistake(
            "head_dim worked out from hidden_size",
            "Some models name a head_dim that is not hidden_size / num_attention_heads.",
            _derived_head_dim,
        ),
        Mistake("layers forgotten", "Every layer caches keys and values of its own.", {"num_hidden_layers": 1}),
        NO_BATCH,
        Mistake("one token only", "The cache keeps every token so far.", {"cache_len": 1}),
        *bits_mistakes(formulas.kv_cache_bytes),
    ),
    notebook="03",
)


def _latent_case(model, batch, cache_len, bits, **changes):
    """A model with latent attention, some of its fields changed, and a load."""
    names = ("num_hidden_layers", "num_attention_heads", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim")
    sizes = fields(Architecture.of(model).scaled(**changes), *names, "qk_head_dim", "v_head_dim", "hidden_size")
    return {"batch": batch, "cache_len": cache_len, "bits": bits} | sizes


def _a_key_for_every_head(
    batch, cache_len, num_hidden_layers, num_attention_heads, kv_lora_rank, qk_rope_head_dim, bits
):
    width = kv_lora_rank + num_attention_heads * qk_rope_head_dim
    return batch * cache_len * num_hidden_layers * width * bits // 8


latent_cache_bytes = Exercise(
    "latent_cache_bytes",
    "Return the bytes that latent attention (MLA) caches for `cache_len` tokens in all layers.",
    formulas.latent_cache_bytes,
    (
        _latent_case("deepseek-r1", 1, 4096, 16),
        _latent_case("deepseek-v2-lite", 3, 1000, 4),
        _latent_case("deepseek-r1", 8, 77, 32, kv_lora_rank=384, qk_rope_head_dim=32, head_dim=32),  # not as published
    ),
    nudge="In each layer a token leaves two things that all heads share: which two, and how wide are they?",
    mistakes=(
        Mistake(
            "rotated key forgotten",
            "Beside the latent, each token keeps one rotated key of qk_rope_head_dim.",
            {"qk_rope_head_dim": 0},
        ),
        Mistake(
            "expanded",
            "Keys and values of all heads are made from the latent when needed, and are not kept.",
            formulas.expanded_cache_bytes,
        ),
        Mistake("a 2 for keys and values", "One latent stands for both keys and values.", {"times": 2}),
        Mistake("a rotated key for every head", "All heads share the one rotated key.", _a_key_for_every_head),
        Mistake("layers forgotten", "Every layer caches a latent of its own.", {"num_hidden_layers": 1}),
        NO_BATCH,
        Mistake("one token only", "The cache keeps every token so far.", {"cache_len": 1}),
        *bits_mistakes(formulas.latent_cache_bytes),
    ),
    notebook="03",
)


def _waste(seq_len, block_size, token_bytes):
    return -seq_len % block_size * token_bytes


def _paged_case(seq_len, block_size, token_bytes, max_len):
    return {"seq_len": seq_len, "block_size": block_size, "token_bytes": token_bytes, "max_len": max_len}


paged_waste_bytes = Exercise(
    "paged_waste_bytes",
    "Return the bytes that stay empty in the last page of a sequence of `seq_len` tokens.",
    _waste,
    (
        _paged_case(1000, 16, 70_272, 4096),
        _paged_case(4096, 16, 57_344, 8192),
        _paged_case(77, 32, 524_288, 2048),
        _paged_case(5, 128, 516_096, 512),
    ),
    nudge="How many pages does the sequence need, and for how many tokens do they have room?",
    mistakes=(
        Mistake(
            "a whole page too many",
            "A sequence that fills its last page leaves nothing empty.",
            lambda seq_len, block_size, token_bytes: (block_size - seq_len % block_size) * token_bytes,
        ),
        Mistake(
            "the filled part of the last page",
            "The task is about the part that stays empty.",
            lambda seq_len, block_size, token_bytes: seq_len % block_size * token_bytes,
        ),
        Mistake(
            "pages, not what is empty in them",
            "Take away the tokens that the pages hold.",
            lambda seq_len, block_size, token_bytes: formulas.paged_tokens(seq_len, block_size) * token_bytes,
        ),
        Mistake(
            "half a page",
            "That is the average over many lengths, and here the length is given.",
            lambda block_size, token_bytes: block_size // 2 * token_bytes,
        ),
        Mistake(
            "room for the longest sequence",
            "Pages are handed out when they are needed, so nothing is kept free up to max_len.",
            lambda seq_len, token_bytes, max_len: (max_len - seq_len) * token_bytes,
        ),
        Mistake(
            "tokens in place of bytes",
            "Each empty place takes token_bytes.",
            lambda seq_len, block_size: -seq_len % block_size,
        ),
    ),
    notebook="03",
)
