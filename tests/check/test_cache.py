"""Notebook 03's exercises: the right answers and the common mistakes, written as a reader would write them."""

from exercises import checks_of, up


def kv_by_arch(arch, batch, cache_len, bits):
    return 2 * arch.num_hidden_layers * batch * cache_len * arch.num_key_value_heads * arch.head_dim * bits / 8


def a_key_for_every_head(
    batch, cache_len, num_hidden_layers, num_attention_heads, kv_lora_rank, qk_rope_head_dim, bits
):
    return batch * cache_len * num_hidden_layers * (kv_lora_rank + qk_rope_head_dim * num_attention_heads) * bits // 8


RIGHT = {
    "kv_cache_bytes": kv_by_arch,
    "latent_cache_bytes": lambda batch, cache_len, num_hidden_layers, kv_lora_rank, qk_rope_head_dim, bits: (
        batch * cache_len * num_hidden_layers * (kv_lora_rank + qk_rope_head_dim) * bits // 8
    ),
    "paged_waste_bytes": lambda seq_len, block_size, token_bytes: (
        (up(seq_len, block_size) * block_size - seq_len) * token_bytes
    ),
}

WRONG = {
    "kv_cache_bytes": {
        "the 2 forgotten": lambda **inputs: (
            kv_by_arch(*(inputs[n] for n in ("arch", "batch", "cache_len", "bits"))) / 2
        ),
        "heads in place of key-value heads": lambda arch, batch, seq_len, bits: (
            2 * arch.num_hidden_layers * batch * seq_len * arch.num_attention_heads * arch.head_dim * bits // 8
        ),
        "head_dim worked out from hidden_size": lambda arch, batch, seq_len, bits: (
            2
            * arch.num_hidden_layers
            * batch
            * seq_len
            * arch.num_key_value_heads
            * bits
            / 8
            * arch.hidden_size
            / arch.num_attention_heads
        ),
        "layers forgotten": lambda batch, seq_len, num_key_value_heads, head_dim, bits: (
            2 * batch * seq_len * num_key_value_heads * head_dim * bits // 8
        ),
        "batch forgotten": lambda arch, cache_len, bits: kv_by_arch(arch, 1, cache_len, bits),
        "one token only": lambda arch, batch, bits: kv_by_arch(arch, batch, 1, bits),
        "`bits` ignored, always 2 bytes": lambda num_hidden_layers, batch, seq_len, num_key_value_heads, head_dim: (
            2 * num_hidden_layers * batch * seq_len * num_key_value_heads * head_dim * 2
        ),
        "`bits // 8` too early": lambda num_hidden_layers, batch, seq_len, num_key_value_heads, head_dim, bits: (
            2 * num_hidden_layers * batch * seq_len * num_key_value_heads * head_dim * (bits // 8)
        ),
    },
    "latent_cache_bytes": {
        "rotated key forgotten": lambda batch, cache_len, num_hidden_layers, kv_lora_rank, bits: (
            batch * cache_len * num_hidden_layers * kv_lora_rank * bits // 8
        ),
        "expanded": lambda batch, cache_len, num_hidden_layers, num_attention_heads, qk_head_dim, v_head_dim, bits: (
            batch * cache_len * num_hidden_layers * num_attention_heads * (qk_head_dim + v_head_dim) * bits // 8
        ),
        "a 2 for keys and values": lambda batch, cache_len, num_hidden_layers, kv_lora_rank, qk_rope_head_dim, bits: (
            2 * batch * cache_len * num_hidden_layers * (kv_lora_rank + qk_rope_head_dim) * bits // 8
        ),
        "a rotated key for every head": a_key_for_every_head,
        "layers forgotten": lambda batch, cache_len, kv_lora_rank, qk_rope_head_dim, bits: (
            batch * cache_len * (kv_lora_rank + qk_rope_head_dim) * bits // 8
        ),
        "batch forgotten": lambda cache_len, num_hidden_layers, kv_lora_rank, qk_rope_head_dim, bits: (
            cache_len * num_hidden_layers * (kv_lora_rank + qk_rope_head_dim) * bits // 8
        ),
        "one token only": lambda batch, num_hidden_layers, kv_lora_rank, qk_rope_head_dim, bits: (
            batch * num_hidden_layers * (kv_lora_rank + qk_rope_head_dim) * bits // 8
        ),
        "`bits` ignored, always 2 bytes": lambda batch, cache_len, num_hidden_layers, kv_lora_rank, qk_rope_head_dim: (
            2 * batch * cache_len * num_hidden_layers * (kv_lora_rank + qk_rope_head_dim)
        ),
        "`bits // 8` too early": lambda batch, cache_len, num_hidden_layers, kv_lora_rank, qk_rope_head_dim, bits: (
            batch * cache_len * num_hidden_layers * (kv_lora_rank + qk_rope_head_dim) * (bits // 8)
        ),
    },
    "paged_waste_bytes": {
        "a whole page too many": lambda seq_len, block_size, token_bytes: (
            ((seq_len // block_size + 1) * block_size - seq_len) * token_bytes
        ),
        "the filled part of the last page": lambda seq_len, block_size, token_bytes: seq_len % block_size * token_bytes,
        "pages, not what is empty in them": lambda seq_len, block_size, token_bytes: (
            up(seq_len, block_size) * block_size * token_bytes
        ),
        "half a page": lambda block_size, token_bytes: block_size * token_bytes / 2,
        "room for the longest sequence": lambda seq_len, token_bytes, max_len: (max_len - seq_len) * token_bytes,
        "tokens in place of bytes": lambda seq_len, block_size: up(seq_len, block_size) * block_size - seq_len,
    },
}

test_a_mistake_is_refused_and_named, test_the_right_answer_and_all_mistakes_stand_apart = checks_of(RIGHT, WRONG)
