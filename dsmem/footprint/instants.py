"""Every named instant of a pass, what is alive at it, and which instant is the peak."""

import functools
from typing import Any

import numpy as np

from dsmem.table import Table
from dsmem.units import format_bytes

KEPT = (
    "weights",
    "weight_scales",
    "buffers",
    "kv_cache",
    "latent_cache",
    "indexer_cache",
    "cache_scales",
    "slot_mapping",
)  # how their names begin


class Footprint:
    """Bytes by instant and part.

    instants: {instant: {part: bytes}}, in the order of the pass. `parts`, `total_bytes` and `peak_instant` are those of
    the largest instant (the earliest of equals), elementwise where the workload holds arrays. arch, work: what the pass
    is of, where that is known.

    >>> fp = Footprint({"mlp": {"weights": 8, "gate": 3}, "lm_head": {"weights": 8, "logits": 5}})
    >>> fp.peak_instant, fp.total_bytes, fp.parts
    ('lm_head', 13, {'weights': 8, 'logits': 5})
    """

    def __init__(self, instants: dict[str, dict[str, Any]], arch: Any = None, work: Any = None):
        listed = list(instants.values()) if isinstance(instants, dict) else []
        if not (listed and all(isinstance(parts, dict) for parts in listed)):
            raise ValueError(f"instants={instants!r} lists no instant; it must be {{instant: {{part: bytes}}}}")
        self._told, self.arch, self.work = instants, arch, work  # those that can be the largest

    @functools.cached_property
    def instants(self) -> dict[str, dict[str, Any]]:
        """{instant: {part: bytes}}, in the order of the pass."""
        return self._told

    @functools.cached_property
    def totals(self) -> dict[str, Any]:
        """{instant: bytes}."""
        return _totals(self.instants)

    @functools.cached_property
    def _winner(self) -> "int | np.ndarray":
        """Index of the largest instant, or an array of indices."""
        totals = list(self._told_totals.values())
        best, winner = totals[0], 0
        for index, total in enumerate(totals[1:], start=1):
            larger = total > best
            best, winner = _where(larger, total, best), _where(larger, index, winner)
        return winner

    @property
    def total_bytes(self) -> "int | np.ndarray":
        """The peak: the total of the largest instant."""
        return self._pick(list(self._told_totals.values()))

    @property
    def peak_instant(self) -> "str | np.ndarray":
        """The name of the largest instant."""
        return self._pick(list(self._told))

    @property
    def parts(self) -> dict[str, Any]:
        """{part: bytes} at the peak, in the order of the pass; they sum to `total_bytes`."""
        names = dict.fromkeys(part for parts in self._told.values() for part in parts)
        parts = {name: self._pick([parts.get(name, 0) for parts in self._told.values()]) for name in names}
        return {name: nbytes for name, nbytes in parts.items() if np.any(nbytes)}

    @property
    def working_bytes(self) -> "int | np.ndarray":
        """What the pass needs at its peak beside what is kept: all parts but weights, buffers and KV cache."""
        return sum(nbytes for part, nbytes in self.parts.items() if not part.startswith(KEPT))

    @functools.cached_property
    def _told_totals(self):
        return _totals(self._told)

    def _pick(self, values):
        """From one value per instant, that of the largest."""
        if not isinstance(self._winner, np.ndarray):
            return values[self._winner]
        picked = np.empty(self._winner.shape, dtype=np.array(values).dtype if isinstance(values[0], str) else np.int64)
        for index in np.flatnonzero(np.bincount(self._winner.ravel())):
            mask = self._winner == index
            picked[mask] = np.broadcast_to(values[index], picked.shape)[mask]
        return picked

    def table(self) -> Table:
        """The parts at the peak as a `Table`: bytes, size and share. Raises ValueError for a workload of arrays."""
        if isinstance(self._winner, np.ndarray):
            raise ValueError(f"table() is of one workload; this footprint holds {self._winner.size}")
        rows = [*self.parts.items(), ("total", self.total_bytes)]
        rows = [(part, nbytes, nbytes, nbytes / self.total_bytes) for part, nbytes in rows]
        columns = {"part": None, "bytes": ",", "size": format_bytes, "share": ".1%"}
        said = getattr(self.work, "weights_from", "") == "config"
        title = f"peak instant: {self.peak_instant}" + f"; weights {self.work.weights_words}" * said
        return Table(columns, rows, title, widths=(18, 20, 14, 8), header=False)

    def __repr__(self) -> str:
        if isinstance(self._winner, np.ndarray):
            return f"<Footprint of {self._winner.size} workloads, {len(self.instants)} instants each>"
        return repr(self.table())

    def _repr_html_(self) -> str | None:
        return None if isinstance(self._winner, np.ndarray) else self.table()._repr_html_()


def _totals(instants):
    return {instant: sum(parts.values()) for instant, parts in instants.items()}


def _where(condition, yes, no):
    return np.where(condition, yes, no) if isinstance(condition, np.ndarray) else (yes if condition else no)
