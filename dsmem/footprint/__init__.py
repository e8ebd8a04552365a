"""Predicted bytes: what is stored, and every named instant of a pass with what is alive at it."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Footprint": "instants",
        "inference_footprint": "inference",
        "training_footprint": "training",
        "levers": "levers",
        "bytes_per_parameter": "recipes",
        "recipes_table": "recipes",
        "rank_parameters": "sharding",
        "rank_gradients": "sharding",
        "rank_states": "sharding",
        "rank_cache": "sharded",
        "stage_footprints": "inference",
        "megatron_footprint": "megatron",
        "find_tensor": "find",
        "experts_on_host": "hosted",
        "checkpoint": "weigh",
        "Checkpoint": "weigh",
        "weight_bytes": "stored",
        "weight_parts": "stored",
        "weight_formats": "stored",
        "cache_bytes": "stored",
        "cache_kinds": "growth",
        "model_rows": "stored",
        "cache_growth": "growth",
        "buffer_bytes": "stored",
        "published_tensors": "published",
        "published_bytes": "published",
        "elements_by_format": "published",
        "gguf_tensors": "gguf",
        "gguf_bytes": "gguf",
    },
)
