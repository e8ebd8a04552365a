"""A recording on one screen: where it was made, what agreed, what did not, and how to go on."""

import textwrap
from collections.abc import Iterator
from typing import Any

from dsmem.runs.cells import question_text
from dsmem.runs.recordings import Recording, error_report
from dsmem.units import format_bytes

WIDTH = 118
FAILURES = 3  # so many are shown of each kind


def summary(recording: Recording, cells: list[tuple]) -> str:
    """Some 20 lines on a `Recording`; cells: all that were asked for, so that it can say how many are left."""
    run = recording.content
    left = len(recording.left(cells))
    lines = [*_where(run["provenance"]), *_memory(run), *_tests(run.get("tests")), *_compared(run)]
    lines += _rates(run.get("rates", []))
    lines.append(f"{len(cells) - left} of {len(cells)} cells have an answer; the file is {recording.path}")
    if left:
        lines.append(f"go on with: python -m dsmem.runs gpu{_device(run)} --resume {recording.path}")
    return "\n".join(["", *lines])


def _where(made: dict[str, Any]) -> Iterator[str]:
    yield f"{made['device']}, driver {made['driver']}, torch {made['torch']}, transformers {made['transformers']}"
    settings = made["environment"] or "no settings in the environment"
    yield f"commit {made['commit']}, source {made['source']}, {made['date']}; {settings}"


def _memory(run: dict[str, Any]) -> Iterator[str]:
    """What others hold of the GPU, what a context takes, and the workspace."""
    made, context = run["provenance"], run.get("context_bytes")
    if not made["capability"]:
        return
    used, total = (format_bytes(made[name]) for name in ("used_before_bytes", "total_bytes"))
    if isinstance(context, int):
        others = format_bytes(made["used_before_bytes"] - context)
        said = f"a context takes {format_bytes(context)}, other processes {others}"
    else:
        said = f"a context's bytes are not known: {(context or {}).get('outcome', 'not measured')}"
    yield f"before the first tensor {used} of {total} were used; {said}"
    kept = made["workspace"]["measured"]
    yield f"cuBLAS keeps {format_bytes(kept) if isinstance(kept, int) else kept}; attention runs on {made['attention']}"
    if not isinstance(kept, int) or kept <= 0:
        yield "WARNING: no workspace is kept between products, so allocated and reserved bytes are not predicted"


def _tests(tests: dict[str, Any] | None) -> Iterator[str]:
    if not tests:
        yield "tests: not run"
        return
    counts = ", ".join(f"{count} {word}" for word, count in tests.get("counts", {}).items())
    yield f"tests: {tests['outcome']}; {counts} in {tests.get('seconds', 0):.0f} s"
    yield from _few(tests.get("failed", []))


def _compared(run: dict[str, Any]) -> Iterator[str]:
    """What `error_report` says, and the failures by their reasons, each with the first cell that it met."""
    for line in error_report(run).splitlines():
        if not line.startswith("  failed"):
            yield from textwrap.wrap(line, WIDTH, subsequent_indent="    ")
    reasons = {}
    for cell in run["cells"]:
        if cell["outcome"].startswith("failed"):
            reasons.setdefault(cell["outcome"].removeprefix("failed: "), []).append(cell)
    if reasons:
        yield f"{sum(map(len, reasons.values()))} cells failed, and --resume tries them again:"
        yield from _few([f"{len(cells)} x {why}; {question_text(cells[0])}" for why, cells in reasons.items()], 2)


def _few(lines: list[str], height: int = 1) -> Iterator[str]:
    """The first lines, each on at most so many lines of the screen."""
    how = {"initial_indent": "  ", "subsequent_indent": "    ", "max_lines": height, "placeholder": " ..."}
    for line in lines[:FAILURES]:
        yield from textwrap.wrap(line, WIDTH, **how)
    if len(lines) > FAILURES:
        yield f"  and {len(lines) - FAILURES} more"


def _rates(rates: list[dict]) -> Iterator[str]:
    """Tokens a second of each model: in each format the prefill, then decode steps by batch."""
    for name in dict.fromkeys(one["model"] for one in rates):
        own = [one for one in rates if one["model"] == name]
        said = [f"{one['works'][0]['weights']} {_numbers(one)}" for one in own]
        batches = [work["batch"] for work in own[0]["works"][1:]]
        line = f"tokens/s of {name} (prefill; decode of batch {batches}): {'; '.join(said)}"
        yield from textwrap.wrap(line, WIDTH, subsequent_indent="  ")


def _numbers(rate):
    return " ".join(f"{value:,.0f}" for value in rate.get("tokens_per_second", [])) or rate["outcome"]


def _device(run):
    """The option that names the device where it is not the GPU."""
    device = run["provenance"]["device"].partition(" tensors")[0]
    return "" if run["provenance"]["capability"] else f" --device {device}"
