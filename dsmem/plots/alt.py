"""What a picture shows, in words: the alternative text of a figure, for those who cannot see it."""

import functools
from numbers import Real
from typing import Any

from dsmem.units import format_bytes


def alt_text(ax: Any) -> str:
    """The title of an Axes that dsmem drew, its scales, each series with its range, and its capacity lines."""
    title = " ".join(ax.get_title(loc="left").split())
    scales = [" ".join(label.split()) for label in (ax.get_xlabel(), ax.get_ylabel())]
    words = [title, "; ".join(f"{name}: {text}" for name, text in zip("xy", scales, strict=True) if text)]
    rows = getattr(ax, "dsmem_data", [])
    quantity = getattr(ax, "dsmem_unit", "bytes")
    series, renamed = dict.fromkeys(str(name) for name, *_ in rows), getattr(ax, "dsmem_renamed", {})
    for name in series:
        numbers = [number for other, _, number in rows if str(other) == name and isinstance(number, Real)]
        word = " ".join(str(renamed.get(name, name)).split())
        words.append(f"{word} {_range(numbers, quantity)}" if numbers else word)
    words += [f"dashed line: {' '.join(label.split())}" for label in getattr(ax, "dsmem_limits", {})]
    return ". ".join(word.rstrip(".") for word in words if word) + "."


def attach(figure: Any) -> None:
    """Let a notebook keep the alternative text of `figure` beside its picture, in the output's metadata."""
    figure._repr_mimebundle_ = functools.partial(_bundle, figure)


def figure_text(figure: Any) -> str:
    """The alternative texts of all Axes of a figure that dsmem drew."""
    return " ".join(alt_text(ax) for ax in figure.axes if hasattr(ax, "dsmem_data"))


def _bundle(figure, include=None, exclude=None):
    """No picture, which IPython draws itself, but the metadata that goes with it."""
    return {}, {"image/png": {"alt": figure_text(figure)}}


def _range(numbers, quantity):
    least, most = _words(min(numbers), quantity), _words(max(numbers), quantity)
    return least if least == most else f"from {least} to {most}"


def _words(number, quantity):
    return format_bytes(number) if quantity == "bytes" else f"{number:,.4g} {quantity}"
