"""The allocator's memory as a map, block by block, and over time: what tensors fill and what lies free in segments.

`plot_segments` and `plot_reserved` draw once and return the Axes; `explorers` puts the map
under sliders.
"""

from collections import Counter
from typing import Any

import numpy as np
from matplotlib.patches import PathPatch

from dsmem.plots import axes, limits, shapes, sources
from dsmem.plots import style as looks
from dsmem.plots.picture import Picture
from dsmem.units import format_bytes

FREE, TENSOR = "free", "tensor"
MOST_ROWS = 40  # of one segment each, before rows are thinner than their outlines
_BORDER = {"color": looks.INK, "linewidth": 1.4, "zorder": 3}


def plot_segments(
    source: Any, step: int | None = None, *, row_bytes: int | None = None, ax: Any = None, title: str | None = None
) -> Any:
    """The segment map: blocks in address order, coloured by what they hold, the free ones white and hatched.

    source: a Run, a Replay, or a Ledger, of which the map after event `step` is drawn (by default at the reserved
    peak), or a map as `Replay.segments` returns it. row_bytes: None draws one row for each of up to 40 segments; a
    number draws all segments end to end, in rows of so many bytes. A label that is not a component of `style` is
    written into its block. title: defaults to what is reserved and how much of it is in use. Returns the Axes.
    Raises ValueError for no segments, or row_bytes below 1.
    """
    segments = source if isinstance(source, list) else sources.replay_of(source).segments(step)
    if not segments:
        raise ValueError(f"segments must hold at least one segment, got {segments!r}.")
    parts = dict.fromkeys(part_of(label) for segment in segments for _, label in segment)
    if row_bytes is None and len(segments) > MOST_ROWS:
        total = sum(nbytes for segment in segments for nbytes, _ in segment)
        row_bytes = 2 ** (total // 16).bit_length()  # 8 to 16 rows
    picture = SegmentsPicture(list(parts), ax, row_bytes, rows=1 if row_bytes else len(segments), tight=True)
    picture(segments)
    return picture.done(title)


def part_of(label: str) -> str:
    """The component that a block's label stands for: itself, where it is one; "free" for none; else "tensor".

    >>> part_of("kv_cache"), part_of(""), part_of("layers.0 mm")
    ('kv_cache', 'free', 'tensor')
    """
    return FREE if not label else label if label in looks.LOOKS else TENSOR


class SegmentsPicture(Picture):
    """Draws maps of blocks of the given `parts` on `ax` (None: a new figure through pyplot); call it to move them.

    row_bytes: as in `plot_segments`. rows: how many there are at least, so that a small map does not fill the picture.
    Raises ValueError for row_bytes below 1.
    """

    def __init__(self, parts: list, ax: Any = None, row_bytes: int | None = None, rows: int = 1, tight: bool = False):
        if row_bytes is not None and row_bytes < 1:
            raise ValueError(f"row_bytes={row_bytes!r} is too small; it must be at least 1, or None")
        self.kinds, self.row_bytes, self.rows, self.texts = parts, row_bytes, rows, []
        self.height = 1.8 + (0.34 * min(rows, 14) if row_bytes is None else 2.6)
        super().__init__(ax, tight, rows=0)

    def _draw(self, ax):
        nothing = np.zeros(0)
        empty = shapes.boxes(nothing, nothing, nothing)
        self.patches = {
            part: ax.add_patch(PathPatch(empty, label=part, **looks.look(part)))
            for part in sorted(self.kinds, key=lambda part: part == FREE)
        }
        self.borders = ax.add_patch(PathPatch(empty, fill=False, **_BORDER))
        ax.tick_params(axis="y", length=0)
        self._span(self.row_bytes or 2**20)

    def __call__(self, segments):
        """Show the map `segments`, [[(bytes, label or "")] per segment]; returns in words what there is to see."""
        sizes = Counter()
        for segment in segments:
            for nbytes, label in segment:
                sizes[part_of(label)] += nbytes
        reserved = sum(sizes.values())
        self.ax.dsmem_data = [
            (part_of(label), f"segment {number}", nbytes)
            for number, segment in enumerate(segments, start=1)
            for nbytes, label in segment
        ]
        self._frame(segments)
        self._move(segments)
        used = 1 - sizes[FREE] / reserved
        found = f"{format_bytes(reserved)} reserved in {_number(len(segments), 'segment')}, {used:.0%} in use"
        self.title.set_text(found)
        return found + "; " + ", ".join(f"{part} {format_bytes(nbytes)}" for part, nbytes in sizes.most_common()) + "."

    def _frame(self, segments):
        """As many rows as the map needs, and their names where there is room for them."""
        widest = max(sum(nbytes for nbytes, _ in segment) for segment in segments)
        total = sum(nbytes for segment in segments for nbytes, _ in segment)
        rows = len(segments) if self.row_bytes is None else max(-(-total // self.row_bytes), self.rows)
        if self.ax.get_ylim() != (rows - 0.5, -0.5):
            self.ax.set_ylim(rows - 0.5, -0.5)
            every = -(-rows // 14)
            named = list(range(0, rows, every))
            self.ax.set_yticks(named, [self._row_name(row) for row in named])
        if self.row_bytes is None and self.ax.get_xlim() != (0, widest):
            self._span(widest)

    def _span(self, nbytes):
        self.ax.set_xlim(0, nbytes)
        axes.byte_axis(self.ax.xaxis, nbytes, "address in the segment" if self.row_bytes is None else "address")

    def _row_name(self, row):
        return f"segment {row + 1}" if self.row_bytes is None else format_bytes(row * self.row_bytes)

    def _move(self, segments):
        pieces = list(_pieces(segments, self.row_bytes))
        for part, patch in self.patches.items():
            patch.set_path(_path([piece[:3] for piece in pieces if piece[3] == part]))
        self.borders.set_path(_path(_outlines(segments, self.row_bytes)))
        for text in self.texts:
            text.remove()
        reach = self.ax.get_xlim()[1]
        self.texts = [
            self.ax.text((left + right) / 2, row, label, ha="center", va="center", fontsize="small", bbox=axes.PATCH)
            for row, left, right, part, label in pieces
            if part == TENSOR and (right - left) / reach > 0.013 * (len(label) + 1)
        ]


def _number(count, noun):
    return f"{count:,} {noun}{'s' if count > 1 else ''}"


def _pieces(segments, row_bytes):
    """(row, left, right, part, label) of every block; one that crosses the end of a row is in pieces."""
    address = 0
    for row, segment in enumerate(segments):
        address = 0 if row_bytes is None else address
        for nbytes, label in segment:
            for piece in _cut(address, nbytes, row, row_bytes):
                yield *piece, part_of(label), label
            address += nbytes


def _outlines(segments, row_bytes):
    """(row, left, right) around each segment, in pieces where it crosses the end of a row."""
    address = 0
    for row, segment in enumerate(segments):
        nbytes = sum(size for size, _ in segment)
        yield from _cut(0 if row_bytes is None else address, nbytes, row, row_bytes)
        address += nbytes


def _cut(address, nbytes, row, row_bytes):
    if row_bytes is None:
        yield row, address, address + nbytes
        return
    end = address + nbytes
    while address < end:
        row, start = divmod(address, row_bytes)
        stop = min(end, (row + 1) * row_bytes)
        yield row, start, stop - row * row_bytes
        address = stop


def _path(places):
    rows, left, right = np.array(list(places), dtype=float).reshape(-1, 3).T
    return shapes.boxes(left, right, rows)


def plot_reserved(replayed: Any, *, capacity: Any = None, ax: Any = None, title: str | None = None) -> Any:
    """What is reserved over the events: allocated, the largest free block, and the free pieces beside it.

    replayed: a Run, a Replay or a Ledger. The three add up to the reserved bytes; fragmentation is the share of the
    third in the free bytes. capacity: as in `plot_stack`. title: defaults to what is reserved, and the fragmentation.
    Returns the Axes. Raises ValueError for no events.
    """
    replayed = sources.replay_of(replayed)
    if not len(replayed.events):
        raise ValueError(f"replayed must hold at least one event, got {replayed.events!r}.")
    step, places = np.arange(len(replayed.events)), limits.limits_of(capacity)
    free = replayed.reserved_bytes - replayed.allocated_bytes
    parts = {
        "allocated": replayed.allocated_bytes,
        "largest_free": replayed.largest_free_bytes,
        "other_free": free - replayed.largest_free_bytes,
    }
    with axes.drawing(ax, title or _found(replayed)) as ax:
        top = shapes.areas(ax, step, parts, step="post", linewidth=0)
        ax.step(step, replayed.reserved_bytes, where="post", color=looks.INK, linewidth=1.2, label="reserved")
        axes.number_axis(ax, "event (birth or death of a tensor)", logx=False)
        axes.height_axis(ax, places, top, "memory")
    return ax


def _found(replayed):
    worst = int(replayed.reserved_bytes.argmax())
    return (
        f"{format_bytes(replayed.peak_reserved_bytes)} reserved for {format_bytes(replayed.peak_allocated_bytes)} "
        f"allocated; up to {replayed.fragmentation[worst:].max():.0%} of what is free lies in smaller pieces"
    )
