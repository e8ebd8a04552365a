"""One pass at every level that a machine has, the gaps between the levels, and recordings of whole sweeps."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Run": "run",
        "measure": "run",
        "tokens_per_second": "run",
        "explain": "gaps",
        "overhead": "gaps",
        "compare_checkpointing": "checkpointing",
        "kept_for_backward": "kept",
        "record": "recordings",
        "recorded": "recordings",
        "here": "machine",
        "compare_libraries": "libraries",
        "library_table": "libraries",
        "time_table": "libraries",
        "run_offload": "offload",
        "run_ranks": "ranks",
        "compare_ranks": "ranks",
        "fake_rank": "ranks",
        "layer_formats": "library_layers",
        "library_versions": "library_layers",
        "missing_libraries": "library_layers",
        "quiet": "library_layers",
    },
)
