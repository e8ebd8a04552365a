"""What a run takes: the tensor ledger, the allocator's replay, the GPU's own counters, and the host's memory."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Ledger": "ledger",
        "Replay": "replay",
        "compare_settings": "replay",
        "smallest_capacity_bytes": "replay",
        "CachingAllocator": "allocator",
        "ReplayedOutOfMemory": "allocator",
        "rounded_bytes": "allocator",
        "segment_bytes": "allocator",
        "replay_trace": "traces",
        "load_snapshot": "snapshots",
        "snapshot_trace": "snapshots",
        "saved_tensors": "saved",
        "measure_loading": "host",
        "compare_loaders": "host",
    },
)
