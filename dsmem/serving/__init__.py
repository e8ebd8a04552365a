"""Many requests at once: batches, padding and pages, and caches of prompts that are kept elsewhere."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Requests": "requests",
        "request_mix": "requests",
        "serve": "requests",
        "prompt_events": "requests",
        "grow_cache": "requests",
        "padded_tokens": "requests",
        "bucketed_tokens": "requests",
        "packed_tokens": "requests",
        "prefix_key": "prefix",
        "fetch_or_compute": "prefix",
        "FileStore": "stores",
        "RedisStore": "stores",
    },
)
