"""Predicted bytes: what is stored, and every named instant of a pass with what is alive at it."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Footprint": "instants",
        "inference_footprint": "inference",
        "training_footprint": "training.step",
        "levers": "fit.levers",
        "bytes_per_parameter": "training.recipes",
        "recipes_table": "training.recipes",
        "rank_parameters": "sharded.shares",
        "rank_gradients": "sharded.shares",
        "rank_states": "sharded.shares",
        "rank_cache": "sharded.passes",
        "stage_footprints": "inference",
        "megatron_footprint": "sharded.megatron",
        "find_tensor": "find",
        "experts_on_host": "hosted",
        "checkpoint": "checkpoints.weigh",
        "Checkpoint": "checkpoints.weigh",
        "weight_bytes": "stored",
        "weight_parts": "stored",
        "weight_formats": "stored",
        "cache_bytes": "stored",
        "cache_kinds": "growth",
        "model_rows": "stored",
        "cache_growth": "growth",
        "buffer_bytes": "stored",
        "published_tensors": "checkpoints.published",
        "published_bytes": "checkpoints.published",
        "elements_by_format": "checkpoints.published",
        "gguf_tensors": "checkpoints.gguf",
        "gguf_bytes": "checkpoints.gguf",
    },
)
