"""What a rank holds between two steps, summed by part: weights and cache to serve, or weights and states to train."""

from typing import Any

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.config.ranks import rank_architecture
from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.sharded.passes import own_work
from dsmem.footprint.sharded.shares import rank_gradients, rank_parameters, rank_states
from dsmem.footprint.stored import cache_bytes, check_range


def at_rest(
    arch: Any, work: Workload | None = None, sharding: Any = None, rank: int = 0, training: Any = None, **fields: Any
) -> dict[str, int]:
    """{part: bytes} that `rank` holds at rest: no activations, nothing gathered, no buffers.

    arch: whatever `Architecture.of` takes. work: a `Workload` or its fields as keywords: what one replica runs; where
    it holds arrays, so does what is told of its cache.
    sharding: whatever `Sharding.of` takes. training: as in `Training.of`, for weights, gradients and optimizer states
    (an FP32 master copy among them); None for weights and cache. Raises ValueError where the model cannot be cut so,
    or is not served so.

    >>> at_rest("deepseek-r1", seq_len=4096, weights="fp8", sharding={"tensor": 8, "expert": 8})
    {'weights': 85140071456, 'latent_cache': 287834112}
    """
    arch, spread = Architecture.of(arch), Sharding.of(sharding)
    if training is not None:
        training = Training.of(training)
        work = training.workload(work, **fields)
        asked = {"training": training, "sharding": spread, "rank": rank}
        return {
            "weights": sum(rank_parameters(arch, work, spread, rank).values()),
            "gradients": sum(rank_gradients(arch, work, **asked).values()),
            "optimizer_states": sum(rank_states(arch, work, **asked).values()),
        }
    work = Workload.of(work, **fields).on(arch)
    check_range(work, lambda largest: sum(at_rest(arch, largest, spread, rank).values()))
    share = rank_architecture(arch, spread, rank)
    cache = cache_bytes(share, own_work(share, work))
    weights = sum(rank_parameters(arch, work, spread, rank).values())
    return {"weights": weights} | {part: n if isinstance(n, np.ndarray) else int(n) for part, n in cache.items()}


def even_share(
    arch: Any, work: Workload | None = None, sharding: Any = None, training: Any = None, **fields: Any
) -> dict[str, float]:
    """{part: bytes} that each rank would hold if all was shared out evenly and nothing stood twice.

    Arguments as in `at_rest`. Weights and states are those of one model; every replica has sequences of its own.

    >>> whole = even_share("deepseek-r1", seq_len=4096, weights="fp8", sharding={"tensor": 8, "expert": 8})
    >>> round(whole["latent_cache"]) * 8
    287834112
    """
    spread = Sharding.of(sharding)
    whole = at_rest(arch, work, None, 0, training, **fields)
    copies = {part: spread.data if "cache" in part else 1 for part in whole}
    return {part: nbytes * copies[part] / spread.ranks for part, nbytes in whole.items()}
