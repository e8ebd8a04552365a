"""Fonts of a report: one for letters that Matplotlib's own lacks, and a word where a file could not show them."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager

from dsmem.units import as_text

ADVICE = "font='WenQuanYi Zen Hei', once installed (on Debian and Colab: apt-get install -y fonts-wqy-zenhei)"


def fonts_with(font: "str | Path | None", formats: Sequence[str]) -> dict[str, Any]:
    """Matplotlib's settings with another font behind its own, for the letters that they lack.

    font: the name of an installed font, also of one that was installed just now, or the path of its file; None for no
    other. formats: of the files to write. Raises ValueError for a font that is not there, and where a PDF is among the
    formats for one with PostScript outlines: Matplotlib embeds those in a way that not every reader shows.
    """
    if font is None:
        return {}
    if Path(as_text("font", str(font))).is_file():
        path = str(font)
        font_manager.fontManager.addfont(path)
        name = font_manager.FontProperties(fname=path).get_name()
    else:
        name, path = _installed(str(font))
    if "pdf" in formats and _has_postscript_outlines(path):
        raise ValueError(
            f"font={str(font)!r} has PostScript outlines, which not every reader of a PDF shows; it must be one with "
            f"TrueType outlines, such as {ADVICE}, or formats must be without 'pdf'"
        )
    return {"font.family": [*matplotlib.rcParams["font.family"], name]}


@contextlib.contextmanager
def every_letter() -> Iterator[None]:
    """A letter that no font has would be an empty box; it is a ValueError instead."""
    log = logging.getLogger("matplotlib.font_manager")  # a font in one weight only is no reason for a word
    before, log.disabled = log.disabled, True
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"Glyph \d+ .*missing")
        try:
            yield
        except UserWarning as missing:
            raise ValueError(
                f"labels hold a letter that no font here has ({missing}); {ADVICE}, or the path of a font's file "
                "brings it"
            ) from None
        finally:
            log.disabled = before


def _installed(name):
    """(name, path) of an installed font."""
    if name not in font_manager.fontManager.get_font_names():
        _look_again()
    known = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    if name not in known:
        first = name.split()[:1]
        near = [other for other in known if first and first[0].lower() in other.lower()]
        also = f"; near it: {', '.join(near)}" if near else ""
        raise ValueError(f"font={name!r} is neither an installed font nor a font's file{also}")
    return name, known[name]


def _look_again():
    """Add what was installed since Matplotlib was loaded; it keeps one list for as long as Python runs."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            with contextlib.suppress(OSError, RuntimeError):  # a file that FreeType cannot read
                font_manager.fontManager.addfont(path)


def _has_postscript_outlines(path):
    """Whether an OpenType file, or the first font of a collection, says so in its first four bytes."""
    with Path(path).open("rb") as file:
        head = file.read(16)
        file.seek(int.from_bytes(head[12:16]) if head[:4] == b"ttcf" else 0)
        return file.read(4) == b"OTTO"
