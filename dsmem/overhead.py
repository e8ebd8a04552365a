"""What a pass needs beyond its weights, part by part, and the picture that holds it against a rule of 10 to 20%."""

from dsmem import plots
from dsmem.device import expected_workspace_bytes
from dsmem.looks import look
from dsmem.units import format_bytes

CONTEXT_BYTES = {
    "published, lazy loading: PyTorch PR 86509": 287_047_680,
    "published, lazy loading: A100, torch 2.1 (0.47 GiB)": 504_658_657,
    "published, eager loading: PyTorch PR 86509": 666_632_192,
    "published, eager loading: A100, torch 1.13 (0.90 GiB)": 966_367_641,
}
"""What the CUDA context of one process takes, where somebody published it; nothing here is measured by this kit."""

FRAMEWORK = ("rounding", "free", "workspace", "context")
"""The parts that the framework, and not the model, is to blame for."""


def published():
    """A table as text of the constants that no replay can know, each with its source."""
    rows = {("context", source): nbytes for source, nbytes in CONTEXT_BYTES.items()}
    for cards, capability in {"before": (8, 0), "from": (9, 0)}.items():
        source = f"published, {cards} compute capability 9.0: CublasHandlePool.cpp"
        rows["workspace", source] = expected_workspace_bytes(capability)
    return "\n".join(f"{part:<11}{format_bytes(nbytes):>11}  {source}" for (part, source), nbytes in rows.items())


def overhead(run, workspace_bytes=0, context_bytes=0):
    """{part: bytes} that a `levels.Run` needs beyond its weights and buffers, at its peaks.

    kv_cache; working (activations and temporaries); rounding (blocks larger than their tensors); free (in segments);
    workspace and context: as given, since no replay knows them. Parts of 0 bytes are left out.
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


def plot_overhead(bars, *, rule=(0.1, 0.2), ax=None, title=None):
    """One bar for each of `bars`, {label: (bytes of the weights, {part: bytes beyond them})}, in % of the weights.

    rule: a band from one share to another, shaded and named. Returns the Axes. ValueError: no bars, or no weights.
    """
    if not bars or any(weights <= 0 for weights, _ in bars.values()):
        raise ValueError(f"bars must hold at least one bar, with weights of more than 0 bytes, got {bars!r}.")
    totals = [sum(parts.values()) / weights for weights, parts in bars.values()]
    shown = title or f"From {min(totals):.0%} to {max(totals):.0%} of the weights: a rule of one share fits few"
    with plots.drawing(ax, shown, height=1.7 + 0.42 * len(bars)) as ax:
        ax.axvspan(*(100 * share for share in rule), facecolor="#dddddd", label=f"{rule[0]:.0%} to {rule[1]:.0%}")
        for part in dict.fromkeys(part for _, parts in bars.values() for part in parts):
            _shares(ax, part, bars)
        for row, total in enumerate(totals):
            ax.annotate(f"{total:.0%}", (100 * total, row), (4, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(bars)), list(bars))
        ax.set_ylim(len(bars) - 0.5, -0.5)
        ax.set_xlim(0, 112 * max(*totals, rule[1]))
        ax.set_xlabel("beyond the weights (% of the weights)")
        ax.grid(axis="x", **plots.GRID)
    return ax


def _shares(ax, part, bars):
    """One part of all bars, each where the parts before it end."""
    starts, widths = [], []
    for weights, parts in bars.values():
        names = list(parts)
        before = names[: names.index(part)] if part in parts else []
        starts.append(100 * sum(parts[name] for name in before) / weights)
        widths.append(100 * parts.get(part, 0) / weights)
    ax.barh(range(len(bars)), widths, left=starts, height=0.66, label=part, **look(part))
    ax.dsmem_data += [(part, label, parts.get(part, 0)) for label, (_, parts) in bars.items()]
