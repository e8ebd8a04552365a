"""What every committed notebook keeps to, so that it reads well on GitHub, in JupyterLab and on Colab."""

import re
import statistics
import tomllib
from pathlib import Path

import nbformat
import pytest

from dsmem.check.claims.claim import VERDICTS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]
REPOSITORY = ADDRESS.removeprefix("https://github.com/")

KNOWN_TAGS = {"nbval-check-output", "nbval-ignore-output", "raises-exception"}  # nbval-skip is not among them
TOP_FOLDERS = "content|etc|home|mnt|opt|private|root|srv|tmp|usr|Users|var|work|workspace"
ABSOLUTE_PATH = re.compile(rf"(?<![\w.:/\\)}}<+-])/(?:{TOP_FOLDERS})\b|\b[A-Z]:\\(?:Users|Windows|Program|Temp)")
BADGE = re.compile(r"https://colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/[\w.-]+/([\w./-]+)")

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)


def read(path):
    """The notebook at `path`, checked against the format's own schema."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook):
    """The code cells that hold something."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def code_lines(cell):
    """The lines of a cell that hold something."""
    return [line for line in cell.source.splitlines() if line.strip()]


def outputs(notebook):
    """Every output of every cell, in order."""
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def texts(notebook):
    """All that a reader can read: sources and the textual outputs, images left out."""
    for cell in notebook.cells:
        yield cell.source
    for output in outputs(notebook):
        yield output.get("text", "")
        yield from (str(value) for kind, value in output.get("data", {}).items() if "image/" not in kind)


@every_notebook
def test_ran_once_from_top_to_bottom(path):
    counts = [cell.execution_count for cell in code_cells(read(path))]
    assert counts == list(range(1, len(counts) + 1))


@every_notebook
def test_holds_no_error_and_no_warning(path):
    unwelcome = [o for o in outputs(read(path)) if o.output_type == "error" or o.get("name") == "stderr"]
    assert unwelcome == []


@every_notebook
def test_a_saved_widget_is_an_explorer(path):
    """A progress bar that was left in an output looks like sliders that do not move."""
    widget = "application/vnd.jupyter.widget-view+json"
    saved = [o.data["text/plain"] for o in outputs(read(path)) if widget in o.get("data", {})]
    assert all(text.startswith("Explorer(") for text in saved)


@every_notebook
def test_metadata_suits_github_and_colab(path):
    metadata = read(path).metadata
    assert "widgets" not in metadata  # GitHub shows no notebook at all where a widget's state is saved
    assert metadata.kernelspec.name == "python3"
    assert (metadata.accelerator, metadata.colab.gpuType) == ("GPU", "T4")


@every_notebook
def test_opens_with_badge_and_title(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert BADGE.findall(first.source) == [(REPOSITORY, f"notebooks/{path.name}")]
    assert re.search(r"^# \S", first.source, re.MULTILINE)


@every_notebook
def test_names_no_other_repository_of_this_project(path):
    sources = "\n".join(cell.source for cell in read(path).cells)
    installs = re.findall(r"git\+([^\s@#\"']+)", sources)
    assert {repository for repository, _ in BADGE.findall(sources)} == {REPOSITORY}
    assert {address.removesuffix(".git") for address in installs} <= {ADDRESS}


@every_notebook
def test_names_no_path_of_one_machine(path):
    found = [match.group() for text in texts(read(path)) for match in ABSOLUTE_PATH.finditer(text)]
    assert found == []


@every_notebook
def test_is_small_enough_to_show(path):
    assert path.stat().st_size < 1_000_000


@every_notebook
def test_code_comes_in_small_steps(path):
    lengths = [len(code_lines(cell)) for cell in code_cells(read(path))]
    assert max(lengths) <= 25
    assert statistics.median(lengths) <= 5
    assert sum(length <= 10 for length in lengths) >= 0.9 * len(lengths)


@every_notebook
def test_about_half_is_prose(path):
    cells = read(path).cells
    assert sum(cell.cell_type == "markdown" for cell in cells) >= 0.35 * len(cells)


@every_notebook
def test_tags_are_known_and_skip_nothing(path):
    tags = {tag for cell in read(path).cells for tag in cell.metadata.get("tags", [])}
    assert tags <= KNOWN_TAGS


@every_notebook
def test_code_hides_no_output_and_calls_no_show(path):
    lines = [line for cell in code_cells(read(path)) for line in code_lines(cell)]
    assert [line for line in lines if line.rstrip().endswith(";") or "plt.show" in line] == []


def test_there_are_notebooks():
    assert PATHS


@pytest.mark.parametrize(
    "text",
    [
        "see /home/ada/x.py",
        "'/tmp'",
        'File "/usr/lib/python3"',
        r"C:\Users\ada",
        "(/content/data)",
        "/root/.cache",
    ],
)
def test_a_path_of_one_machine_is_recognised(text):
    assert ABSOLUTE_PATH.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://x.org/home/a",
        "../data/models",
        "tokens/work",
        r"x:\quad y",
        "a /usable b",
        r"\frac{a}{b}/work",
        "</var>",
        "bytes/(root)",
    ],
)
def test_other_slashes_are_no_path(text):
    assert not ABSOLUTE_PATH.search(text)


@every_notebook
def test_a_verdict_is_one_of_the_words_that_all_notebooks_share(path):
    for cell in read(path).cells:
        tables = re.findall(r"^\|[^\n]*\| verdict \|\n((?:\|[^\n]*\n?)+)", cell.source, re.MULTILINE)
        rows = [row for table in tables for row in table.splitlines()[1:]]
        words = [re.findall(r"\*\*(.+?)\*\*", row.rstrip(" |").rpartition(" | ")[2]) for row in rows]
        assert [word for word in words if not word or word[0] not in VERDICTS] == []
