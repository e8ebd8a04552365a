"""The gaps between the levels of a run, each named; and what a pass needs beyond its weights, part by part."""

import dataclasses
from typing import Any

from dsmem.config.overhead import CONTEXT_BYTES
from dsmem.memory.cuda import expected_workspace_bytes
from dsmem.table import Table
from dsmem.units import format_bytes


def published() -> Table:
    """A `Table` of the constants that no replay can know, each with its source: CUDA contexts and cuBLAS workspaces."""
    rows = [("context", nbytes, f"  {source}") for source, nbytes in CONTEXT_BYTES.items()]
    for when, capability in {"before compute capability 9.0": (8, 0), "compute capability 9.0": (9, 0)}.items():
        source = f"  published, {when}: CublasHandlePool.cpp"
        rows.append(("workspace", expected_workspace_bytes(capability), source))
    columns = {"part": None, "size": format_bytes, "source": None}
    return Table(columns, rows, widths=(11, 11, 0), header=False)


def overhead(run: Any, workspace_bytes: int = 0, context_bytes: int = 0) -> dict[str, int]:
    """{part: bytes} that a `Run` needs beyond its weights and buffers, at its peaks.

    run: a `Run`. workspace_bytes, context_bytes: what the GPU's libraries and the CUDA context take, as measured
    (`memory.cuda`) or published (`published`).
    Returns kv_cache; working (activations and temporaries); rounding (blocks larger than their tensors); free (in
    segments); workspace and context, as given. Parts of 0 bytes are left out.
    """
    held = run.ledger.by_category()
    kept = sum(held.get(name, 0) for name in ("weight", "buffer", "kv_cache"))
    replayed = run.replay
    parts = {
        "kv_cache": held.get("kv_cache", 0),
        "working": run.ledger.peak_bytes - kept,
        "rounding": replayed.rounding_bytes,
        "free": replayed.peak_reserved_bytes - replayed.peak_allocated_bytes,
        "workspace": workspace_bytes,
        "context": context_bytes,
    }
    return {name: nbytes for name, nbytes in parts.items() if nbytes}


@dataclasses.dataclass(frozen=True, repr=False)
class Waterfall:
    """The levels of a run and the gaps between them: `steps` of (name, bytes, "total" or "gap"), in order.

    Every gap is the difference between the totals around it, or one named part of that difference.
    """

    steps: list[tuple[str, int, str]]

    def table(self) -> Table:
        """The steps as a `Table`."""
        rows = [(name, nbytes, " B") for name, nbytes, _ in self.steps]
        return Table({"step": None, "bytes": ",", "": None}, rows, widths=(40, 20, 0), header=False)

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def explain(run: Any) -> Waterfall:
    """The `Waterfall` from formula to device: every level a total, every difference between two a named gap.

    run: a `Run`; without a footprint the way begins at the ledger. Without a GPU it ends at what the allocator is
    predicted to reserve.
    """
    if not hasattr(run, "footprint"):
        raise ValueError(f"run={run!r} is not a Run; it must be what measure(...) returns")
    ledger, replayed = run.ledger.peak_bytes, run.replay
    allocated, reserved = replayed.peak_allocated_bytes, replayed.peak_reserved_bytes
    steps = []
    if run.footprint is not None:
        formula = run.footprint.total_bytes
        steps = [("formula", formula, "total"), ("not in the formula", ledger - formula, "gap")]
    steps += [
        ("ledger", ledger, "total"),
        ("blocks larger than their tensors", replayed.rounding_bytes, "gap"),
        ("cuBLAS workspace", allocated - ledger - replayed.rounding_bytes, "gap"),
        ("allocated (predicted)", allocated, "total"),
    ]
    if run.device_memory is None:
        steps += [("free in segments", reserved - allocated, "gap"), ("reserved (predicted)", reserved, "total")]
        return Waterfall([step for step in steps if step[0] != "cuBLAS workspace"])
    real = run.device_memory
    elsewhere = real.get("elsewhere", 0)  # recordings made before this was noted lack it
    steps += [("tensors from before this run", elsewhere, "gap")] if elsewhere else []
    steps += [
        ("kernel scratch that no tensor holds", real["allocated"] - allocated - elsewhere, "gap"),
        ("allocated on the GPU", real["allocated"], "total"),
        ("free in segments", real["reserved"] - real["allocated"], "gap"),
        ("reserved on the GPU", real["reserved"], "total"),
        ("CUDA context and other processes", real["used"] - real["reserved"], "gap"),
        ("used, as nvidia-smi says", real["used"], "total"),
    ]
    return Waterfall(steps)
