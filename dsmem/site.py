"""The notebooks as pages that need no kernel and no network: `python -m dsmem.site --out site`.

Each page holds what its notebook holds, outputs included: pictures lie inside it, equations are MathML, and explorers
that are drawn in the page stay alive. Sliders that need a kernel say so. Links and pictures are checked.
"""

import argparse
import html
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsmem import teaching
from dsmem.teaching import NOTEBOOKS

STYLE = Path(__file__).with_name("site.css")
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL_ONLY = (
    "<p class='kernel-only'>Here are sliders that a kernel moves: open the notebook in JupyterLab or Colab.</p>"
)
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(?!\s)([^$\n]+?)(?<!\s)\$", re.DOTALL)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<nav>{nav}</nav>
<main>
{body}
</main>
</body>
</html>
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 a link or picture is broken, 2 an error."""
    parser = argparse.ArgumentParser(prog="python -m dsmem.site", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("site"), help="folder of the pages (default: site)")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, help="folder of the notebooks")
    options = parser.parse_args(arguments)
    try:
        pages = build(options.out, options.notebooks)
    except (OSError, ValueError, ImportError) as error:
        print(f"dsmem.site: {error}", file=sys.stderr)
        return 2
    problems = broken(options.out)
    print("\n".join(problems or [f"{len(pages)} pages; open {options.out / 'index.html'}"]))
    return 1 if problems else 0


def build(out: Path | str, notebooks: Path | str = NOTEBOOKS) -> list[Path]:
    """Write a page for each notebook of a folder, and a first page that lists them; returns their paths.

    Raises ValueError for a folder without notebooks, or a damaged one; ImportError, in one sentence, where nbconvert or
    latex2mathml is missing.
    """
    import nbformat
    from tqdm.auto import tqdm

    found = sorted(Path(notebooks).glob("*.ipynb"))
    if not found:
        raise ValueError(f"--notebooks={str(notebooks)!r} has no *.ipynb; it must be the folder that holds them")
    exporter, out = _exporter(), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    pages = []
    for number, path in enumerate(tqdm(found, desc="pages", disable=None)):
        try:
            notebook = nbformat.read(path, as_version=4)
        except Exception as error:
            raise ValueError(f"{path} is damaged; it must be a notebook ({error})") from None
        pages.append((path.with_suffix(".html").name, _title(notebook), _promise(notebook)))
        before, after = (found[n] if 0 <= n < len(found) else None for n in (number - 1, number + 1))
        body, _ = exporter.from_notebook_node(_still(notebook))
        _write(out / pages[-1][0], pages[-1][1], _nav(before, after), _linked(body))
    items = "".join(f"<li><a href='{name}'>{html.escape(title)}</a>. {promise}</li>" for name, title, promise in pages)
    heading = "<h1>dsmem: where the memory goes when a language model runs</h1>"
    teach = "<p><a href='teaching.html'>For whoever teaches</a>: minutes, paths, what to say.</p>"
    _write(out / "index.html", "dsmem", "", f"{heading}\n<ol start='0'>{items}</ol>\n{teach}")
    _write(out / "teaching.html", "For whoever teaches", _nav(None, None), _linked(teaching.page(notebooks)))
    return [out / "index.html", out / "teaching.html", *(out / name for name, *_ in pages)]


def broken(folder: Path | str) -> list[str]:
    """What is wrong with the pages of a folder: links to nowhere, pictures without words, what needs a network."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob("*.html"))}
    ids = {name: set(re.findall(r"""\bid=["']([^"']+)""", html.unescape(text))) for name, text in texts.items()}
    problems = []
    for name, text in texts.items():
        for link in re.findall(r"""<a\b[^>]*\bhref=["']([^"']+)""", text):
            page, _, anchor = link.partition("#")
            if "://" in link or link.startswith("mailto:"):
                continue
            if (page or name) not in texts:
                problems.append(f"{name}: {link} leads to no page")
            elif anchor and html.unescape(anchor) not in ids[page or name]:
                problems.append(f"{name}: {link} leads to no place on that page")
        for picture in re.findall(r"<img\b[^>]*>", text):
            if not re.search(r"""\balt=["'][^"']""", picture):
                problems.append(f"{name}: a picture without words: {picture[:60]}")
            if "shields" not in picture and not re.search(r"""\bsrc=["']data:""", picture):
                problems.append(f"{name}: a picture that lies elsewhere: {picture[:90]}")
        problems += [
            f"{name}: needs a network: {tag}" for tag in re.findall(r"<(?:script|link)\b[^>]*https?:[^>]*>", text)
        ]
    return problems


def _exporter() -> Any:
    try:
        import latex2mathml.converter  # noqa: F401
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise ImportError(f"{error.name} is missing; pip install 'dsmem[site]' brings it") from None
    exporter = HTMLExporter(template_name="basic")
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    return exporter


def _still(notebook):
    """The notebook with equations as MathML, without what only Colab or a kernel can use."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(re.sub(r"^\[!\[Open In Colab\].*\n", "", cell.source))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if WIDGET in data:
                del data[WIDGET]
                data["text/html"] = data.get("text/html", "") + KERNEL_ONLY
            if "text/markdown" in data:
                data["text/markdown"] = with_mathml(data["text/markdown"])
    return notebook


def with_mathml(markdown: str) -> str:
    """Markdown whose equations between dollar signs are MathML; code stays as it is.

    >>> with_mathml("`$x`, $x$")
    '`$x`, <math xmlns="http://www.w3.org/1998/Math/MathML" display="inline"><mrow><mi>x</mi></mrow></math>'
    """
    from latex2mathml.converter import convert

    def equation(match):
        shown = "block" if match[1] else "inline"
        return convert(" ".join((match[1] or match[2]).split()), display=shown).replace("\n", "")

    pieces = _CODE.split(markdown)
    return "".join(piece if number % 2 else _MATH.sub(equation, piece) for number, piece in enumerate(pieces))


def _linked(body):
    """Links to notebooks lead to pages, and tables may be scrolled on a phone."""
    body = re.sub(r"""(href=["'])([\w.-]+)\.ipynb\b""", r"\1\2.html", body)
    return body.replace("<table", "<div class='wide'><table").replace("</table>", "</table></div>")


def _nav(before, after):
    links = [("index.html", "", "Contents")]
    if before:
        links.append((before.with_suffix(".html").name, "", f"← {before.stem[:2]}"))
    if after:
        links.append((after.with_suffix(".html").name, "next", f"{after.stem[:2]} →"))
    return "".join(f"<a href='{name}' class='{kind}'>{text}</a>" for name, kind, text in links)


def _write(path, title, nav, body):
    style = STYLE.read_text(encoding="utf-8") + _code_style()
    path.write_text(_PAGE.format(title=html.escape(title), style=style, nav=nav, body=body), encoding="utf-8")


def _code_style():
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style="friendly").get_style_defs(".highlight")


def _title(notebook):
    """The first heading."""
    return next(re.findall(r"^# (.+)$", cell.source, re.MULTILINE)[0] for cell in notebook.cells if "# " in cell.source)


def _promise(notebook):
    """What one will do, as the first cell says it."""
    said = re.search(r"\*\*What you'll do\.\*\*\s*(.+?)(?:\n\n|$)", notebook.cells[0].source, re.DOTALL)
    return html.escape(" ".join(said[1].replace("*", "").replace("`", "").split())) if said else ""


if __name__ == "__main__":
    sys.exit(main())
