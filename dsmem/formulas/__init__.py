"""The memory formulas: numbers in, bytes out; arrays in, curves out; SymPy symbols in, algebra out.

Those of `speed` give seconds, and what follows from them: moving a cache against computing it once more. That of
`experts` counts experts.

Every body is plain arithmetic (`+ - * / // **`, and `-(-x // 8)` for a ceiling), so one function serves the
derivation, the evaluation and the plot. Widths come in bits and are divided by 8 last, once per tensor.
A formula sizes one tensor, or a few that always live together; which of them are alive at the same instant is
the business of `footprint`.

Arguments, everywhere: `batch` sequences, `seq_len` new tokens per sequence, `key_len` tokens that attention reads
per sequence (cached and new), widths in elements, `bits` per element.
"""

from dsmem.formulas.cache import (
    aligned_rows_bytes,
    cache_blocks_bytes,
    cache_rows_bytes,
    cache_scales_bytes,
    expanded_cache_bytes,
    fp8_latent_row_bytes,
    kv_cache_bytes,
    latent_cache_bytes,
    linear_state_bytes,
    paged_tokens,
    transposed_latents_bytes,
)
from dsmem.formulas.experts import touched_experts
from dsmem.formulas.speed import (
    attention_seconds,
    break_even_bytes_per_s,
    break_even_tokens,
    decode_tokens_per_s,
    fetch_seconds,
    prefill_seconds,
)
from dsmem.formulas.tensors import (
    attention_scores_bytes,
    block_bytes,
    causal_mask_bytes,
    expert_rows_bytes,
    hidden_state_bytes,
    int8_rows_bytes,
    int32_product_bytes,
    inverse_rms_bytes,
    key_bytes,
    layer_norm_statistics_bytes,
    logits_bytes,
    logsumexp_bytes,
    mlp_width_bytes,
    query_bytes,
    rope_frequencies_bytes,
    rope_tables_bytes,
    router_bias_bytes,
    routing_bytes,
    tensor_bytes,
    token_ids_bytes,
)
from dsmem.formulas.weights import (
    awq_linear_bytes,
    block_linear_bytes,
    fp8_linear_bytes,
    gptq_linear_bytes,
    int4_linear_bytes,
    int8_linear_bytes,
    nf4_double_linear_bytes,
    nf4_linear_bytes,
    nvfp4_linear_bytes,
    sparse_linear_bytes,
)

__all__ = [
    "aligned_rows_bytes",
    "attention_scores_bytes",
    "attention_seconds",
    "awq_linear_bytes",
    "block_bytes",
    "block_linear_bytes",
    "break_even_bytes_per_s",
    "break_even_tokens",
    "cache_blocks_bytes",
    "cache_rows_bytes",
    "cache_scales_bytes",
    "causal_mask_bytes",
    "expanded_cache_bytes",
    "expert_rows_bytes",
    "fetch_seconds",
    "fp8_latent_row_bytes",
    "fp8_linear_bytes",
    "gptq_linear_bytes",
    "hidden_state_bytes",
    "int32_product_bytes",
    "int4_linear_bytes",
    "int8_linear_bytes",
    "int8_rows_bytes",
    "inverse_rms_bytes",
    "key_bytes",
    "layer_norm_statistics_bytes",
    "kv_cache_bytes",
    "latent_cache_bytes",
    "linear_state_bytes",
    "logits_bytes",
    "logsumexp_bytes",
    "mlp_width_bytes",
    "nf4_double_linear_bytes",
    "nf4_linear_bytes",
    "nvfp4_linear_bytes",
    "paged_tokens",
    "prefill_seconds",
    "query_bytes",
    "rope_frequencies_bytes",
    "rope_tables_bytes",
    "router_bias_bytes",
    "routing_bytes",
    "sparse_linear_bytes",
    "tensor_bytes",
    "token_ids_bytes",
    "decode_tokens_per_s",
    "touched_experts",
    "transposed_latents_bytes",
]
