"""What a page's script reads, decoded in Python; and what the script says of it, where node is there."""

import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from dsmem.plots.page.explorer import FILES

# --- A decoder of its own ---------------------------------------------------------------------------------------------


def decoded(text, batches, lengths):
    """The values of a function at every stop, whole numbers of any size: (lengths, batches)."""
    numbers = [int(term, 16) if term else 0 for term in text[1:].split(",")]
    if text[0] == "#":
        numbers += [0] * (len(lengths) * len(batches) - len(numbers))
        return np.array(numbers, dtype=object).reshape(len(lengths), len(batches))
    if text[0] == "|":
        numbers += [0] * (2 * len(batches) - len(numbers))
        return np.array(
            [[numbers[2 * i] + numbers[2 * i + 1] * s for i in range(len(batches))] for s in lengths], object
        )
    if text[0] == "/":
        numbers += [0] * (2 * len(lengths) - len(numbers))
        return np.array(
            [[numbers[2 * i] + numbers[2 * i + 1] * b for b in batches] for i in range(len(lengths))], object
        )
    t = numbers + [0] * (6 - len(numbers))
    value = lambda b, s: t[0] + t[1] * b + t[2] * s + t[3] * b * s + t[4] * s * s + t[5] * b * s * s  # noqa: E731
    return np.array([[value(b, s) for b in batches] for s in lengths], dtype=object)


def data_of(explorer, page_text=None):
    """What the script would read; page_text: cut out of this HTML, as a browser cuts it."""
    found = page_text and re.search(r'<script type="application/json">(.*?)</script', page_text, re.DOTALL)[1]
    return json.loads(found or explorer._script_data())


def states_of(data):
    """Every choice, {name: value's place}, with its state or its error."""
    sizes = {knob["name"]: len(knob["texts"]) for knob in data["knobs"]}
    for index, choice in enumerate(itertools.product(*(range(sizes[name]) for name in data["order"]))):
        place = data["index"][index]
        yield (
            dict(zip(data["order"], choice, strict=True)),
            data["states"][place] if place >= 0 else data["errors"][-1 - place],
        )


def rows_of(data, state, values):
    """{instant: {family: values at every stop}} of a state; values: of every function."""
    names = [family["name"] for family in data["families"]][: len(state[0])]  # what is beside tensors is in no state
    rows = {}
    for instant in (data["instants"][number] for number in state[1]):
        places = list(state[0])
        for family, place in zip(instant[1::2], instant[2::2], strict=True):
            places[family] = place
        rows[data["names"][instant[0]]] = {name: values[place] for name, place in zip(names, places, strict=True)}
    return rows


# --- The script, where node is there ----------------------------------------------------------------------------------

node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed; it runs the page's script here")
ASK = """
const { data, asked } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const m = machine(data);
const said = asked.map((at) => {
  const shown = scene(m, at);
  if (shown.error !== undefined) return { error: shown.error };
  const rows = m.rows(at).rows.map(({ name, parts }) => [name, parts.map(String)]);
  const curve = shown.curve?.map(({ length, total, parts }) => [length, total, ...parts]);
  return { title: shown.title, sentence: shown.sentence, rows, peak: String(shown.peak.total), curve };
});
console.log(JSON.stringify(said));
"""


def told_by_script(explorer, asked):
    """What the page's script says at these places of the knobs."""
    files = sorted(FILES.glob("*.js"))[:2]
    script = "".join(path.read_text(encoding="utf-8") for path in files) + ASK
    text = json.dumps({"data": data_of(explorer), "asked": asked})
    done = subprocess.run(["node", "-e", script], input=text, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def some_states(explorer, count):
    """Places of the knobs, the same ones every time, first and last values among them."""
    sizes = {name: len(knob.values) for name, knob in explorer._knobs.items()}
    draw = np.random.default_rng(7)
    drawn = [{name: int(draw.integers(size)) for name, size in sizes.items()} for _ in range(count)]
    return [dict.fromkeys(sizes, 0), {name: size - 1 for name, size in sizes.items()}, *drawn]


def said_alike(explorer, count):
    """(values, state, told) of `count` states that are no error, after the script has told the same as Python."""
    asked = some_states(explorer, count)
    for at, told in zip(asked, told_by_script(explorer, asked), strict=True):
        values = {name: explorer._knobs[name].values[place] for name, place in at.items()}
        explorer.set(**{name: value for name, value in values.items() if name in explorer.controls})
        if explorer.error:
            assert told == {"error": explorer.error}
            continue
        state = explorer.state
        assert told["title"] == list(state.title) and told["sentence"] == state.sentence
        assert told["peak"] == str(state.peak_bytes)
        yield values, state, told


def rows_alike(state, told):
    """Are the rows that the script draws those that the formulas give?"""
    return told["rows"] == [[row, [str(n) for n in parts.values()]] for row, parts in state.rows.items()]
