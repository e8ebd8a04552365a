"""The notebooks as pages: whole, without a network, every link leading somewhere."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from dsmem import site

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def folder(tmp_path):
    """Two small notebooks that hold one of everything."""
    new, markdown, code = nbformat.v4.new_notebook, nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    picture = nbformat.v4.new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": "one dot"}})
    widget = nbformat.v4.new_output("display_data", {site.WIDGET: {"model_id": "x"}, "text/plain": "VBox(children=())"})
    first = "[![Open In Colab](https://x/badge.svg)](https://x)\n\n# One & all\n\n**What you'll do.** *Count* a < b.\n"
    cells = [markdown(first), markdown("Costs $5 or `$x$`; $$\\frac{a}{b}$$ [next](b.ipynb#two)"), code("1 + 1")]
    cells[2].outputs = [picture, widget]
    nbformat.write(new(cells=cells), tmp_path / "a.ipynb")
    nbformat.write(new(cells=[markdown("# Two\n\n[back](a.ipynb)\n\n<a id='two'></a>")]), tmp_path / "b.ipynb")
    return tmp_path


def test_a_page_holds_what_its_notebook_holds(folder, capsys):
    assert site.main(["--out", str(folder / "out"), "--notebooks", str(folder)]) == 0
    assert "4 pages" in capsys.readouterr().out
    page, first = ((folder / "out" / name).read_text(encoding="utf-8") for name in ("a.html", "index.html"))
    assert "<mfrac>" in page and "$x$" in page and "badge" not in page and "VBox" not in page
    assert re.search(r"<img[^>]*one dot", page) and "Here are sliders that a kernel moves" in page
    assert "One &amp; all" in first and "Count a &lt; b." in first
    assert re.findall(r"<a href='([\w.]+)'", page) == ["index.html", "b.html"]


@pytest.mark.parametrize(
    ("hurt", "problem"),
    [
        (("b.html#two", "c.html"), "a.html: c.html leads to no page"),
        (("b.html#two", "b.html#three"), "a.html: b.html#three leads to no place"),
        (('alt="one dot"', 'alt=""'), "a.html: a picture without words"),
        (("data:image/png", "https://x/image.png"), "a.html: a picture that lies elsewhere"),
        (("</head>", "<script src='https://x/mathjax.js'></script>"), "a.html: needs a network"),
    ],
)
def test_what_is_broken_is_named(folder, hurt, problem):
    site.build(folder / "out", folder)
    page = folder / "out" / "a.html"
    assert site.broken(folder / "out") == []
    page.write_text(page.read_text(encoding="utf-8").replace(*hurt), encoding="utf-8")
    assert [found for found in site.broken(folder / "out") if found.startswith(problem)]


def test_a_folder_that_will_not_do_is_refused_in_a_sentence(tmp_path, capsys):
    assert site.main(["--out", str(tmp_path), "--notebooks", str(tmp_path)]) == 2
    (tmp_path / "x.ipynb").write_text("{}")
    assert site.main(["--out", str(tmp_path), "--notebooks", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "has no *.ipynb" in said[0] and "damaged" in said[1]


def test_the_series_is_whole(tmp_path):
    pages = site.build(tmp_path, NOTEBOOKS)
    assert len(pages) == 2 + len(list(NOTEBOOKS.glob("*.ipynb")))
    assert site.broken(tmp_path) == []
    for page in pages[2:]:
        text = page.read_text(encoding="utf-8")
        assert "VBox(children" not in text and "No description has been provided" not in text and "$$" not in text
    shutil.rmtree(tmp_path)
