"""What several exercises share: real models with a load, linear layers, and mistakes about batch and bits."""

from collections.abc import Callable
from typing import Any

from dsmem.check.answers import call
from dsmem.check.exercise import Mistake
from dsmem.config.architecture import Architecture

_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "vocab_size", "n_params"),
)


def fields(model: Any, *names: str) -> dict[str, int]:
    """The named fields of a model: its name, or an `Architecture`.

    >>> fields("llama-2-7b", "hidden_size", "head_dim")
    {'hidden_size': 4096, 'head_dim': 128}
    """
    arch = Architecture.of(model)
    return {name: getattr(arch, name) for name in names}


def model_case(model: str, batch: int, seq_len: int, bits: int) -> dict[str, Any]:
    """A real model and a load; the length goes by every name that a formula has for it."""
    lengths = dict.fromkeys(("seq_len", "key_len", "cache_len", "positions"), seq_len)
    return {"arch": Architecture.of(model), "batch": batch, **lengths, "bits": bits} | fields(model, *_FIELDS)


MODELS = (
    model_case("deepseek-r1-distill-qwen-7b", 4, 1024, 16),
    model_case("llama-2-7b", 1, 4096, 16),
    model_case("deepseek-r1-distill-llama-70b", 2, 300, 32),
    model_case("qwen2.5-0.5b", 3, 77, 4),  # fewer bits than a byte has, so `bits // 8` is 0
)
"""Two models in 16 bit, one in more and one in fewer."""


LAYERS = tuple(
    dict(tokens=tokens, in_features=in_features, out_features=out_features, bits=bits)
    for tokens, in_features, out_features, bits in ((4096, 3584, 18944, 16), (1, 18944, 3584, 4), (77, 896, 128, 32))
)
"""Linear layers, and how many tokens they read."""


NO_BATCH = Mistake("batch forgotten", "Every sequence of the batch has its own.", {"batch": 1})


def bits_mistakes(reference: Callable) -> tuple[Mistake, ...]:
    """The common mistakes with `bits`, for an exercise with this reference."""

    def whole_bytes(**inputs):
        return call(reference, inputs | {"bits": inputs["bits"] // 8 * 8})

    return (
        Mistake("`bits` ignored, always 2 bytes", "Take the width of an element from `bits`: bits / 8.", {"bits": 16}),
        Mistake("`bits // 8` too early", "With 4 bits that is 0: multiply first, and divide by 8 last.", whole_bytes),
    )
