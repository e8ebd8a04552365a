"""Letters that Matplotlib's own font lacks: from an installed font or a file, as text, or refused."""

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

import dsmem
from dsmem import plots

LETTER = "权"
CHINESE = ("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "SimHei", "Microsoft YaHei")


@pytest.fixture
def ax():
    ax = Figure(figsize=(7.5, 3), layout="constrained").subplots()
    return plots.plot_stack({"7B": {"weights": 14 * 2**30, "logits": 2**30}}, ax=ax, title="Weights win")


@pytest.fixture(autouse=True)
def _same_fonts_afterwards():
    before = list(font_manager.fontManager.ttflist)
    yield
    font_manager.fontManager.ttflist[:] = before
    font_manager.fontManager._findfont_cached.cache_clear()


def built(path, name, pen):
    """A font with one letter, a square."""
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    postscript = isinstance(pen, T2CharStringPen)
    shape = pen.getCharString() if postscript else pen.glyph()
    font, glyphs = FontBuilder(1000, isTTF=not postscript), [".notdef", "square"]
    font.setupGlyphOrder(glyphs)
    font.setupCharacterMap({ord(LETTER): "square"})
    outlines = dict.fromkeys(glyphs, shape)
    font.setupCFF(name.replace(" ", ""), {}, outlines, {}) if postscript else font.setupGlyf(outlines)
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": name, "styleName": "Regular", "psName": name.replace(" ", "")})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


def test_a_chinese_figure_holds_its_words_as_text(ax, tmp_path, caplog):
    font = next((name for name in CHINESE if name in font_manager.fontManager.get_font_names()), None)
    if font is None:
        pytest.skip("no Chinese font is installed here")
    labels = {"weights": "权重", "memory": "显存", "Weights win": "峰值由什么组成"}
    with matplotlib.rc_context({"pdf.compression": 0}):
        pdf, svg, png, *_ = dsmem.save_report(ax, "a", folder=tmp_path, labels=labels, font=font)
    data, text = pdf.read_bytes(), svg.read_text(encoding="utf-8")
    assert all(f"<{ord(letter):04x}>" in data.decode("latin-1").lower() for word in labels.values() for letter in word)
    assert font.replace(" ", "").encode() in data and data.count(b"/FontFile2") == 2
    assert all(f">{word}" in text for word in labels.values()) and font in text
    assert png.stat().st_size > 10_000 and not caplog.records


def test_the_words_of_the_files_are_those_of_the_picture(ax, tmp_path):
    labels = {"weights": "Gewichte", "memory": "Speicher", "Weights win": "Vor allem Gewichte"}
    svg, *_, text = dsmem.save_report(ax, "a", folder=tmp_path, formats=["svg"], labels=labels, caption="Bild 1")
    words = "Vor allem Gewichte. x: Speicher (GiB). Gewichte 14.00 GiB. logits 1.00 GiB."
    assert text.read_text(encoding="utf-8") == f"Bild 1\n\n{words}\n"
    assert words in svg.read_text(encoding="utf-8") and "Weights" not in svg.read_text(encoding="utf-8")


def test_a_font_that_was_installed_just_now_is_found(ax, tmp_path, monkeypatch):
    path = built(tmp_path / "now.ttf", "Just Now", TTGlyphPen(None))
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"not a font")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(broken), str(path)])
    how = {"folder": tmp_path, "labels": {"weights": LETTER}, "font": "Just Now"}
    pdf, svg, *_ = dsmem.save_report(ax, "a", **how)
    assert b"JustNow" in pdf.read_bytes() and f">{LETTER}<" in svg.read_text(encoding="utf-8")


def test_a_font_that_not_every_reader_of_a_pdf_shows_is_refused(ax, refuses, tmp_path):
    """MuPDF leaves out every letter of such a font as Matplotlib embeds it, without a word."""
    path = built(tmp_path / "outlines.otf", "Post Script", T2CharStringPen(800, None))
    how = {"folder": tmp_path / "report", "labels": {"weights": LETTER}, "font": path}
    refuses(lambda: dsmem.save_report(ax, "a", **how), "font=", "PostScript", "TrueType", "WenQuanYi", "without 'pdf'")
    assert not list((tmp_path / "report").iterdir())
    svg, *_ = dsmem.save_report(ax, "a", formats=["svg", "png"], **how)
    assert f">{LETTER}<" in svg.read_text(encoding="utf-8")
