"""Pictures under sliders: one figure is kept and its artists are moved, so that a slider answers at once.

`explore(draw, **controls)` makes an explorer of any drawing function; those of this kit are in `explorers`.

Newer kernels run the callbacks of widgets on a second thread. So nothing here uses pyplot, one lock guards each
explorer, and the values are read under it: whoever draws last draws the newest.
"""

import html
import io
import threading
from collections.abc import Callable
from numbers import Number
from typing import Any

import ipywidgets
import numpy as np
from IPython.display import display
from matplotlib import rcParams, style
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from traitlets import TraitError

from dsmem.plots.style import STYLE

DPI = 100
LABELS = {
    "batch": "batch (sequences)",
    "seq_len": "length (tokens)",
    "cached_tokens": "cached (tokens)",
    "weights": "weights (format)",
    "kv_cache": "KV cache (format)",
    "logits": "logits kept",
    "kept": "kept in 16 bit",
    "gpu": "GPU",
    "num_key_value_heads": "KV heads",
}


def explore(draw: Callable, /, *, figsize: tuple[float, float] = (7.5, 4.6), **controls: Any) -> "Explorer":
    """An `Explorer` of `draw`, with a control for each argument of it.

    draw: `draw(ax, **values)` draws once and returns `update(**values)`, which moves the artists and may return a
    sentence that says what the picture shows. figsize: inches, at 100 dots each.
    controls: (low, high) or (low, high, start): a slider over powers of two; a list: a slider over its numbers in
    order, else a menu, that starts at its first; a range: a slider; True or False: a box to tick; a widget: itself; one
    number or text: fixed, no control.
    Raises ValueError, one sentence, for anything else.
    """
    return Explorer(draw, controls, figsize)


class Explorer:
    """Controls above the one picture that they move. Make one with `explore`; a cell that ends with it shows it.

    controls: {name: widget}. figure: the Matplotlib figure, always the same. png: the picture as bytes.
    error: None, or what went wrong at the present values; the picture is then the last good one.
    """

    def __init__(self, draw, controls, figsize):
        made = {name: _control(name, spec) for name, spec in controls.items()}
        self.controls = {name: widget for name, (widget, _) in made.items() if widget is not None}
        self._allowed = {name: allowed for name, (_, allowed) in made.items()}
        self._fixed = {name: controls[name] for name in made if name not in self.controls}
        self._lock = threading.RLock()
        self._held, self._shown, self.png, self.error = False, None, None, None
        self._kept = _KeptFigure(draw, self.values, figsize)
        self.figure = self._kept.figure
        wide = {"width": f"{int(DPI * figsize[0])}px", "max_width": "100%"}
        self._screen = ipywidgets.Image(format="png", layout={**wide, "height": "auto"})
        self._words = ipywidgets.HTML(layout={**wide, "min_height": "3.6em"})
        columns = {"grid_template_columns": "repeat(auto-fill, 366px)"}  # two, or one where the page is narrow
        panel = ipywidgets.GridBox(list(self.controls.values()), layout={**wide, **columns})
        self.box = ipywidgets.VBox([panel, self._screen, self._words])
        for widget in self.controls.values():
            widget.observe(self._refresh, names="value")
        self._refresh()

    @property
    def values(self):
        """{name: value} of all that the picture depends on, controls first."""
        return {name: widget.value for name, widget in self.controls.items()} | self._fixed

    def set(self, **values):
        """Move several controls, draw once. ValueError, and nothing moves, if a name or a value is not allowed."""
        for name in values:
            if name not in self.controls:
                raise ValueError(f"{name}={values[name]!r} has no control; allowed: {', '.join(self.controls)}")
        with self._lock:
            before, self._held = self.values, True
            try:
                for name, value in values.items():
                    self._move(name, value)
            except ValueError:
                for name in values:
                    self.controls[name].value = before[name]
                raise
            finally:
                self._held = False
            self._refresh()

    def _move(self, name, value):
        allowed = self._allowed[name]
        try:
            if allowed is None or value in allowed:
                self.controls[name].value = value
                return
        except TraitError as error:
            allowed = allowed or [error]
        choices = ", ".join(map(str, allowed)).rstrip(".")
        raise ValueError(f"{name}={value!r} is not a value of this control; allowed: {choices}")

    def _refresh(self, change=None):
        """Draw the present values, unless they are in the picture already."""
        with self._lock:
            values = self.values
            if self._held or (values == self._shown and not self.error):
                return
            try:
                sentence, png = self._kept.show(values)
            except Exception as error:  # whatever a drawing raises: it must not take the controls with it
                if self.png is None:
                    raise
                self.error = " ".join(str(error).split()) or type(error).__name__
                self._say("alert", f"Not drawn, the picture is the one before: {self.error}")
                return
            self.error, self._shown, self.png = None, values, png
            _send(self._screen, png)
            self._say("status", sentence or "")

    def _say(self, role, text):
        self._words.value = f'<p role="{role}" style="line-height: 1.5">{html.escape(text)}</p>'

    def _ipython_display_(self, **kwargs):
        """Controls and picture; a page without a kernel gets the sentence in their place."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        page = f"{self._words.value}<p><em>The sliders of this picture need a running kernel.</em></p>"
        bundle = {"text/plain": repr(self), "text/html": page, "application/vnd.jupyter.widget-view+json": view}
        display(bundle, raw=True)

    def __repr__(self):
        return f"Explorer({', '.join(f'{name}={value!r}' for name, value in self.values.items())})"


def _send(screen, png):
    """The one place where a picture goes to the page: here an <img> could replace it, for want of binary messages."""
    screen.value = png


# --- Controls ---------------------------------------------------------------------------------------------------------


def _control(name, spec):
    """The widget for `spec` and the values that it allows; no widget if the value is fixed."""
    look = {
        "description": LABELS.get(name, name.replace("_", " ")),
        "style": {"description_width": "130px"},
        "layout": {"width": "360px"},
    }
    if isinstance(spec, ipywidgets.ValueWidget):
        return spec, None
    if isinstance(spec, bool):
        return ipywidgets.Checkbox(value=spec, indent=True, **look), [False, True]
    if isinstance(spec, str | Number | None):
        return None, None
    if isinstance(spec, range) and len(spec) > 1 and spec.step > 0:
        return ipywidgets.IntSlider(value=spec[0], min=spec[0], max=spec[-1], step=spec.step, **look), spec
    if isinstance(spec, tuple) and _powers(spec):
        return _choice(_powers(spec), spec[-1] if len(spec) == 3 else spec[0], look)
    if isinstance(spec, list) and spec:
        numbers = all(isinstance(value, Number) for value in spec)
        return _choice(sorted(spec) if numbers else spec, spec[0], look)
    raise ValueError(
        f"{name}={spec!r} makes no control; allowed: (low, high) or (low, high, start) in powers of two, "
        "a list, a range, True or False, a widget, or one number or text"
    )


def _powers(spec):
    """The powers of two from low to high, or nothing if `spec` is not made of them."""
    if len(spec) not in (2, 3) or not all(isinstance(n, int) and n > 0 and n & (n - 1) == 0 for n in spec):
        return []
    powers = [2**k for k in range(spec[0].bit_length() - 1, spec[1].bit_length())]
    return powers if spec[-1] in powers else []


def _choice(values, start, look):
    """A slider over numbers, a menu over anything else."""
    numbers = len(values) > 1 and all(isinstance(value, Number) for value in values)
    kind = ipywidgets.SelectionSlider if numbers else ipywidgets.Dropdown
    options = [(f"{value:,}" if isinstance(value, Number) else str(value), value) for value in values]
    return kind(options=options, value=start, **look), values


# --- The kept figure --------------------------------------------------------------------------------------------------


class _KeptFigure:
    """One figure, drawn in two layers: the ticks, the grid and what lies under them; everything above, every time.

    The lower layer is kept as pixels until Matplotlib says that the figure is `stale`. What lies above is `animated`,
    which tells Matplotlib that somebody else (this class) draws it.
    """

    def __init__(self, draw, values, figsize):
        self.figure = Figure(figsize=figsize, dpi=DPI, layout="constrained")
        self.canvas = FigureCanvasAgg(self.figure)
        with style.context(STYLE):
            self.ax = self.figure.subplots()
            # Ticks made later, outside this style, take these along.
            grid = {"grid_color": rcParams["grid.color"], "grid_linewidth": rcParams["grid.linewidth"]}
            self.ax.tick_params(labelsize=rcParams["xtick.labelsize"], **grid)
            self.update = draw(self.ax, **values)
            if not callable(self.update):
                raise ValueError(f"draw must return the function that moves its artists, got {self.update!r}")
            self.canvas.draw()
        self.figure.set_layout_engine("none")  # laid out once: nothing jumps
        self.lower, self.upper = None, []
        self.canvas.mpl_connect("draw_event", self._forget)

    def show(self, values):
        """Move the artists to `values`; returns the sentence of `update` and the picture as PNG."""
        sentence = self.update(**values)
        if self.figure.stale or self.lower is None:
            self._draw_lower()
        else:
            self.canvas.restore_region(self.lower)
        for artist in self.upper:
            self.ax.draw_artist(artist)
        picture = Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert("RGB")
        file = io.BytesIO()
        picture.save(file, "png", compress_level=1)  # most of the saving in a third of the time
        return sentence, file.getvalue()

    def _draw_lower(self):
        artists = [artist for artist in self.ax.get_children() if artist is not self.ax.patch]
        artists.sort(key=lambda artist: artist.zorder)  # the order in which an Axes draws
        ticks = max(index for index, artist in enumerate(artists) if isinstance(artist, Axis))
        # With something beside the Axes in the figure, which may lie over it, everything is one layer.
        alone = self.figure.get_children() == [self.figure.patch, self.ax]
        self.upper = artists[ticks + 1 :] if alone else []
        for artist in artists:
            artist.set_animated(artist in self.upper)
        self.canvas.draw()
        self.lower = self.canvas.copy_from_bbox(self.figure.bbox) if alone else None

    def _forget(self, event):
        """Somebody drew the figure: the copy may be out of date."""
        self.lower = None
