"""`python -m dsmem.publish`: a fork's address gets everywhere, and nothing else changes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

import dsmem
from dsmem import publish

ROOT = Path(__file__).resolve().parents[1]
COLAB = "https://colab.research.google.com"
SET_UP = """import importlib.util
import pathlib

if importlib.util.find_spec("dsmem") is None:
    package = next(map(str, pathlib.Path().glob("dsmem-*.whl")), "git+https://github.com/dsmem/dsmem@v0.1.0")
    %pip install -q "{package}"
import dsmem"""
BADGE = f"[![Open In Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/dsmem/dsmem/blob/v0.1.0/notebooks/x.ipynb)"
PROSE = "See https://github.com/dsmem/dsmem/issues, https://github.com/dsmem/dsmem-data and https://github.com/pytorch/pytorch."
PRINTED = "git+https://github.com/dsmem/dsmem@v0.1.0"


def notebook():
    """A notebook with all that is rewritten, and with look-alikes that are not."""
    output = v4.new_output("stream", text=PRINTED + " é ✓\n")
    cells = [
        v4.new_markdown_cell(f'{BADGE}\n\n# Try é ✓ \\ "quotes" [a] and ]\n\n{PROSE}', id="c01"),
        v4.new_code_cell(SET_UP, id="c02"),
        v4.new_code_cell("%pip install git+https://github.com/other/tool@v3", id="c03", outputs=[output]),
    ]
    return v4.new_notebook(cells=cells, metadata={"note": PRINTED})


@pytest.fixture
def project(tmp_path):
    """A copy of what the command reads, with one more notebook, pointed at dsmem/dsmem v0.1.0."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "dsmem").mkdir()
    (tmp_path / "dsmem" / "__init__.py").write_text('__version__ = "0.1.0"\n', encoding="utf-8")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    nbformat.write(notebook(), tmp_path / "notebooks" / "x.ipynb")
    readme = tmp_path / "README.md"
    readme.write_text(
        readme.read_text(encoding="utf-8") + f"\n{BADGE}\n{PROSE}\n`pip install {PRINTED}`\n", encoding="utf-8"
    )
    assert run(tmp_path, "dsmem/dsmem") == 0
    return tmp_path


def run(project, *arguments):
    return publish.main([*arguments, "--root", str(project)])


def contents(project):
    return {path: path.read_bytes() for path in sorted(project.rglob("*")) if path.is_file()}


def read(project):
    return nbformat.read(project / "notebooks" / "x.ipynb", as_version=4)


def test_the_committed_files_agree(capsys):
    badges = [
        publish.BADGE.search(path.read_text(encoding="utf-8"))[0] for path in (ROOT / "notebooks").glob("*.ipynb")
    ]
    tag = badges[0].split("/")[-2]
    assert publish.main(["--check", "--tag", tag, "--root", str(ROOT)]) == 0, capsys.readouterr().out
    assert tag == f"v{dsmem.__version__}" or not re.match(r"v\d", tag)  # a fork may well name a branch


def test_a_fork_gets_into_badges_set_up_cells_and_links(project):
    assert run(project, "ada/memory", "--tag", "main") == 0
    badge, set_up, _ = read(project).cells
    assert f"({COLAB}/github/ada/memory/blob/main/notebooks/x.ipynb)" in badge.source
    assert "https://github.com/ada/memory/issues" in badge.source
    assert set_up.source == SET_UP.replace("dsmem/dsmem@v0.1.0", "ada/memory@main")
    assert 'Repository = "https://github.com/ada/memory"' in (project / "pyproject.toml").read_text(encoding="utf-8")


def test_a_fork_gets_into_the_readme(project):
    run(project, "ada/memory", "--tag", "main")
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert "`pip install git+https://github.com/ada/memory@main`" in readme
    assert f"{COLAB}/github/ada/memory/blob/main/" in readme
    assert "https://github.com/ada/memory/issues" in readme
    assert "https://github.com/dsmem/dsmem-data" in readme


def test_nothing_else_of_a_notebook_changes(project):
    before = read(project)
    run(project, "ada/memory")
    after = read(project)
    assert "https://github.com/dsmem/dsmem-data and https://github.com/pytorch/pytorch." in after.cells[0].source
    assert after.cells[2] == before.cells[2]
    assert after.metadata == before.metadata
    for cell in (*before.cells, *after.cells):
        cell.source = ""
    assert after == before


def test_a_second_time_changes_nothing(project, capsys):
    run(project, "ada/memory", "--tag", "v2")
    once = contents(project)
    assert run(project, "ada/memory", "--tag", "v2") == 0
    assert contents(project) == once
    assert capsys.readouterr().out.endswith("All files agree.\n")


@pytest.mark.parametrize("fork", ["ada/memory", "dsmem/dsmem-lab", "ada/dsmem", "dsmem/dsmem.org", "a-b/c_d.e"])
def test_there_and_back_gives_the_same_bytes(project, fork):
    before = contents(project)
    run(project, fork, "--tag", "main")
    assert contents(project) != before
    run(project, "dsmem/dsmem")
    assert contents(project) == before


def indented(text):
    return json.dumps(json.loads(text), indent=2)


def with_source_as_text(text):
    cells = json.loads(text)
    for cell in cells["cells"]:
        cell["source"] = "".join(cell["source"])
    return json.dumps(cells, ensure_ascii=False)


@pytest.mark.parametrize("layout", [indented, with_source_as_text, lambda text: text.replace("\n", "\r\n")])
def test_another_way_to_lay_out_a_notebook_stays(project, layout):
    path = project / "notebooks" / "x.ipynb"
    path.write_bytes(layout(path.read_text(encoding="utf-8")).encode("utf-8"))
    wanted = path.read_bytes().decode("utf-8")
    run(project, "ada/memory", "--tag", "v0.1.0")
    for old in ("github/dsmem/dsmem/blob", "github.com/dsmem/dsmem/issues", '\\"git+https://github.com/dsmem/dsmem@'):
        assert wanted.count(old) == 1
        wanted = wanted.replace(old, old.replace("dsmem/dsmem", "ada/memory"))
    assert path.read_bytes().decode("utf-8") == wanted


def test_the_tag_is_the_version_unless_given(project):
    (project / "dsmem" / "__init__.py").write_text('__version__ = "7.8.9"\n', encoding="utf-8")
    run(project, "ada/memory")
    assert "ada/memory@v7.8.9" in read(project).cells[1].source


def test_check_finds_what_disagrees_and_writes_nothing(project, capsys):
    before = contents(project)
    assert run(project, "--check") == 0
    assert run(project, "ada/memory", "--check") == 1
    assert contents(project) == before
    out = capsys.readouterr().out
    assert (
        "disagrees: notebooks/x.ipynb\n" in out
        and "disagrees: README.md\n" in out
        and "disagrees: pyproject.toml\n" in out
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("github/dsmem/dsmem/blob", "github/ada/memory/blob"),
        ("blob/v0.1.0", "blob/main"),
        ("dsmem/dsmem@", "ada/memory@"),
    ],
)
def test_check_finds_one_place_that_was_forgotten(project, capsys, old, new):
    path = project / "notebooks" / "x.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    assert run(project, "--check") == 1
    assert capsys.readouterr().out.count("disagrees") == 1
    assert run(project) == 0  # and the command mends it
    assert run(project, "--check") == 0


@pytest.mark.parametrize(
    "name",
    [
        "",
        "memory",
        "ada/",
        "/memory",
        "ada/memory/x",
        "https://github.com/ada/memory",
        "ada/mem ory",
        "ada/x.git",
        "ä/b",
        "a/..",
    ],
)
def test_what_is_not_an_owner_and_repository_is_refused(project, capsys, name):
    before = contents(project)
    assert run(project, name) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and repr(name) in said and "ada/dsmem" in said
    assert contents(project) == before


def test_a_bad_tag_is_refused(project, capsys):
    assert run(project, "ada/memory", "--tag", "a/b") == 2
    assert "--tag='a/b' is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"cells": 3}', b'{"cells": [{}]}', b'{"worksheets": []}']
)
def test_a_damaged_notebook_is_named_and_nothing_is_written(project, capsys, damage):
    (project / "notebooks" / "zz.ipynb").write_bytes(damage)
    before = contents(project)
    assert run(project, "ada/memory") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "zz.ipynb is damaged" in said
    assert contents(project) == before


def test_no_notebooks_is_said(project, capsys):
    shutil.rmtree(project / "notebooks")
    assert run(project, "ada/memory") == 2
    assert "has no notebooks/*.ipynb" in capsys.readouterr().err


def test_no_project_is_said(tmp_path, capsys):
    assert run(tmp_path, "ada/memory") == 2
    assert "pyproject.toml cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[project", "has no Repository"),
        ("[project]\n", "has no Repository"),
        ('[project.urls]\nRepository = "https://example.org/a/b"\n', "is not an address on GitHub"),
        ("[project.urls]\nRepository = 3\n", "is not an address on GitHub"),
    ],
)
def test_a_pyproject_without_an_address_is_said(project, capsys, text, said):
    (project / "pyproject.toml").write_text(text, encoding="utf-8")
    assert run(project, "ada/memory") == 2
    assert said in capsys.readouterr().err


def test_a_package_without_version_is_said(project, capsys):
    (project / "dsmem" / "__init__.py").write_text("", encoding="utf-8")
    assert run(project, "ada/memory") == 2
    assert "has no __version__" in capsys.readouterr().err


def test_it_runs_as_a_module(project):
    command = [sys.executable, "-m", "dsmem.publish", "ada/memory", "--check", "--root", str(project)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
