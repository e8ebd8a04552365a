"""A recording on one screen: where it was made, what agreed, what did not, and how to go on."""

import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

from dsmem.runs.cells import question_text
from dsmem.runs.recordings import Recording, error_report
from dsmem.units import format_bytes

HEIGHT = 22  # of a screen of 24 lines, the empty one and the next prompt apart
FAILURES = 3  # so many are shown of each kind, at most


def summary(recording: Recording, cells: list[tuple]) -> str:
    """What a `Recording` says, on one screen; cells: all that were asked for, so that it can say how many are left.

    The screen has 24 lines of 80 to 120 columns, as the terminal has; where it does not suffice, fewer failures show.
    """
    width = min(max(shutil.get_terminal_size((120, 24)).columns, 80), 120) - 1
    left = len(recording.left(cells))
    for shown in range(FAILURES, -1, -1):
        lines = [*_lines(recording.content, width, shown), *_end(recording, len(cells), left)]
        # a terminal breaks what is left longer than its width: a path, which must stay in one piece to be copied
        if sum(-(-len(line) // width) for line in lines) <= HEIGHT:
            break
    return "\n".join(["", *lines])


def _lines(run, width, shown):
    """All but the end, wrapped; `shown`: so many failures of each kind."""
    said = [*_where(run["provenance"]), *_memory(run)]
    lines = [part for line in said for part in textwrap.wrap(line, width, subsequent_indent="  ")]
    lines += [*_tests(run.get("tests"), width, shown), *_compared(run, width, shown)]
    return [*lines, *_rates(run.get("rates", []), width, max(shown, 1))]


def _end(recording, count, left):
    yield f"{count - left} of {count} cells have an answer; the file is {recording.path}"
    if left:
        yield f"go on with: python -m dsmem.runs gpu{_device(recording.content)} --resume {recording.path}"


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


def _tests(tests: dict[str, Any] | None, width: int, shown: int) -> Iterator[str]:
    if not tests:
        yield "tests: not run"
        return
    counts = ", ".join(f"{count} {word}" for word, count in tests.get("counts", {}).items())
    yield f"tests: {tests['outcome']}; {counts} in {tests.get('seconds', 0):.0f} s"
    yield from _few(tests.get("failed", []), width, shown)


def _compared(run: dict[str, Any], width: int, shown: int) -> Iterator[str]:
    """What `error_report` says, and the failures by their reasons, each with the first cell that it met."""
    for line in error_report(run).splitlines()[1:]:  # the first says what stands at both ends here
        if not line.startswith("  failed"):
            yield from textwrap.wrap(line, width, max_lines=1, placeholder=" ...")
    reasons = {}
    for cell in run["cells"]:
        if cell["outcome"].startswith("failed"):
            reasons.setdefault(cell["outcome"].removeprefix("failed: "), []).append(cell)
    if reasons:
        yield f"{sum(map(len, reasons.values()))} cells failed, and --resume tries them again:"
        yield from _few(
            [f"{len(cells)} x {why}; {question_text(cells[0])}" for why, cells in reasons.items()], width, shown, 2
        )


def _few(lines: list[str], width: int, shown: int, height: int = 1) -> Iterator[str]:
    """The first `shown` lines, each on at most so many lines of the screen."""
    how = {"initial_indent": "  ", "subsequent_indent": "    ", "max_lines": height, "placeholder": " ..."}
    for line in lines[:shown]:
        yield from textwrap.wrap(line, width, **how)
    if len(lines) > shown:
        yield f"  and {len(lines) - shown} more" if shown else f"  {len(lines)}, which stand in the file"


def _rates(rates: list[dict], width: int, height: int) -> Iterator[str]:
    """Tokens a second of each model: in each format the prefill, then decode steps by batch."""
    for name in dict.fromkeys(one["model"] for one in rates):
        own = [one for one in rates if one["model"] == name]
        said = [f"{one['works'][0]['weights']} {_numbers(one)}" for one in own]
        batches = [work["batch"] for work in own[0]["works"][1:]]
        line = f"tokens/s of {name} (prefill; decode by {batches}): {'; '.join(said)}"
        yield from textwrap.wrap(line, width, subsequent_indent="  ", max_lines=height, placeholder=" ...")


def _numbers(rate):
    """Rates as text, of slow models too; why there are none in a few words."""
    values = rate.get("tokens_per_second", [])
    said = " ".join(f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in values)
    return said or textwrap.shorten(rate["outcome"], 40, placeholder=" ...")


def _device(run):
    """The option that names the device where it is not the GPU."""
    device = run["provenance"]["device"].partition(" tensors")[0]
    return "" if run["provenance"]["capability"] else f" --device {device}"
