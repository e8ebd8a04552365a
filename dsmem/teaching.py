"""For whoever teaches the series, from the notebooks' own metadata: `python -m dsmem.teaching` prints it.

Each notebook holds, under `teaching` in its metadata: `minutes` of reading and running, `exercises` (minutes more),
`needs` (numbers of the notebooks before it), and in words `say`, `stumble` and `skip`. `dsmem.site` makes a page of it.
"""

import html
import json
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from dsmem.table import Table

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FIELDS = {"minutes": int, "exercises": int, "needs": list, "say": str, "stumble": str, "skip": str}

PATHS = {
    "two hours": (120, ("00", "08")),
    "half a day": (240, ("00", "02", "03", "08")),
    "a day": (420, ("00", "01", "02", "03", "06", "08", "10")),
}
"""{how long: (minutes, notebooks)}; exercises are left for the evening, but for those that the room asks for."""


class Lesson(NamedTuple):
    """One notebook as a lesson. number: "03". The others are its fields in the metadata."""

    number: str
    title: str
    minutes: int
    exercises: int
    needs: list
    say: str
    stumble: str
    skip: str


def lessons(notebooks: Path | str = NOTEBOOKS) -> list[Lesson]:
    """Every notebook of a folder that has teaching notes. Raises ValueError for notes that lack something."""
    return [found for path in sorted(Path(notebooks).glob("*.ipynb")) if (found := _lesson(path))]


def _lesson(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notes = notebook.get("metadata", {}).get("teaching")
    if notes is None:
        return None
    wrong = next((name for name, kind in FIELDS.items() if not isinstance(notes.get(name), kind)), None)
    if wrong:
        raise ValueError(f"{wrong!r} in the teaching notes of {path} is missing or of another kind")
    text = "".join(notebook["cells"][0]["source"])
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    return Lesson(path.stem[:2], title[1] if title else path.stem, **{name: notes[name] for name in FIELDS})


def timetable(notebooks: Path | str = NOTEBOOKS) -> Table:
    """Every notebook with its minutes, and what should come before it."""
    rows = [
        (each.number, each.title, each.minutes, each.exercises, ", ".join(each.needs)) for each in lessons(notebooks)
    ]
    columns = {"notebook": None, "title": None, "minutes": ",", "exercises": ",", "after": None}
    return Table(columns, rows)


def notes(notebooks: Path | str = NOTEBOOKS) -> str:
    """Timetable, paths and notes as text, for a prompt."""
    found = {each.number: each for each in lessons(notebooks)}
    parts = [str(timetable(notebooks)), "\n".join(": ".join(_told(name, found)) for name in PATHS)]
    for each in found.values():
        rows = (f"{heading}. {words}" for heading, words in _rows(each))
        parts.append("\n".join([f"{each.number} {each.title}", *(textwrap.fill(row, 100) for row in rows)]))
    return "\n\n".join(parts)


def page(notebooks: Path | str = NOTEBOOKS) -> str:
    """The body of the page for whoever teaches, as HTML."""
    found = {each.number: each for each in lessons(notebooks)}
    paths = "".join("<li><b>{}</b>: {}</li>".format(*_told(name, found)) for name in PATHS)
    each_note = "".join(_notes(each) for each in found.values())
    how = (
        "<p>Everybody guesses before a cell is run, and says the guess aloud; the notebook keeps it. At the end of a "
        "notebook <code>dsmem.check.summary()</code> is one line that each participant can paste into a chat. "
        "<code>dsmem.check.quiz</code> asks twenty questions, to be taken before and after.</p>"
        "<p>Without a network: install once, then nothing is fetched. Where only a wheel can be carried in, put "
        "<code>dsmem-*.whl</code> beside the notebooks; their first cell installs it.</p>"
    )
    return (
        f"<h1>For whoever teaches</h1>{how}<h2>How long</h2>{timetable(notebooks)._repr_html_()}"
        f"<h2>Which notebooks</h2><ul>{paths}</ul><h2>Notes</h2>{each_note}"
    )


def _told(name, found):
    """(how long, its notebooks and what they take) of one of `PATHS`."""
    minutes, numbers = PATHS[name]
    known = [found[number] for number in numbers if number in found]
    spent = sum(each.minutes for each in known)
    return name, f"{', '.join(each.number for each in known)}; {spent} of {minutes} minutes."


def _rows(each: Lesson) -> list[tuple[str, str]]:
    return [("Say", each.say), ("Where people stumble", each.stumble), ("Skip", each.skip)]


def _notes(each: Lesson) -> str:
    text = "".join(f"<p><b>{name}.</b> {html.escape(words)}</p>" for name, words in _rows(each))
    return f"<h3>{each.number} {html.escape(each.title)}</h3>{text}"


if __name__ == "__main__":
    print(notes())
