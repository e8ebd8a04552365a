"""Pictures under sliders: one figure is kept and its artists are moved, so that a slider answers at once.

`explore(draw, **controls)` makes an explorer of any drawing function; those of this kit are in `explorers`.

Newer kernels run the callbacks of widgets on a second thread. So nothing here uses pyplot, one lock guards each
explorer, and the values are read under it: whoever draws last draws the newest.
"""

import base64
import html
import io
import threading
from collections.abc import Callable
from typing import Any

import ipywidgets
from PIL import Image
from traitlets import TraitError

from dsmem.plots import knobs
from dsmem.plots.alt import figure_text
from dsmem.plots.kept import DPI, KeptFigure


def explore(
    draw: Callable, /, *, figsize: tuple[float, float] = (7.5, 4.6), menus: bool = False, **controls: Any
) -> "Explorer":
    """An `Explorer` of `draw`, with a control for each argument of it.

    draw: `draw(ax, **values)` draws once and returns `update(**values)`, which moves the artists and may return a
    sentence that says what the picture shows. figsize: inches, at 100 dots each. menus: a menu in place of each slider
    over numbers, for a screen reader reads a menu's name and values, and a slider's not.
    controls: (low, high) or (low, high, start): a slider over powers of two; a list: a slider over its numbers in
    order, else a menu, the first one chosen; {text: value}: a menu; a range: a slider; True or False: a box to tick; a
    widget: itself; one number or text: fixed, no control. Raises ValueError, one sentence, for anything else.
    """
    return Explorer(draw, controls, figsize, menus)


class Explorer:
    """Controls above the one picture that they move. Make one with `explore`; a cell that ends with it shows it.

    controls: {name: widget}. figure: the Matplotlib figure, always the same. png: the picture as bytes.
    alt: what it shows, in words. error: None, or what went wrong at the present values; the picture is then the last
    good one.
    """

    def __init__(self, draw: Callable, controls: dict, figsize: tuple[float, float], menus: bool = False):
        made = {name: _control(name, spec, menus) for name, spec in controls.items()}
        self.controls = {name: widget for name, (widget, _) in made.items() if widget is not None}
        self._allowed = {name: allowed for name, (_, allowed) in made.items()}
        self._fixed = {name: controls[name] for name in made if name not in self.controls}
        self._lock = threading.RLock()
        self._held, self._shown, self.png, self.error, self.alt = False, None, None, None, ""
        self._kept = KeptFigure(draw, self.values, figsize)
        self.figure = self._kept.figure
        wide = {"width": f"{int(DPI * figsize[0])}px", "max_width": "100%"}
        self._screen = ipywidgets.Image(format="png", layout={**wide, "height": "auto"})
        self._words = ipywidgets.HTML(layout={**wide, "min_height": "3.6em"})
        columns = {"grid_template_columns": "repeat(auto-fill, minmax(min(360px, 100%), 1fr))"}  # one on a narrow page
        panel = ipywidgets.GridBox(list(self.controls.values()), layout={**wide, **columns})
        self.box = ipywidgets.VBox([panel, self._screen, self._words], layout={"max_width": "100%"})
        for widget in self.controls.values():
            widget.observe(self._refresh, names="value")
        self._refresh()

    @property
    def values(self) -> dict:
        """{name: value} of all that the picture depends on, controls first."""
        return {name: widget.value for name, widget in self.controls.items()} | self._fixed

    def set(self, **values: Any) -> None:
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
            self.alt = sentence or figure_text(self.figure)
            self._say("status", self.alt, seen=bool(sentence))

    def _say(self, role, text, seen=True):
        """Words under the picture; seen: by the eye too, and not by a screen reader alone.

        They are the picture's only name: with a `tooltip` of its own an Image is not shown at all in JupyterLab.
        """
        style = "line-height: 1.5" if seen else "position: absolute; clip-path: inset(50%)"
        self._words.value = f'<p role="{role}" style="{style}">{html.escape(text)}</p>'

    def _repr_mimebundle_(self, **kwargs):
        """The live controls; and the picture of this moment, for a page without a kernel, such as exported HTML."""
        return {
            "text/plain": repr(self),
            "text/html": self._static(),
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.box.model_id,
            },
        }

    def _static(self):
        """The picture as HTML, as small as it gets without loss."""
        file, words = io.BytesIO(), html.escape(self.alt)
        Image.open(io.BytesIO(self.png)).save(file, "png", optimize=True)
        source = base64.b64encode(file.getvalue()).decode()
        return f'<img style="max-width: 100%" alt="{words}" src="data:image/png;base64,{source}"><p>{words}</p>'

    def __repr__(self):
        return f"Explorer({', '.join(f'{name}={value!r}' for name, value in self.values.items())})"


def _send(screen, png):
    """The one place where a picture goes to the page: here an <img> could replace it, for want of binary messages."""
    screen.value = png


# --- Controls ---------------------------------------------------------------------------------------------------------


def _control(name, spec, menus=False):
    """The widget for `spec` and the values that it allows; no widget if the value is fixed."""
    if isinstance(spec, ipywidgets.ValueWidget):
        return spec, None
    knob = knobs.read(name, spec, menus)
    look = {
        "description": knob.label,
        "style": {"description_width": "130px"},
        "layout": {"width": "356px", "max_width": "100%"},
    }
    if knob.kind == "fixed":
        return None, None
    if knob.kind == "box":
        return ipywidgets.Checkbox(value=knob.start, indent=True, **look), [False, True]
    if knob.kind == "steps":
        return ipywidgets.IntSlider(value=spec[0], min=spec[0], max=spec[-1], step=spec.step, **look), spec
    kind = ipywidgets.SelectionSlider if knob.kind == "slider" else ipywidgets.Dropdown
    options = list(zip(knob.shown(), knob.values, strict=True))
    return kind(options=options, value=knob.start, **look), list(knob.values)
