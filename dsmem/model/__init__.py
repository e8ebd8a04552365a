"""The code that runs: a small readable decoder for any `Architecture`, its caches, its formats, and its operators."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "build_model": "decoder",
        "Decoder": "decoder",
        "load_model": "checkpoint",
        "fill_from": "checkpoint",
        "further_logits": "mtp",
        "sink_logits": "eviction",
        "sink_mask": "eviction",
        "small_path": "small",
        "small_text": "small",
        "heldout_loss": "small",
        "bits_per_byte": "small",
    },
)
