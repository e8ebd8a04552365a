"""In JupyterLab in a real browser: each notebook with sliders runs, a control moves, and its picture follows."""

import shutil
from pathlib import Path

import pytest
from browser import browser, jupyterlab, needs_browser, page, run_notebook

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
WITH_CONTROLS = [path.name for path in NOTEBOOKS if "explore" in path.read_text(encoding="utf-8")]
SLIDER = ".jp-OutputArea [role=slider], .jp-OutputArea input[type=range]"
MENU = ".jp-OutputArea select"
PICTURES = """() => [...document.querySelectorAll('.jp-OutputArea img.widget-image, .jp-OutputArea svg')]
    .map(one => one.src || one.outerHTML).join('|')"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A browser, and the address of a JupyterLab on a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("lab")
    for path in NOTEBOOKS:
        shutil.copy(path, folder)
    with jupyterlab(folder) as address, browser() as chromium:
        yield chromium, address


@needs_browser
@pytest.mark.parametrize("name", WITH_CONTROLS)
def test_a_control_moves_its_picture(opened, name):
    chromium, address = opened
    with page(chromium, width=1280) as tab:
        cells = run_notebook(tab, address, name)
        assert [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == "error"] == []
        assert _moves(tab), "no picture changed"
        assert [problem for problem in tab.problems if "dsmem" in problem] == []
        tab.evaluate("window.jupyterapp.commands.execute('kernelmenu:shutdown')")


def _moves(tab):
    """Whether a picture follows the first slider, or where there is none the first menu."""
    anything = tab.locator(f"{SLIDER}, {MENU}").locator("visible=true")
    anything.first.wait_for(timeout=60_000)
    sliders = tab.locator(SLIDER).locator("visible=true")
    control = (sliders if sliders.count() else anything).first
    control.evaluate("one => one.scrollIntoView({block: 'center'})")
    before = _settled(tab)
    if not sliders.count():
        control.select_option(index=1)
        return _changes(tab, before)
    control.evaluate("one => one.focus()")
    return any(tab.keyboard.press(key) or _changes(tab, before) for key in ("ArrowRight", "ArrowLeft"))


def _changes(tab, before):
    """Whether the pictures become others within ten seconds."""
    for _ in range(100):
        if tab.evaluate(PICTURES) != before:
            return True
        tab.wait_for_timeout(100)
    return False


def _settled(tab):
    """The pictures, once they stay as they are for a second."""
    while (now := tab.evaluate(PICTURES)) != (tab.wait_for_timeout(1000) or tab.evaluate(PICTURES)):
        pass
    return now


def test_most_notebooks_have_a_slider():
    assert len(WITH_CONTROLS) >= len(NOTEBOOKS) - 1
