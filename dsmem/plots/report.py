"""Figures for a report: PDF, SVG and PNG at a paper's width, the plotted numbers beside them as CSV."""

import csv
import pickle
from numbers import Real
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from dsmem.plots.axes import finish, title_of
from dsmem.plots.style import STYLE

PAPER = {"font.size": 8, "axes.titlesize": 8, "legend.fontsize": 8, "legend.handlelength": 1.8}
WIDTHS = {"column": 3.5, "full": 7.16}  # inches


def save_report(ax, name, *, width="column", folder=".", formats=("pdf", "svg", "png"), parameters=None):
    """Save the figure of `ax` for a paper, and the plotted numbers beside it as CSV; returns the paths.

    width: "column" (3.5 in), "full" (7.16 in) or inches. Text is 8 pt, embedded as TrueType; PNG has 300 dpi.
    parameters: {name: value}, kept in the files' keywords. A copy is restyled: the figure on screen stays as it is.
    ValueError: another width or format, or an Axes that dsmem did not draw.
    """
    if not hasattr(ax, "dsmem_data"):
        raise ValueError(f"ax must be an Axes that one of dsmem's plot functions returned, got {ax!r}.")
    inches = WIDTHS.get(width) if isinstance(width, str) else width
    if not isinstance(inches, Real) or not 0 < inches < np.inf:
        raise ValueError(f"width must be 'column', 'full' or a positive number of inches, got {width!r}.")
    if not set(formats) <= {"pdf", "svg", "png"}:
        raise ValueError(f"formats must be among 'pdf', 'svg' and 'png', got {formats!r}.")
    paths = [Path(folder) / f"{name}.{kind}" for kind in (*formats, "csv")]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    keywords = ["dsmem", *(f"{key}={value}" for key, value in (parameters or {}).items())]
    with style.context([*STYLE, PAPER]):
        fig = _for_paper(ax.get_figure(root=True), inches)
        for kind, path in zip(formats, paths, strict=False):
            fig.savefig(path, format=kind, metadata=_metadata(kind, title_of(ax) or name, keywords))
    _write_csv(paths[-1], fig.axes)
    return paths


def _for_paper(fig, inches):
    """A copy of the figure, `inches` wide, in small type, the Axes about as high as before for the type."""
    copy = _copy(fig)
    for text in copy.findobj(lambda artist: isinstance(artist, Text) and artist.get_alpha() == 0):
        text.remove()  # it kept room for a longer text under a slider, and would lie unseen in the file
    copy.draw_without_rendering()
    drawn = {ax: 0.85 * ax.bbox.height / copy.dpi for ax in copy.axes if hasattr(ax, "dsmem_data")}
    for text in copy.findobj(Text):
        text.set_fontsize(PAPER["font.size"])
    for ax in copy.axes:
        ax.tick_params(labelsize=PAPER["font.size"])
    copy.set_layout_engine("constrained")
    copy.set_size_inches(inches, fig.get_figheight() + 4)  # titles and legends get longer: high first, cut then
    for ax in drawn:
        finish(ax, title_of(ax))
    copy.draw_without_rendering()
    spare = min(ax.bbox.height / copy.dpi - height for ax, height in drawn.items())
    rows = max((ax.get_gridspec().nrows for ax in drawn if ax.get_gridspec()), default=1)
    copy.set_figheight(copy.get_figheight() - rows * spare)
    return copy


def _copy(fig):
    canvas = fig.canvas
    FigureCanvasAgg(fig)  # a canvas of its own for the moment, so that pyplot does not adopt the copy and show it
    try:
        return pickle.loads(pickle.dumps(fig))
    finally:
        fig.set_canvas(canvas)


def _metadata(kind, title, keywords):
    """Title, keywords and software under each format's own names; no dates, so that equal plots are equal files."""
    software = f"dsmem, Matplotlib {matplotlib.__version__}"
    words = ", ".join(keywords)
    return {
        "pdf": {"Title": title, "Keywords": words, "Creator": software, "CreationDate": None},
        "svg": {"Title": title, "Keywords": keywords, "Creator": software, "Date": None},
        "png": {"Title": title, "Keywords": words, "Software": software},
    }[kind]


def _write_csv(path, axes):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        units = dict.fromkeys(getattr(ax, "dsmem_unit", "bytes") for ax in axes if hasattr(ax, "dsmem_data"))
        writer.writerow(("panel", "series", "x", " or ".join(units)))
        for ax in axes:
            writer.writerows((title_of(ax), *row) for row in getattr(ax, "dsmem_data", ()))
