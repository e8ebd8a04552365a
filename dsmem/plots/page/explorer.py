"""Explorers that live in a page: one HTML output whose script draws each state itself, with no kernel and no network.

What the script needs lies in `script`; the numbers come from `tables`. `explorers` has the kit's own explorers.
"""

import base64
import dataclasses
import functools
import hashlib
import html
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dsmem.plots.families import FAMILIES, look
from dsmem.plots.footprint import DASHES
from dsmem.plots.knobs import Knob
from dsmem.units import format_bytes

FILES = Path(__file__).with_name("script")
MOST_BYTES = 500_000
"""What one explorer may take of a notebook, which GitHub shows up to 1 MB."""

HINT = (
    "A still picture: its controls need a script. Run the cell, or trust the notebook (Trust Notebook in JupyterLab's "
    "command palette), or open it in Colab."
)


@dataclasses.dataclass(frozen=True)
class Shown:
    """What one state of the knobs shows.

    title: two lines. rows: {row: {family: bytes}}. peak_instant, peak_bytes: the largest row and its bytes.
    """

    title: tuple[str, str]
    sentence: str
    rows: dict[str, dict[str, int]]
    peak_instant: str
    peak_bytes: int


class PageExplorer:
    """Controls and the picture that they move, drawn by the page itself; a cell that ends with it shows it.

    It is driven and read as the kernel's explorer is: `set`, `values`, `figure`, `alt`, `error`. What has been shown
    already stays as it is: it has no wire to the kernel. controls: {name: `Knob`}. state: what is shown, a `Shown`.

    show: `show(values)` gives a `Shown`, or raises ValueError. draw: `draw(ax, values)` draws the still picture. data:
    what the script reads, `tables.tabulate` and the words.
    """

    def __init__(self, knobs: list[Knob], show: Callable, draw: Callable, data: Mapping[str, Any]):
        self._knobs = {knob.name: knob for knob in knobs}
        self.controls = {name: knob for name, knob in self._knobs.items() if knob.kind != "fixed"}
        self._show, self._draw, self._data = show, draw, data
        self._at = {name: knob.at for name, knob in self._knobs.items()}
        self.error = None
        self.state = show(self.values)
        self._drawn = self.values
        size = len(self._script_data())
        if size > MOST_BYTES:
            raise ValueError(
                f"controls make a page of {size:,} bytes, and {MOST_BYTES:,} are allowed; give fewer values to: "
                + ", ".join(self.controls)
            )

    @property
    def values(self) -> dict:
        """{name: value} of all that the picture depends on."""
        return {name: self._knobs[name].values[place] for name, place in self._at.items()}

    @property
    def alt(self) -> str:
        """What the picture shows, in words."""
        return self.state.sentence

    @property
    def figure(self) -> Figure:
        """The present picture as a Matplotlib figure, a new one each time."""
        figure = Figure(figsize=(7.5, 3.4), dpi=100, layout="constrained")
        self._draw(figure.subplots(), self._drawn)
        return figure

    def set(self, **values: Any) -> None:
        """Move several controls. ValueError, and nothing moves, if a name or a value is not allowed."""
        places = dict(self._at)
        for name, value in values.items():
            if name not in self.controls:
                raise ValueError(f"{name}={value!r} has no control; allowed: {', '.join(self.controls)}")
            knob = self._knobs[name]
            if value not in knob.values:
                choices = ", ".join(map(str, knob.values))
                raise ValueError(f"{name}={value!r} is not a value of this control; allowed: {choices}")
            places[name] = knob.values.index(value)
        self._at = places
        try:
            self.state, self._drawn, self.error = self._show(self.values), self.values, None
        except ValueError as error:
            self.error = " ".join(str(error).split())

    def save_html(self, path: Any) -> Path:
        """Write the explorer as one HTML file, which needs no kernel, no network and no library; returns its path."""
        path = Path(path)
        title = html.escape(" ".join(self.state.title))
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
        page = f'<!doctype html><html lang="en"><head>{head}<style>{PAGE_STYLE}</style></head><body>'
        path.write_text(f"{page}{self._repr_html_()}</body></html>\n", encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        data = self._script_data()
        own = hashlib.sha256(data.encode()).hexdigest()[:12]  # the same output for the same explorer
        words = html.escape(self.alt)
        still = f'<img alt="{words}" src="data:image/png;base64,{self._png()}"><p>{words}</p><p><i>{HINT}</i></p>'
        return (
            f'<div class="dsmem-page" data-dsmem="{own}"><style>{_style()}</style>'
            f'<div class="dsmem-still">{still}</div><div class="dsmem-live" hidden></div>'
            f'<script type="application/json">{data}</script></div>'
            f"<script>(() => {{\n{_script()}\n"
            f"document.querySelectorAll(\"[data-dsmem='{own}']\").forEach(start);\n}})();</script>"
        )

    def _script_data(self):
        """The data as JSON that no name in it can break out of."""
        knobs = [_described(knob, self._at[knob.name]) for knob in self._knobs.values()]
        text = json.dumps({"knobs": knobs, **self._data}, separators=(",", ":"))
        return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)

    def _png(self):
        """The still picture in few colours, as base64."""
        file, canvas = io.BytesIO(), FigureCanvasAgg(self.figure)
        canvas.draw()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64).save(file, "png", optimize=True)
        return base64.b64encode(file.getvalue()).decode()

    def __repr__(self) -> str:
        return f"PageExplorer({', '.join(f'{name}={value!r}' for name, value in self.values.items())})"


PAGE_STYLE = (
    "body{margin:0 auto;max-width:880px;padding:8px;background:#fff}"
    "@media (prefers-color-scheme:dark){body{background:#1c1c1c}}@media print{body{background:#fff}}"
)


def fill(template: str, words: Mapping[str, Any]) -> str:
    """The words in their places, as the page's script puts them: {name}, {name:n} with commas, {name:b} as a size.

    >>> fill("{model}: {peak:n} bytes, {peak:b}", {"model": "a {b}", "peak": 4096})
    'a {b}: 4,096 bytes, 4.00 KiB'
    """
    write = {"n": "{:,}".format, "b": format_bytes, None: str}
    return re.sub(r"\{(\w+)(?::(\w))?\}", lambda found: write[found[2]](words[found[1]]), template)


def looks_of(families: Mapping[str, str] | None = None) -> list[dict]:
    """The look of each family; families: {name: the part whose look it has}, `FAMILIES` if not given."""
    parts = families or dict.fromkeys(FAMILIES)
    dashes = itertools.cycle(["", *(" ".join(map(str, each)) for _, each in DASHES[1:])])
    found = {name: look(part or name) for name, part in parts.items()}
    return [
        {"name": name, "face": each["facecolor"], "edge": each["edgecolor"], "hatch": each["hatch"], "dash": dash}
        for (name, each), dash in zip(found.items(), dashes)  # noqa: B905
    ]


def _described(knob, at):
    kind = "range" if knob.kind in ("slider", "steps") else knob.kind
    found = {"name": knob.name, "label": knob.label, "kind": kind, "texts": knob.shown(), "at": at}
    whole = all(isinstance(value, int) for value in knob.values) and knob.kind != "box"
    return found | ({"numbers": list(knob.values)} if whole else {})


@functools.cache
def _script():
    return "".join(path.read_text(encoding="utf-8") for path in sorted(FILES.glob("*.js")))


@functools.cache
def _style():
    return (FILES / "page.css").read_text(encoding="utf-8").replace("\n", " ")
