"""Check a reader's answer in the cell where it was written, and keep the guesses made before a run.

    def my_kv_cache_bytes(batch, cache_len, num_hidden_layers, num_key_value_heads, head_dim, bits):
        return ...

    dsmem.check.kv_cache_bytes(my_kv_cache_bytes)
    dsmem.check.kv_cache_bytes.hint()
    dsmem.check.summary()

An exercise is called with the reader's function. It prints a tick, or the first case that fails and, where the answers
are those of a common mistake, its name. The function is given, by name, whatever inputs its arguments name: sizes
(`batch`, `bits`), the fields of a model (`head_dim`) or the model itself (`arch`). Nothing is ever raised.
"""

from dsmem.check import allocator, cache, fit, forward, frontier, quantization, sharding, start, training, weights
from dsmem.check.exercise import Exercise
from dsmem.check.predictions import Predictions
from dsmem.check.progress import summary
from dsmem.check.quiz import quiz

EXERCISES: dict[str, Exercise] = {
    name: value
    for module in (start, weights, forward, cache, quantization, allocator, training, sharding, fit, frontier)
    for name, value in vars(module).items()
    if isinstance(value, Exercise)
}
"""Every exercise by its name."""

__all__ = ["EXERCISES", "Predictions", "quiz", "summary", *EXERCISES]
globals().update(EXERCISES)
