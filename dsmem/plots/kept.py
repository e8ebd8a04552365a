"""A figure that is kept and drawn in two layers, so that moving its artists is quick."""

import io
from collections.abc import Callable

import numpy as np
from matplotlib import rcParams, style
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dsmem.plots.style import STYLE

DPI = 100


class KeptFigure:
    """One figure, drawn in two layers: the ticks, the grid and what lies under them; everything above, every time.

    The lower layer is kept as pixels until Matplotlib says that the figure is `stale`. What lies above is `animated`,
    which tells Matplotlib that somebody else (this class) draws it.
    """

    def __init__(self, draw: Callable, values: dict, figsize: tuple[float, float]):
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

    def show(self, values: dict) -> tuple[str | None, bytes]:
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
