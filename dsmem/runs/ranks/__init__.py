"""Real ranks on this machine: a training step of each way to spread a model, watched on every rank."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "RankGroup": "group",
        "RankLost": "group",
        "run_ranks": "run",
        "compare_ranks": "run",
        "RanksRun": "run",
        "fake_rank": "fake",
    },
)
