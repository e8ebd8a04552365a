"""What every answer on a device shows: its sentence, its table, its notes."""

import html

from dsmem.table import Table


class Answer:
    """An answer in words: `str` is its sentence; shown are its table and, a line each, what it does not reach.

    sentence: the answer in one sentence. notes: what differs from what one may expect, a sentence each. table(): the
    bytes behind it, with the sentence above.
    """

    sentence: str
    notes: tuple[str, ...]

    def table(self) -> Table:
        """The bytes, part by part."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.sentence

    def __repr__(self) -> str:
        return "\n".join([repr(self.table()), *self.notes])

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
