"""Figures for a report: PDF, SVG and PNG at a paper's width, the plotted numbers beside them as CSV."""

import contextlib
import csv
import pickle
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager, style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from dsmem.plots.alt import figure_text
from dsmem.plots.axes import finish, title_of
from dsmem.plots.style import STYLE
from dsmem.units import as_text

PAPER = {"font.size": 8, "axes.titlesize": 8, "legend.fontsize": 8, "legend.handlelength": 1.8}
FORMATS = ("pdf", "svg", "png")
WIDTHS = {"column": 3.5, "full": 7.16}  # inches
LEAST = 3.0  # inches that a panel needs beside another


def save_report(
    ax: Any,
    name: str,
    *,
    width: "str | float" = "column",
    folder: "str | Path" = ".",
    formats: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    caption: str | None = None,
    font: "str | Path | None" = None,
) -> list[Path]:
    """Save the figure of `ax` for a paper, and the plotted numbers beside it as CSV; returns the paths.

        dsmem.save_report(plots.plot_stack(run), "peak", width="full", parameters={"batch": 4})

    ax: an Axes that a plot function of dsmem returned, or an explorer's `figure.axes[0]`; all panels of its figure are
    saved. name: of the files, without an ending; "peak.png" asks for the PNG alone, with "peak.csv" beside it. width:
    "column" (3.5 in), "full" (7.16 in) or inches. folder: made if it is not there. formats: of the figure; all of
    `FORMATS` if neither they nor the name say which. Text is 8 pt, embedded as TrueType; PNG has 300 dpi. What the
    picture shows is kept in the files in words.
    parameters: {name: value}, kept in the files' keywords. labels: {word: another}, such as {"weights": "Gewichte"}: a
    legend entry, tick or title that is this word, and the first word of an axis, is replaced; colours stay, and so do
    the names in the CSV. caption: written to a text file beside the figure, with what the picture shows.
    font: for letters that Matplotlib's own font lacks, as Chinese ones: the name of an installed font, such as "Noto
    Sans CJK SC" (on Colab after `!apt-get install -y fonts-noto-cjk`), or the path of its file.
    A copy is restyled: the figure on screen stays as it is. The CSV has a row for each number, under the name of what
    it is (bytes, seconds, ...), and one for each capacity line.
    Raises ValueError for another width or format, a name whose ending `formats` leaves out, an Axes that dsmem did not
    draw, panels side by side that the width has no room for, a font that is not there, or letters that no font has.
    """
    fig, inches = _figure(ax), _inches(width)
    name, formats = _named(name, formats)
    _check_words(parameters, labels, caption)
    _check_room(fig, width, inches)
    paths = [Path(folder) / f"{name}.{kind}" for kind in (*formats, "csv")]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    keywords = ["dsmem", *(f"{key}={value}" for key, value in (parameters or {}).items())]
    words = figure_text(fig)
    with style.context([*STYLE, PAPER, _fonts(font)]), _every_letter():
        copy = _for_paper(fig, inches, labels or {})
        for kind, path in zip(formats, paths, strict=False):
            copy.savefig(path, format=kind, metadata=_metadata(kind, title_of(ax) or name, keywords, words))
    _write_csv(paths[-1], fig.axes)
    if caption is not None:
        paths.append(paths[-1].with_suffix(".txt"))
        paths[-1].write_text(f"{caption}\n\n{words}\n", encoding="utf-8")
    return paths


# --- Checks -----------------------------------------------------------------------------------------------------------


def _figure(ax):
    if not hasattr(ax, "dsmem_data"):
        raise ValueError(f"ax must be an Axes that one of dsmem's plot functions returned, got {ax!r}.")
    return ax.get_figure(root=True)


def _inches(width):
    inches = WIDTHS.get(width) if isinstance(width, str) else width
    if isinstance(inches, bool) or not isinstance(inches, Real) or not 0 < inches < np.inf:
        raise ValueError(f"width must be 'column', 'full' or a positive number of inches, got {width!r}.")
    return inches


def _named(name, formats):
    """The name of the files without an ending, and the formats: those asked for, else the ending's, else all."""
    stem, dot, ending = as_text("name", name).rpartition(".")
    ends = bool(dot) and ending.lower() in FORMATS
    asked = formats if formats is not None else (ending.lower(),) if ends else FORMATS
    if not isinstance(asked, tuple | list) or not set(asked) <= set(FORMATS):
        raise ValueError(f"formats must be among 'pdf', 'svg' and 'png', got {formats!r}.")
    if not (stem if ends else name).strip():
        raise ValueError(f"name={name!r} is empty; it must be that of the files, without an ending")
    if ends and ending.lower() not in asked:
        raise ValueError(f"name={name!r} ends in a format that formats={formats!r} leaves out; drop one of the two")
    return stem if ends else name, asked


def _check_words(parameters, labels, caption):
    for argument, given in (("parameters", parameters), ("labels", labels)):
        if not isinstance(given, Mapping | None):
            raise ValueError(f"{argument}={given!r} is not a table of words; it must be a dict or None")
    for argument, given in (("caption", caption), *(labels or {}).items()):
        if given is not None:
            as_text(argument, given)


def _check_room(fig, width, inches):
    beside = max((ax.get_gridspec().ncols for ax in fig.axes if ax.get_gridspec()), default=1)
    if beside > 1 and inches < LEAST * beside:
        raise ValueError(
            f"width={width!r} has no room for {beside} panels side by side; it must be 'full' or at least "
            f"{LEAST * beside:g} inches, or the panels must stand below each other"
        )


def _fonts(font):
    """Matplotlib's own fonts with another one behind them, for the letters that they lack."""
    if font is None:
        return {}
    if Path(as_text("font", str(font))).is_file():
        font_manager.fontManager.addfont(font)
        font = font_manager.FontProperties(fname=font).get_name()
    elif font not in (known := font_manager.get_font_names()):
        font_manager.fontManager = font_manager._load_fontmanager(try_read_cache=False)  # one installed just now
        if font not in (known := font_manager.get_font_names()):
            first = str(font).split()[:1]
            near = [name for name in known if first and first[0].lower() in name.lower()]
            also = f"; near it: {', '.join(near)}" if near else ""
            raise ValueError(f"font={str(font)!r} is neither an installed font nor a font's file{also}")
    return {"font.family": [*matplotlib.rcParams["font.family"], font]}


@contextlib.contextmanager
def _every_letter():
    """A letter that no font has would be an empty box; it is an error instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"Glyph \d+ .*missing")
        try:
            yield
        except UserWarning as missing:
            raise ValueError(
                f"labels hold a letter that no font here has ({missing}); font='Noto Sans CJK SC', once installed, or "
                "the path of a font's file brings it"
            ) from None


# --- The copy ---------------------------------------------------------------------------------------------------------


def _for_paper(fig, inches, labels):
    """A copy of the figure, `inches` wide, in small type, the Axes about as high as before for the type."""
    copy = _copy(fig)
    copy.draw_without_rendering()
    drawn = {ax: 0.85 * ax.bbox.height / copy.dpi for ax in copy.axes if hasattr(ax, "dsmem_data")}
    for text in copy.findobj(Text):
        text.set_fontsize(PAPER["font.size"])
        text.set_fontfamily(matplotlib.rcParams["font.family"])
    for ax in copy.axes:
        ax.tick_params(labelsize=PAPER["font.size"], labelfontfamily=matplotlib.rcParams["font.family"])
    copy.set_layout_engine("constrained")
    copy.set_size_inches(inches, fig.get_figheight() + 4)  # titles and legends get longer: high first, cut then
    for ax in drawn:
        ax.dsmem_whole_legend = False
        _rename(ax, labels)
        finish(ax, labels.get(title_of(ax), title_of(ax)))
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


def _rename(ax, labels):
    """Other words in the legend, at the ticks, in texts, and at the start of the axes' labels."""
    finished = ax.dsmem_renamed
    ax.dsmem_renamed = {label: labels[label] for label in labels if label not in finished} | finished
    for axis in (ax.xaxis, ax.yaxis):
        names = [text.get_text() for text in axis.get_ticklabels()]
        if any(name in labels for name in names):
            axis.set_ticks(axis.get_ticklocs(), [labels.get(name, name) for name in names])
        first = next((word for word in labels if axis.get_label_text().startswith(f"{word} (")), None)
        if first:
            axis.set_label_text(labels[first] + axis.get_label_text()[len(first) :])
    for text in ax.texts:
        text.set_text(labels.get(text.get_text(), text.get_text()))


def _metadata(kind, title, keywords, words):
    """Title, keywords, text and software under each format's own names; no dates: equal plots are equal files."""
    software = f"dsmem, Matplotlib {matplotlib.__version__}"
    known = ", ".join(keywords)
    return {
        "pdf": {"Title": title, "Subject": words, "Keywords": known, "Creator": software, "CreationDate": None},
        "svg": {"Title": title, "Description": words, "Keywords": keywords, "Creator": software, "Date": None},
        "png": {"Title": title, "Description": words, "Keywords": known, "Software": software},
    }[kind]


# --- The numbers ------------------------------------------------------------------------------------------------------


def _write_csv(path, axes):
    """A row for each number: panel, series, x, and the number in the column of what it is."""
    rows = [row for ax in axes if hasattr(ax, "dsmem_data") for row in _rows(ax)]
    quantities = list(dict.fromkeys(quantity for *_, quantity, _ in rows)) or ["bytes"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("panel", "series", "x", *quantities))
        for *where, quantity, number in rows:
            writer.writerow((*where, *(number if name == quantity else "" for name in quantities)))


def _rows(ax):
    """(panel, series, x, quantity, number) of what is booked, or else of the artists; and of the capacity lines."""
    panel = title_of(ax)
    for series, x, number in ax.dsmem_data or _drawn(ax):
        yield panel, series, x, ax.dsmem_unit, number
    for label, nbytes in ax.dsmem_limits.items():
        yield panel, "capacity", label.partition("\n")[0], "bytes", nbytes


def _drawn(ax):
    """(series, x, number) of the bars and named lines of an Axes that somebody drew on by hand."""
    for bars in ax.containers:
        for bar in getattr(bars, "patches", ()):
            upright = getattr(bars, "orientation", "vertical") == "vertical"
            place, size = (bar.get_x(), bar.get_height()) if upright else (bar.get_y(), bar.get_width())
            middle = place + (bar.get_width() if upright else bar.get_height()) / 2
            yield bars.get_label(), _tick_at(ax.xaxis if upright else ax.yaxis, middle), float(size)
    for line in ax.lines:
        if not line.get_label().startswith("_"):
            yield from ((line.get_label(), x, y) for x, y in np.asarray(line.get_xydata()).tolist())


def _tick_at(axis, place):
    """The name of the nearest tick, if the ticks have names, else the place."""
    names = [text.get_text() for text in axis.get_ticklabels()]
    locations = np.asarray(axis.get_ticklocs())
    if not len(locations) or not isinstance(axis.get_major_locator(), FixedLocator):
        return place
    return names[int(np.abs(locations - place).argmin())] or place
