"""What others measured on real GPUs, and how far the kit's predictions are from it; never recordings of ours.

python -m dsmem.runs measured

The figures lie in `data/measured`, each with its source; `predicted` says how each is predicted.
"""

import dataclasses
import json
import re
from collections.abc import Iterable

import numpy as np

from dsmem.config.source import DATA
from dsmem.runs.predicted import attempts, figures
from dsmem.table import Table
from dsmem.units import BYTE_UNITS, GIB, format_bytes, one_of

KINDS = ("requested", "allocated", "reserved", "used", "file", "printed by an engine")
"""What a figure is of: tensors, the allocator's blocks, its segments, a process, a file, or an engine's own words."""

LARGE = 0.01  # an error beyond it has a reason
_UNITS = {name.lower(): size for name, size in BYTE_UNITS.items()} | {"g": GIB}
_ABOUT = ("source", "licence", "conditions", "unit", "kind", "kinds", "digits", "configs")
_REASONS = {  # why a prediction is off by more than `LARGE`: an expression searched in set, name and label
    r"peak_gib .*GPTQ-Int8, 6,144": "the 8-bit kernel unpacks a layer's weights, which is not modelled",
    r"peak_gib .*, 1 token": "two digits leave up to 1% open; what sampling makes of the logits is not modelled",
    r"t4_lora (peak_reserved|process)_mib": "how the model was loaded, and what that left in segments, is not replayed",
    r"t4_lora .* nf4": "a 4-bit model is made on the GPU: blocks that loading left are larger than their tensors",
    r"peft_training .*of the MLP": "the two runs are of different releases of torch and transformers: 5 MB of 6.9 GB",
    r"litgpt_training .*BF16 less": "peaks of different instants; what a 4-bit layer of that release kept is not known",
    r"litgpt_training": "the difference of two figures of two digits",
    r"kv_pool_gib": "CUDA context, CUDA graphs, vLLM's own buffers",
}


def rows(kind: str | None = None) -> list[dict]:
    """The rows of `data/measured`, each a dict with what its file says of all: set, source, licence, conditions, unit.

    kind: one of `KINDS`, for the rows that hold a figure of this kind; defaults to all. "set" is the file's name.
    Raises ValueError for another kind.

    >>> len([row for row in rows("printed by an engine") if "n_ctx" in row])
    70
    """
    if kind is not None:
        one_of("kind", kind, KINDS, "a kind of figure")
    found = []
    for path in sorted((DATA / "measured").glob("*.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        found += [{"set": path.stem, **{key: about.get(key) for key in _ABOUT}, **row} for row in about["rows"]]
    return [row for row in found if kind is None or kind in {_kind(row, name) for name in figures(row)}]


@dataclasses.dataclass(frozen=True)
class Line:
    """One figure beside its prediction.

    set, label: the file of `data/measured`, and the row in words; name: of the figure, as the row has it. kind: of
    `KINDS`. measured, predicted: bytes; None where the figure is a verdict, or nothing is predicted. digits: whether
    the prediction agrees with every digit that was published. reason: why an error is large, or why nothing is
    predicted. source: where it was published.
    """

    set: str
    label: str
    name: str
    kind: str
    measured: float | None
    predicted: int | None
    digits: bool
    reason: str
    source: str

    @property
    def error(self) -> float | None:
        """Signed, as a share of what was measured: +0.01 says that the prediction is 1% too high."""
        return None if self.predicted is None else self.predicted / self.measured - 1


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Every figure of some rows beside its prediction: `lines`; as text, a table, what is not modelled, a summary."""

    lines: list[Line]

    @property
    def modelled(self) -> list[Line]:
        """The lines that have a prediction."""
        return [line for line in self.lines if line.predicted is not None]

    @property
    def not_modelled(self) -> list[Line]:
        """The lines that have none; each says why."""
        return [line for line in self.lines if line.predicted is None]

    def table(self) -> Table:
        """A row for each figure that is predicted."""
        columns = {"set": None, "what": None, "figure": None, "predicted": None, "measured": None, "error": "+.3%"}
        lines = [
            (n.set, n.label, n.name, format_bytes(n.predicted), format_bytes(n.measured), n.error, n.reason)
            for n in self.modelled
        ]
        return Table(columns | {"why": None}, lines)

    def reasons(self) -> Table:
        """What is not modelled: a row for each set, figure and reason, with the number of figures."""
        counts = {}
        for line in self.not_modelled:
            key = line.set, line.name, line.reason
            counts[key] = counts.get(key, 0) + 1
        columns = {"set": None, "not modelled": None, "figures": ",", "why": None}
        return Table(columns, [(place, name, count, why) for (place, name, why), count in counts.items()])

    def summary(self) -> Table:
        """By kind: figures, how many are predicted, to the last published digit, the median and the worst error."""
        counts = dict.fromkeys(("figures", "predicted", "to the digit"), ",")
        columns = {"kind": None, **counts, "median error": "+.3%", "worst": "+.3%"}
        return Table(columns, [self._of_kind(kind) for kind in KINDS if any(n.kind == kind for n in self.lines)])

    def _of_kind(self, kind):
        errors = [line.error for line in self.modelled if line.kind == kind]
        count = sum(line.kind == kind for line in self.lines)
        exact = sum(line.digits for line in self.modelled if line.kind == kind)
        if not errors:
            return kind, count, 0, 0, None, None
        return kind, count, len(errors), exact, float(np.median(errors)), max(errors, key=abs)

    def __repr__(self) -> str:
        return "\n\n".join(repr(each()) for each in (self.table, self.reasons, self.summary))

    def _repr_html_(self) -> str:
        return "".join(each()._repr_html_() for each in (self.table, self.reasons, self.summary))


def compare(rows: Iterable[dict] | None = None) -> Comparison:
    """The prediction for every figure of `rows`, the measurement, the signed error, and a reason where it is large.

    rows: dicts as `predicted.predict` takes them; defaults to all of `data/measured`, which takes two minutes, for the
    peaks of whole models are replayed. Nothing is left out: a figure that is not modelled is a line with its reason.

    >>> compare([{"n_ctx": 32768, "cache": "latent q8_0", "kv_mib": 1166.62}]).lines[0].digits
    True
    """
    return Comparison([line for row in (_all_rows() if rows is None else rows) for line in _lines(row)])


_all_rows = rows  # `compare` has an argument of that name


def _lines(row):
    found = attempts(row)
    for name, value in figures(row).items():
        predicted = found[name]
        values = value if isinstance(value, list) else [value]
        guesses = predicted if isinstance(predicted, list) else [predicted] * len(values)
        for index, (one, guess) in enumerate(zip(values, guesses, strict=True)):
            yield _line(row, name if len(values) == 1 else f"{name}[{index}]", name, one, guess)


def _line(row, shown, name, value, guess):
    unit = _unit(name)
    measured = float(value) * unit if unit else None
    where = {"set": row.get("set", ""), "label": _label(row), "name": shown, "kind": _kind(row, name)}
    about = {"measured": measured, "source": row.get("source", "")}
    if isinstance(guess, str):
        return Line(**where, **about, predicted=None, digits=False, reason=guess)
    decimals = row.get("digits") or len(str(value).partition(".")[2])
    digits = round(guess / unit, decimals) == float(value)
    large = abs(guess / measured - 1) > LARGE
    reason = _reason(f"{where['set']} {name} {where['label']}") if large else ""
    return Line(**where, **about, predicted=guess, digits=digits, reason=reason)


def _reason(words):
    return next((reason for pattern, reason in _REASONS.items() if re.search(pattern, words)), "not named")


def _unit(name):
    """Bytes of the unit in a figure's name, None for a verdict."""
    return next((_UNITS[word] for word in name.split("_") if word in _UNITS), None)


def _kind(row, name):
    return (row.get("kinds") or {}).get(name) or row.get("kind") or KINDS[-1]


def _label(row):
    """A row in a few words."""
    if "minus" in row:
        return f"{row['model']}: {row['what']}"
    if "n_ctx" in row:
        return f"{row['cache']}, {_tokens(row['n_ctx'])}"
    if "input_tokens" in row:
        gpus = "" if row["gpus"] == "1" else f", {row['gpus']} GPUs"
        return f"{row['model'].removesuffix('-Instruct')} {row['format']}, {_tokens(int(row['input_tokens']))}{gpus}"
    if "tensor" in row:
        cut = " ".join(f"{word}={row[word]}" for word in ("tensor", "pipeline", "data") if row[word] > 1)
        return f"{row['model']}, {row['layers']} layers, {cut}"
    if "rank" in row:
        return f"{row['model'].rpartition('/')[2]} {row['quant']} {row['attn']}, {row['batch']} x {row['seq']:,}"
    words = (re.split(r" \(|, ", row.get(key, ""))[0] for key in ("model", "quant", "engine"))
    return ", ".join(word for word in words if word)


def _tokens(count):
    return f"{count:,} token{'s' * (count > 1)}"
