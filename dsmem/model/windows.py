"""The cache of a layer that slides: in every layout the last `window - 1` tokens, which are all that a later one sees.

transformers' growing cache keeps as many; its static one has room for one more, and moves all rows at every step.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from dsmem.model.layouts import Growing, Paged, Rows, Static


def turns(start: int, tokens: int, room: int) -> Iterator[tuple[slice, slice]]:
    """(places, rows): where `tokens` rows from number `start` on go in a ring of `room` places, in one piece or two.

    >>> list(turns(3, 4, room=5))
    [(slice(3, 5, None), slice(0, 2, None)), (slice(0, 2, None), slice(2, 4, None))]
    """
    first = min(tokens, room - start % room)
    yield slice(start % room, start % room + first), slice(0, first)
    if first < tokens:
        yield slice(0, tokens - first), slice(first, tokens)


class StaticWindow(Static):
    """`Static` as a ring: a token past the `max_len`-th takes the place of the oldest."""

    def write(self, start: int, rows: torch.Tensor) -> None:
        """Copies the rows, at most `max_len` of them, to their places."""
        for places, part in turns(start, rows.shape[1], self.data.shape[1]):
            self.data[:, places].copy_(rows[:, part])

    def oldest(self, length: int) -> int:
        """The place of the oldest of the tokens kept, once `length` have come."""
        room = self.data.shape[1]
        return length % room if length > room else 0


class PagedWindow(Paged):
    """`Paged` as a ring: the pages of a sequence are filled anew from the first on."""

    def __init__(self, batch: int, max_len: int, tail: tuple, slots: torch.Tensor, **like: Any):
        super().__init__(batch, max_len, tail, slots, **like)
        self.room = max_len

    def write(self, start: int, rows: torch.Tensor) -> None:
        """Copies the rows, at most `max_len` of them, to their slots."""
        rows = rows.to(self.data.dtype)
        for places, part in turns(start, rows.shape[1], self.room):
            self.data.index_put_((self.slots[:, places],), rows[:, part])

    def oldest(self, length: int) -> int:
        """The place of the oldest of the tokens kept, once `length` have come."""
        return length % self.room if length > self.room else 0


class GrowingWindow(Growing):
    """`Growing` up to `max_len` tokens; from then on the oldest rows are left out of each new tensor."""

    def __init__(self, batch: int, max_len: int, tail: tuple, **like: Any):
        super().__init__(batch, max_len, tail, **like)
        self.room = max_len

    def reset(self, length: int) -> None:
        """Hold the last of `length` tokens of zeros."""
        super().reset(min(length, self.room))

    def write(self, start: int, rows: torch.Tensor) -> None:
        """Old and new rows, the last `max_len` of them, as one new tensor; the old one is freed afterwards."""
        if self.data is not self.empty:
            over = self.data.shape[1] + rows.shape[1] - self.room
            self.data = self.data[:, max(0, over) :]
        super().write(start, rows)

    def oldest(self, length: int) -> int:
        """The place of the oldest token: always the first."""
        return 0


WINDOWS = {"static": StaticWindow, "growing": GrowingWindow, "paged": PagedWindow}
"""The class of each layout of a layer that slides, by its name."""


class SlidingRows(Rows):
    """`Rows` of a layer that slides, of which `room` tokens are kept: attention reads them before they are replaced.

    Arguments as in `Rows`; make: makes one of `WINDOWS` with `room` as its `max_len`.
    """

    def __init__(self, make: Callable, tail: tuple, dtype: str, device: Any, room: int):
        super().__init__(make, tail, dtype, device)
        self.room = room

    def write(self, start: int, rows: torch.Tensor) -> None:
        """Stores the last of the rows of the tokens from `start` on, rounded to the format."""
        past = max(0, rows.shape[1] - self.room)
        super().write(start + past, rows[:, past:])

    def read(self, end: int, dtype: torch.dtype) -> torch.Tensor:
        """The rows of the last of the first `end` tokens as `dtype`, in order: a copy."""
        return self._filled(end, dtype, 0)

    def join(self, start: int, rows: torch.Tensor) -> torch.Tensor:
        """What attention reads for the tokens from `start` on: those kept, and `rows`, the new ones, as they are.

        One new tensor (batch, kept + seq_len, ...) in the dtype of `rows`; `rows` itself where no token is kept.
        """
        if not start:
            return rows
        seen = self._filled(start, rows.dtype, rows.shape[1])
        seen[:, -rows.shape[1] :].copy_(rows)
        return seen

    def _filled(self, end, dtype, more):
        """A new tensor that begins with the kept rows of the first `end` tokens, with room for `more` after them."""
        kept, first = min(end, self.room), self.parts[0].oldest(end)
        stored = [part.read(kept) for part in self.parts]
        seen = stored[0].new_empty((len(stored[0]), kept + more, *stored[0].shape[2:]), dtype=dtype)
        plain = stored[0].view(torch.float8_e4m3fn) if self.dtype == "fp8" else stored[0]
        for places, part in turns(first, kept, kept):
            seen[:, part].copy_(plain[:, places])
            if self.dtype == "int8":
                seen[:, part].mul_(stored[1][:, places])
        return seen
