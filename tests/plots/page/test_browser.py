"""Explorers in the page, in a real browser: from a file, and in JupyterLab."""

import itertools
import statistics

import nbconvert
import nbformat
import numpy as np
import pytest
from browser import browser, jupyterlab, needs_browser, open_notebook, page

import dsmem

pytestmark = needs_browser

STATE = """root => {
  const { machine, at, shown } = root.dsmem;
  const rows = machine.rows(at).rows ?? [];
  return { at: { ...at }, sentence: root.querySelector(".dsmem-words").textContent,
           problem: root.querySelector(".dsmem-problem").textContent,
           rows: rows.map(({ name, parts }) => [name, parts.map(String)]),
           bars: root.querySelectorAll(".dsmem-picture rect.bar").length };
}"""
# From each keydown to the change of what is watched: milliseconds in `window.times`; images: a new one counts alone.
TIMES = """([watched, images]) => {
  const target = document.querySelector(watched);
  const isImage = (node) => node.tagName === "IMG" || node.querySelector?.("img");
  window.times = []; window.began = null;
  document.addEventListener("keydown", () => { window.began = performance.now(); }, true);
  new MutationObserver((records) => {
    if (images && !records.some(({ addedNodes }) => [...addedNodes].some(isImage))) return;
    if (window.began !== null) { window.times.push(performance.now() - window.began); window.began = null; }
  }).observe(target, { subtree: true, childList: true });
}"""
HEAD = "import dsmem, matplotlib.pyplot as plt, ipywidgets\n"
FIT = 'dsmem.explore_fit("qwen2.5-0.5b", gpu=["T4", "L4"], count=1, weights=["fp16", "int8"], attention="fused")'
INTERACT = """
def draw(batch):
    fp = dsmem.inference_footprint("qwen2.5-0.5b", batch=batch)
    dsmem.plots.plot_stack({"peak": fp.parts}, capacity="T4")
    plt.show()

ipywidgets.interact(draw, batch=ipywidgets.IntSlider(4, 1, 64))
"""


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def explorer():
    cards = {"small": "1 GiB", "T4": dsmem.GPUS["T4"].usable_bytes}
    return dsmem.explore_fit(
        "qwen2.5-0.5b", gpu=cards, count=1, weights=["fp16", "int8"], activations=None, kv_cache=["fp16", "int8"],
        logits=["all", "last"], attention=["fused", "eager"], batch=(1, 64, 4), seq_len=(128, 4096, 1024),
    )  # fmt: skip


@pytest.fixture
def opened(chromium, explorer, tmp_path):
    """The saved file in a page without a network."""
    path = explorer.save_html(tmp_path / "fit.html")
    with page(chromium, offline=True) as tab:
        tab.goto(path.as_uri())
        yield tab
        assert tab.problems == []


def knob(tab, name):
    return tab.locator(f"[data-knob={name}]")


def read(tab):
    return tab.locator(".dsmem-page").first.evaluate(STATE)


def test_a_saved_file_answers_to_keys(opened, explorer):
    assert read(opened)["sentence"] == explorer.alt
    before = read(opened)
    knob(opened, "batch").focus()
    opened.keyboard.press("ArrowRight")
    explorer.set(batch=8)
    after = read(opened)
    assert after["sentence"] == explorer.alt != before["sentence"]
    assert knob(opened, "batch").get_attribute("aria-valuetext") == "8 sequences"
    knob(opened, "gpu").select_option(label="T4")
    knob(opened, "hide").check()
    explorer.set(gpu="T4", hide="weights")
    assert read(opened)["sentence"] == explorer.alt
    knob(opened, "every_instant").check()
    assert read(opened)["bars"] > after["bars"]
    explorer.set(batch=4, gpu="small", hide="nothing")


def test_every_state_in_the_page_is_pythons(opened, explorer):
    knobs = {name: explorer._knobs[name] for name in ("weights", "kv_cache", "attention", "logits", "phase")}
    rows = """root => { const { machine } = root.dsmem, { batches, lengths, data } = machine, out = [];
      const ends = Object.fromEntries(data.knobs.map((knob) => [knob.name, 0]));
      const sizes = data.order.map((name) => machine.knobs[name].texts.length);
      for (let n = 0; n < data.index.length; n++) {
        let rest = n; const at = { ...ends };
        [...data.order].reverse().forEach((name, k) => { const size = sizes.at(-1 - k); at[name] = rest % size; rest = Math.floor(rest / size); });
        const totals = [];
        for (at.seq_len = 0; at.seq_len < lengths.length; at.seq_len++)
          for (at.batch = 0; at.batch < batches.length; at.batch++) totals.push(machine.rows(at).rows.map((row) => String(row.total)));
        out.push({ names: machine.rows({ ...at, batch: 0, seq_len: 0 }).rows.map((row) => row.name), totals });
      }
      return out; }"""  # noqa: E501
    told = opened.locator(".dsmem-page").evaluate(rows)
    sizes = {name: np.array(explorer._knobs[name].values) for name in ("batch", "seq_len")}
    grid = {"batch": sizes["batch"][None, :], "seq_len": sizes["seq_len"][:, None]}
    order = explorer._data["order"]
    choices = itertools.product(*(explorer._knobs[name].values for name in order))
    states = 0
    for choice, found in zip(choices, told, strict=True):
        fields = {name: value for name, value in zip(order, choice, strict=True) if name in knobs}
        fp = dsmem.inference_footprint("qwen2.5-0.5b", **fields, **grid)
        totals = [
            np.broadcast_to(total, (len(sizes["seq_len"]), len(sizes["batch"]))).ravel() for total in fp.totals.values()
        ]
        assert found["names"] == list(fp.totals)
        assert found["totals"] == [[str(n) for n in each] for each in zip(*totals, strict=True)]
        states += len(found["totals"])
    assert states == 2 * 2 * 2 * 2 * 2 * 7 * 6


@pytest.mark.parametrize("width", [390, 800, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_page_and_does_not_jump(chromium, explorer, tmp_path, width, scheme):
    path = explorer.save_html(tmp_path / "fit.html")
    with page(chromium, width=width, color_scheme=scheme) as tab:
        tab.goto(path.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        colours = """[".dsmem-page", "body"].map((name) => getComputedStyle(document.querySelector(name)))
          .map((style, k) => (k ? style.backgroundColor : style.color).match(/\\d+/g)[0])"""
        ink, paper = map(int, tab.evaluate(colours))
        assert (ink > 200 and paper < 50) if scheme == "dark" else (ink < 50 and paper > 200)
        heights, texts = set(), []
        knob(tab, "batch").focus()
        for key in ["ArrowRight"] * 4 + ["Home", "End"]:
            tab.keyboard.press(key)
            heights.add(
                (tab.locator(".dsmem-picture").bounding_box()["y"], tab.locator(".dsmem-page").bounding_box()["height"])
            )
            texts += tab.evaluate("""[...document.querySelectorAll(".dsmem-picture text")].map((text) => {
              const box = text.getBoundingClientRect(), svg = text.ownerSVGElement.getBoundingClientRect();
              return box.left >= svg.left - 1 && box.right <= svg.right + 1; })""")
        assert len(heights) == 1 and all(texts)
        assert tab.problems == []


def test_two_explorers_on_one_page(chromium, explorer, tmp_path):
    other = dsmem.explore_cache("deepseek-r1", page=True)
    path = tmp_path / "two.html"
    path.write_text(
        f"<!doctype html><meta charset=utf-8>{explorer._repr_html_()}{other._repr_html_()}{other._repr_html_()}"
    )
    with page(chromium) as tab:
        tab.goto(path.as_uri())
        roots = tab.locator(".dsmem-page")
        assert roots.count() == 3
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
        assert len(ids) == len(set(ids)) > 0
        before = [roots.nth(k).evaluate(STATE)["sentence"] for k in range(3)]
        roots.nth(2).locator("[data-knob=batch]").focus()
        tab.keyboard.press("End")
        after = [roots.nth(k).evaluate(STATE)["sentence"] for k in range(3)]
        assert after[:2] == before[:2] and after[2] != before[2]
        assert tab.problems == []


def test_it_can_be_read_aloud_and_driven_by_keys_alone(opened):
    names = opened.locator(".dsmem-live").aria_snapshot()
    for words in ('combobox "GPU"', 'slider "batch (sequences)"', 'checkbox "without weights"', "status", "img "):
        assert words in names, names
    order = []
    opened.keyboard.press("Tab")
    for _ in range(len(opened.locator("[data-knob]").all())):
        order.append(opened.evaluate("document.activeElement.dataset.knob"))
        opened.keyboard.press("Tab")
    assert order == [each.get_attribute("data-knob") for each in opened.locator("[data-knob]").all()]


def test_an_exported_notebook_answers_too(chromium, explorer, tmp_path):
    output = nbformat.v4.new_output("display_data", {"text/html": explorer._repr_html_()})
    cell = nbformat.v4.new_code_cell("x", outputs=[output], execution_count=1)
    text, _ = nbconvert.HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    (tmp_path / "exported.html").write_text(text, encoding="utf-8")
    with page(chromium) as tab:
        tab.goto((tmp_path / "exported.html").as_uri())
        before = read(tab)
        knob(tab, "batch").focus()
        tab.keyboard.press("End")
        assert read(tab)["sentence"] != before["sentence"] == explorer.alt


# --- In JupyterLab ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(source) for source in (HEAD + FIT, INTERACT)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "live.ipynb")
    output = nbformat.v4.new_output("execute_result", {"text/html": eval(FIT)._repr_html_()}, execution_count=1)
    saved = nbformat.v4.new_code_cell(FIT, outputs=[output], execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[saved], metadata=kernel), folder / "untrusted.ipynb")
    with jupyterlab(folder) as address:
        yield address


def presses(tab, watched, focus, images=False, count=12):
    """The milliseconds from a key to the changed picture, the first press left out."""
    tab.evaluate(TIMES, [watched, images])
    tab.locator(focus).first.focus()
    for number in range(count):
        tab.keyboard.press("ArrowRight" if number % 2 else "ArrowLeft")
        tab.wait_for_function(f"() => window.times.length > {number}", timeout=20_000)
    return tab.evaluate("window.times")[1:]


def test_in_jupyterlab_keys_move_it_at_once_and_far_quicker_than_interact(chromium, lab):
    with page(chromium) as tab:
        open_notebook(tab, lab, "live.ipynb", run=True)
        tab.wait_for_selector(".dsmem-picture rect.bar", timeout=90_000)
        tab.wait_for_selector(".jupyter-widgets .jp-OutputArea-output img, .jp-OutputArea-output img", timeout=90_000)
        ours = presses(tab, ".dsmem-picture", "[data-knob=batch]")
        assert tab.locator("[data-knob=batch]").get_attribute("aria-valuetext") == "4 sequences"
        theirs = presses(tab, ".jp-Cell:nth-of-type(2)", ".widget-slider .noUi-handle", images=True)
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    print(f"from key to picture: {ours:.1f} ms in the page, {theirs:.0f} ms by interact")
    assert ours <= 5 and ours <= 0.05 * theirs


def test_an_untrusted_notebook_shows_the_still_picture(chromium, lab):
    with page(chromium) as tab:
        open_notebook(tab, lab, "untrusted.ipynb")
        still = tab.wait_for_selector(".jp-OutputArea-output img", timeout=60_000)
        assert still.evaluate("each => each.naturalWidth") > 500
        assert "Trust Notebook" in tab.locator(".jp-OutputArea-output").inner_text()
