"""Whether it fits, for many contexts and batches at once: arrays in, arrays out, for maps and tables of states."""

import dataclasses
from typing import Any

import numpy as np

from dsmem.config.devices import Devices, devices
from dsmem.config.overhead import fits, overhead
from dsmem.footprint.fit.asked import Asked
from dsmem.footprint.fit.spread import asked_on
from dsmem.units import whole_numbers

CELLS = 2**14  # of a block: its arrays stay in a processor's cache, where one large array would not
TOP = 2**30  # sequences beyond which no limit is looked for


@dataclasses.dataclass(frozen=True, repr=False)
class FitMap:
    """Bytes that every cell needs of one device: rows are batches, columns contexts.

    needed_bytes: with the most of the overhead; least_bytes: with the least. usable_bytes: of the device. asked,
    devices: what was asked, of which `contexts` and `batches` are the cells.
    """

    contexts: np.ndarray
    batches: np.ndarray
    needed_bytes: np.ndarray
    least_bytes: np.ndarray
    usable_bytes: int
    asked: Asked
    devices: Devices

    @property
    def fits(self) -> np.ndarray:
        """Whether each cell fits, by the one rule of this kit."""
        return fits(self.needed_bytes, self.usable_bytes)

    @property
    def close(self) -> np.ndarray:
        """Whether the overhead decides: a cell fits at the least of it, and not at the most."""
        return ~self.fits & fits(self.least_bytes, self.usable_bytes)

    def __repr__(self) -> str:
        share = self.fits.mean()
        return f"<FitMap of {self.asked.name} on {self.devices}: {self.fits.size:,} cells, {share:.0%} of them fit>"


def fit_map(
    arch: Any, contexts: Any, batches: Any, gpu: Any = "T4", count: int = 1, sharding: Any = None, **fields: Any
) -> FitMap:
    """The `FitMap` of a model on devices: a million cells in about a second.

    contexts, batches: tokens per sequence, cached and new, and sequences, arrays of whole numbers. The other arguments
    as in `dsmem.fit`, training apart. Raises ValueError, one sentence, for what is not known or not modelled.

    >>> fit_map("deepseek-r1-distill-qwen-7b", [1024, 8192, 65_536], [1, 16], "T4", weights="int8").fits.tolist()
    [[True, True, False], [True, False, False]]
    """
    found = devices(gpu, count)
    asked = asked_on(found, arch, sharding=sharding, **fields)
    contexts, batches = (
        np.atleast_1d(whole_numbers("contexts", contexts)),
        np.atleast_1d(whole_numbers("batches", batches)),
    )
    rows = max(1, CELLS // len(contexts))
    blocks = [_needed(asked, found, contexts, batches[i : i + rows, None]) for i in range(0, len(batches), rows)]
    most, least = (np.concatenate(each) for each in zip(*blocks, strict=True))
    return FitMap(contexts, batches, most, least, found.usable_bytes, asked, found)


def largest_batches(asked: Asked, found: Devices, contexts: Any, least: bool = False) -> np.ndarray:
    """The most sequences that fit at each of `contexts`, 0 where not one does: `Fit.largest_batch` for an array.

    asked, found: as `FitMap` has them. least: with the least of the overhead in place of the most. `TOP` stands for
    no limit. Every context is halved for at once.
    """
    contexts = np.atleast_1d(whole_numbers("contexts", contexts))
    low, high = np.zeros(len(contexts), dtype=np.int64), np.full(len(contexts), 2, dtype=np.int64)

    def holds(batches):
        return fits(_needed(asked, found, contexts, batches)[int(least)], found.usable_bytes)

    while (grows := holds(high) & (high < TOP)).any():
        low, high = np.where(grows, high, low), np.where(grows, 2 * high, high)
    while (high - low > 1).any():
        middle = np.maximum((low + high) // 2, 1)
        inside = holds(middle)
        low, high = np.where(inside, np.maximum(low, middle), low), np.where(inside, high, np.minimum(high, middle))
    return np.where(high >= TOP, TOP, low)


def _needed(asked, found, contexts, batches):
    """(most, least) bytes of cells, which may be columns against a row."""
    cached = 0 if asked.work.phase == "decode" else asked.work.cached_tokens
    if np.any(contexts < asked.least_context):
        raise ValueError(f"contexts={int(contexts.min())} is too short here; allowed: at least {asked.least_context}")
    cells = asked.changed(batch=batches, seq_len=contexts - cached)
    beside = overhead(found, cells.segment_bytes()).values()
    shape = np.broadcast_shapes(np.shape(batches), np.shape(contexts))
    total = cells.total()
    return tuple(np.broadcast_to(total + sum(pair[at] for pair in beside), shape) for at in (1, 0))
