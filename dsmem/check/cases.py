"""Inputs that several exercises share: real models with a load, and linear layers."""

from dsmem.check.exercise import Mistake
from dsmem.config.architecture import Architecture

_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "vocab_size", "n_params"),
)


def model_case(model, batch, seq_len, bits):
    """A real model and a load; the length goes by every name that a formula has for it."""
    arch = Architecture.from_config(model)
    lengths = dict.fromkeys(("seq_len", "key_len", "cache_len", "positions"), seq_len)
    return {"arch": arch, "batch": batch, **lengths, "bits": bits} | {name: getattr(arch, name) for name in _FIELDS}


MODELS = (
    model_case("deepseek-r1-distill-qwen-7b", 4, 1024, 16),
    model_case("llama-2-7b", 1, 4096, 16),
    model_case("deepseek-r1-distill-llama-70b", 2, 300, 32),
    model_case("qwen2.5-0.5b", 3, 77, 8),
)


LAYERS = tuple(
    dict(tokens=tokens, in_features=in_features, out_features=out_features, bits=bits)
    for tokens, in_features, out_features, bits in ((4096, 3584, 18944, 16), (1, 18944, 3584, 16), (77, 896, 128, 32))
)


NO_BATCH = Mistake("batch forgotten", "Every sequence of the batch has its own.", {"batch": 1})
