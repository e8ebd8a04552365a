"""In JupyterLab in a real browser: each notebook with sliders runs, a control moves, and its picture follows."""

import lab
import pytest

NOTEBOOKS = sorted((lab.ROOT / "notebooks").glob("*.ipynb"))
WITH_CONTROLS = [path.name for path in NOTEBOOKS if "explore" in path.read_text(encoding="utf-8")]
SLIDER = ".jp-OutputArea [role=slider], .jp-OutputArea input[type=range]"
MENU = ".jp-OutputArea select"
PICTURES = """() => [...document.querySelectorAll('.jp-OutputArea img.widget-image, .jp-OutputArea svg')]
    .map(one => one.src || one.outerHTML).join('|')"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A browser, and the address of a JupyterLab."""
    lab.require()
    with lab.server(tmp_path_factory.mktemp("lab")) as address, lab.browser() as chromium:
        yield chromium, address


@pytest.mark.parametrize("name", WITH_CONTROLS)
def test_the_first_control_moves_its_picture(opened, name):
    chromium, address = opened
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    try:
        cells = lab.run_all(page, address, name)
        errors = [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
        assert errors == []
        assert _moves(page), "no picture changed"
        assert problems == []
        page.evaluate("window.jupyterapp.commands.execute('kernelmenu:shutdown')")
    finally:
        page.close()


def _moves(page):
    """Whether a picture follows the first slider, or where there is none the first menu."""
    anything = page.locator(f"{SLIDER}, {MENU}").locator("visible=true")
    anything.first.wait_for(timeout=60_000)
    sliders = page.locator(SLIDER).locator("visible=true")
    control = (sliders if sliders.count() else anything).first
    control.evaluate("one => one.scrollIntoView({block: 'center'})")
    before = _settled(page)
    if not sliders.count():
        control.select_option(index=1)
        return _changes(page, before)
    control.evaluate("one => one.focus()")
    return any(page.keyboard.press(key) or _changes(page, before) for key in ("ArrowRight", "ArrowLeft"))


def _changes(page, before):
    """Whether the pictures become others within ten seconds."""
    for _ in range(100):
        if page.evaluate(PICTURES) != before:
            return True
        page.wait_for_timeout(100)
    return False


def _settled(page):
    """The pictures, once they stay as they are for a second."""
    while (now := page.evaluate(PICTURES)) != (page.wait_for_timeout(1000) or page.evaluate(PICTURES)):
        pass
    return now


def test_most_notebooks_have_a_slider():
    assert len(WITH_CONTROLS) >= len(NOTEBOOKS) - 1
