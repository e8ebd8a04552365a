"""The house: which room may import from which, and how large a file may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "dsmem"
GROUND = {"units", "table", "_lazy"}
MAY_IMPORT = {
    "formulas": set(),
    "memory": set(),
    "config": {"formulas"},
    "footprint": {"formulas", "config"},
    "model": {"config"},
    "serving": {"formulas", "config", "footprint", "model", "memory"},
    "plots": {"formulas", "config", "footprint", "memory"},
    "runs": {"formulas", "config", "footprint", "model", "memory", "plots"},
    "check": {"formulas", "config", "footprint", "model", "memory", "serving", "plots"},
}
FILES = sorted(ROOT.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())


def room_of(path):
    """The room that a file lies in; "" for those on the ground floor."""
    first, *rest = path.relative_to(ROOT).parts
    return first if rest else ""


def imported_rooms(path):
    """The first names below `dsmem` that a file imports from, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "dsmem":
            names = [f"dsmem.{alias.name}" for alias in node.names]
        else:
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        yield from (name.split(".")[1] for name in names if name.startswith("dsmem."))


@every_file
def test_imports_run_down(path):
    room = room_of(path)
    if not room:
        return
    allowed = {room} | MAY_IMPORT[room] | GROUND | {"__version__"}
    assert sorted(set(imported_rooms(path)) - allowed) == []


def test_the_ground_floor_needs_no_room():
    for path in (ROOT / "units.py", ROOT / "table.py", ROOT / "_lazy.py"):
        assert set(imported_rooms(path)) <= GROUND


def test_no_room_is_missing_and_no_arrow_goes_round():
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == set(MAY_IMPORT)
    assert all(a not in MAY_IMPORT[b] for a, rooms in MAY_IMPORT.items() for b in rooms)


def test_only_plots_has_matplotlib_and_only_widgets_ipywidgets():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "matplotlib" not in text.partition('"""')[2].partition('"""')[2] or room_of(path) == "plots", path
        assert "import ipywidgets" not in text or path.name == "widgets.py", path


@every_file
def test_a_file_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
