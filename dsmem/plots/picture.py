"""Pictures that stay and are moved, as sliders need them: what all of them share.

A picture is drawn once; calling it moves its artists and returns in words what there is to see. `tight` ones are called
once: their axes end where the data do, and their legend lists only what can be seen. The others keep their room, so
that nothing jumps under a slider.
"""

import math
from typing import Any

from matplotlib import style

from dsmem.plots import axes, limits
from dsmem.plots.style import STYLE


class Picture:
    """Draws on `ax` (None: a new figure through pyplot). A kind of picture defines `_draw` and `__call__`.

    tight: see above. rows: for how many names of capacities there is room above the Axes.
    """

    height = 4.6  # inches of a new figure
    level = False  # whether capacities are level lines, and not upright ones
    step = 2  # the factor between two ends of an axis that is moved

    def __init__(self, ax: Any = None, tight: bool = False, rows: int = 1):
        self.tight, self.reach, self._lines, self._limits = tight, None, [], None
        with axes.drawing(ax, "", self.height) as self.ax:
            self.ax.dsmem_whole_legend = True
            self.ax.dsmem_rows_above = 0 if self.level else rows
            self._draw(self.ax)
        self.title = self.ax.set_title("", loc="left", pad=8 + 13 * self.ax.dsmem_rows_above)
        if legend := self.ax.get_legend():
            legend.set_zorder(0)  # it lies beside the Axes: an explorer need not draw it with all that moves

    def _draw(self, ax: Any) -> None:
        raise NotImplementedError

    def done(self, title: str | None = None) -> Any:
        """The Axes of a picture that will not be moved again, under a title of yours or its own."""
        self.ax.dsmem_whole_legend = False
        with style.context(STYLE):
            axes.finish(self.ax, axes.title_of(self.ax) if title is None else title)
        return self.ax

    def _say(self, about: str, found: str) -> None:
        """The title: what is shown on the first line, what there is to see on the second."""
        self.title.set_text(f"{about}:\n{found}")
        axes.settle_ends(self.ax)

    def _show_limits(self, places: dict[str, int]) -> None:
        """Capacity lines at `places`; they are drawn anew only when one of them or the scale changes."""
        wanted = (places, self.ax.get_xlim(), self.ax.get_ylim())
        if wanted == self._limits:
            return
        for artist in self._lines:
            artist.remove()
        self._limits, self.ax.dsmem_limits = wanted, dict(places)
        if self.level:
            self._lines = limits.levels(self.ax, places)
        else:
            names = {text.replace("\n", " "): x for text, x in places.items()}
            self._lines = limits.uprights(self.ax, names, None, limits.CAPACITY)

    def _stretch(self, needed: float, label: str) -> None:
        """Let the byte axis reach `needed`; if the picture moves, to a power of `step`, which seldom changes."""
        reach = 1.05 * max(needed, 1) if self.tight else _power(needed, self.step)
        if reach != self.reach:
            self.reach = reach
            self.ax.set_xlim(0, reach)
            axes.byte_axis(self.ax.xaxis, reach, label)


def _power(needed, step):
    """The least power of `step` that is not below `needed`; for powers of two also three quarters of one."""
    power = step ** max(math.ceil(math.log(max(needed, 1), step) - 1e-9), 0)
    return power * 3 // 4 if step == 2 and needed <= power * 3 / 4 else power
