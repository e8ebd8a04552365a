"""Axes-level plots of memory: bytes in, a picture out, and the Axes returned. The only room with Matplotlib.

Every `plot_*` draws on the `ax` it is given and touches nothing else. Without one it makes a figure through pyplot,
because that is what a notebook shows by itself, once, when the cell ends; end the cell with `_ = plot_stack(...)` so
that the Axes is not printed as well. Code that keeps a figure (a widget, a loop) passes the Axes of a
`matplotlib.figure.Figure(layout="constrained")`: pyplot is then never loaded, and texts outside the Axes get room.

A component has one colour and one hatch in every plot: see `style`.
"""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "plot_stack": "memory",
        "plot_instants": "memory",
        "plot_timeline": "memory",
        "plot_tensors": "memory",
        "plot_waterfall": "memory",
        "plot_levers": "verdicts",
        "plot_verdicts": "verdicts",
        "plot_overhead": "shares",
        "plot_margins": "margins",
        "plot_areas": "curves",
        "plot_curves": "curves",
        "plot_seconds": "curves",
        "plot_throughput": "curves",
        "plot_rises": "curves",
        "plot_layer_errors": "errors",
        "plot_dots": "errors",
        "plot_fit": "fit",
        "plot_footprint": "footprint",
        "plot_lengths": "footprint",
        "plot_ranks": "ranks",
        "plot_kept": "training",
        "plot_phases": "training",
        "plot_training": "training",
        "plot_models": "weights",
        "plot_weights": "weights",
        "plot_weights_and_cache": "weights",
        "plot_cache": "cache",
        "plot_measured": "measured",
        "plot_numbers": "frontier",
        "plot_years": "frontier",
        "plot_reads": "reads",
        "plot_segments": "segments",
        "plot_reserved": "segments",
        "plot_trace": "traces",
        "explore": "widgets",
        "explore_footprint": "explorers",
        "explore_curves": "explorers",
        "explore_weights": "explorers",
        "explore_cache": "explorers",
        "explore_ranks": "explorers",
        "explore_training": "explorers",
        "explore_settings": "explorers",
        "explore_reads": "explorers",
        "explore_fit": "page.explorers",
        "save_report": "report",
        "alt_text": "alt",
    },
)
