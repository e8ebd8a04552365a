"""What a report of a figure keeps, renames, refuses, and writes beside it."""

import csv
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem import plots

GIB = 2**30
PARTS = {"weights": 14 * GIB, "kv_cache": 2 * GIB}


@pytest.fixture
def ax():
    return Figure(figsize=(7.5, 3), layout="constrained").subplots()


def saved(ax, folder, **options):
    """The text of the SVG, and the rows of the CSV."""
    svg, table, *_ = dsmem.save_report(ax, "a", folder=folder, formats=["svg"], **options)
    with table.open(encoding="utf-8") as file:
        return svg.read_text(encoding="utf-8"), list(csv.DictReader(file))


def test_the_header_says_what_the_numbers_are(ax, tmp_path):
    plots.plot_seconds([1, 2], {"a": [0.5, 1.5]}, xlabel="x", ax=ax)
    _, rows = saved(ax, tmp_path)
    assert list(rows[0]) == ["panel", "series", "x", "seconds"]
    assert [float(row["seconds"]) for row in rows] == [0.5, 1.5]


def test_a_dot_plots_numbers_are_called_as_its_axis(ax, tmp_path):
    plots.plot_dots({"int8": [0.5]}, xlabel="rise of the loss (%)", ax=ax)
    assert list(saved(ax, tmp_path)[1][0])[-1] == "rise of the loss (%)"


def test_panels_of_two_quantities_have_a_column_each(tmp_path):
    top, bottom = Figure(figsize=(7, 7), layout="constrained").subplots(2, 1)
    plots.plot_stack({"a": PARTS}, ax=top, title="Bytes", capacity={"x": 20 * GIB})
    plots.plot_seconds([1], {"a": [2.0]}, xlabel="x", ax=bottom, title="Times")
    _, rows = saved(top, tmp_path)
    assert list(rows[0]) == ["panel", "series", "x", "bytes", "seconds"]
    assert [row["bytes"] for row in rows] == [str(14 * GIB), str(2 * GIB), str(20 * GIB), ""]
    assert [row["seconds"] for row in rows] == ["", "", "", "2.0"]
    assert rows[2]["series"] == "capacity" and rows[2]["x"] == "x"


def test_what_was_drawn_by_hand_is_read_from_the_picture(ax, tmp_path):
    with plots.axes.drawing(ax, "By hand", unit="% error") as ax:
        ax.barh([0, 1], [3, 4], label="found")
        ax.set_yticks([0, 1], ["one", "two"])
        ax.plot([0, 1], [5, 6], label="line")
    _, rows = saved(ax, tmp_path)
    assert [(row["series"], row["x"], float(row["% error"])) for row in rows] == [
        ("found", "one", 3),
        ("found", "two", 4),
        ("line", "0.0", 5),
        ("line", "1.0", 6),
    ]


def test_no_placeholder_is_in_a_file(tmp_path):
    for number, draw in enumerate((plots.plot_footprint, plots.plot_lengths, plots.plot_weights, plots.plot_cache)):
        ax = draw("llama-2-7b", ax=Figure(figsize=(7.5, 4), layout="constrained").subplots())
        svg, _ = saved(ax, tmp_path / str(number))
        assert not any(text in svg for text in ("8,888.88", "queries_by_head", "RTX PRO", "nf4_double", "128 KV heads"))


def test_words_are_replaced_and_looks_stay(ax, tmp_path):
    plots.plot_stack({"7B": PARTS}, ax=ax)
    colours = [bars[0].get_facecolor() for bars in ax.containers]
    svg, rows = saved(ax, tmp_path, labels={"weights": "Gewichte", "memory": "Speicher", "7B": "sieben"})
    assert all(f">{word}" in svg for word in ("Gewichte", "Speicher (GiB)", "sieben", "kv_cache"))
    assert ">weights<" not in svg and ">memory" not in svg and rows[0]["series"] == "weights"
    assert [bars[0].get_facecolor() for bars in ax.containers] == colours
    assert ax.get_legend().get_texts()[0].get_text() == "weights"  # the figure on screen stays


def test_other_can_be_renamed(ax, tmp_path):
    plots.plot_stack({"a": PARTS | {"input": 1, "buffers": 1}}, ax=ax)
    assert ">rest<" in saved(ax, tmp_path, labels={"other": "rest"})[0]


def test_a_legend_text_that_was_set_by_hand_is_kept(ax, tmp_path):
    plots.plot_stack({"7B": PARTS}, ax=ax)
    ax.get_legend().get_texts()[0].set_text("all of the weights")
    svg, _ = saved(ax, tmp_path)
    assert ">all of the weights<" in svg and ">weights<" not in svg


def test_a_caption_is_written_beside_the_figure_with_its_words(ax, tmp_path):
    plots.plot_stack({"7B": PARTS}, ax=ax, title="Found")
    *_, text = dsmem.save_report(ax, "a", folder=tmp_path, caption="Figure 1: what a 7B needs.")
    assert text.name == "a.txt"
    assert text.read_text(encoding="utf-8").startswith("Figure 1: what a 7B needs.\n\nFound. x: memory (GiB). weights")


@pytest.mark.parametrize(
    ("name", "formats", "files"),
    [
        ("x", None, ["x.pdf", "x.svg", "x.png", "x.csv", "x.txt"]),
        ("x.png", None, ["x.png", "x.csv", "x.txt"]),
        ("x.PDF", None, ["x.pdf", "x.csv", "x.txt"]),
        ("png", ["svg"], ["png.svg", "png.csv", "png.txt"]),
        ("x.png", ["png", "svg"], ["x.png", "x.svg", "x.csv", "x.txt"]),
        ("qwen2.5-0.5b", ["svg"], ["qwen2.5-0.5b.svg", "qwen2.5-0.5b.csv", "qwen2.5-0.5b.txt"]),
        ("figures/x.svg", None, ["figures/x.svg", "figures/x.csv", "figures/x.txt"]),
    ],
)
def test_an_ending_asks_for_that_format_and_is_never_written_twice(ax, tmp_path, name, formats, files):
    plots.plot_stack({"7B": PARTS}, ax=ax)
    paths = dsmem.save_report(ax, name, folder=tmp_path, formats=formats, caption="What a 7B needs.")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == files
    assert sorted(path for path in tmp_path.rglob("*.*")) == sorted(paths)


def test_a_name_that_says_less_or_other_than_the_formats_is_refused(ax, refuses, tmp_path):
    plots.plot_stack({"7B": PARTS}, ax=ax)
    refuses(lambda: dsmem.save_report(ax, "x.png", folder=tmp_path, formats=["pdf"]), "name='x.png'", "formats=['pdf']")
    for name in (".png", " .svg", " "):
        refuses(lambda name=name: dsmem.save_report(ax, name, folder=tmp_path), f"name={name!r}", "empty")
    assert not list(tmp_path.iterdir())


def test_the_files_say_what_they_show(ax, tmp_path):
    plots.plot_stack({"7B": PARTS}, ax=ax, title="Found")
    svg, _ = saved(ax, tmp_path)
    assert "weights 14.00 GiB" in svg


def test_panels_side_by_side_need_room(refuses, tmp_path):
    left, right = Figure(figsize=(9, 4), layout="constrained").subplots(1, 2)
    for ax in (left, right):
        plots.plot_stack({"7B": PARTS}, ax=ax)
    refuses(lambda: dsmem.save_report(left, "a", folder=tmp_path), "width='column'", "2 panels", "full", "6 inches")
    assert not list(tmp_path.iterdir())


def test_an_explorers_figure_lists_only_what_it_shows(tmp_path):
    explorer = dsmem.explore_weights(["llama-2-7b"])
    svg, _ = saved(explorer.figure.axes[0], tmp_path)
    assert ">lm_head<" in svg and ">experts<" not in svg


def test_letters_that_no_font_has_are_refused(ax, refuses, tmp_path):
    plots.plot_stack({"7B": PARTS}, ax=ax)
    how = {"folder": tmp_path, "labels": {"weights": "权重"}}
    refuses(lambda: dsmem.save_report(ax, "peak", **how), "labels", "font=")
    for font in ("No Such Font", "", " "):
        refuses(lambda font=font: dsmem.save_report(ax, "peak", font=font, **how), f"font={font!r}", "installed")


def test_a_font_brings_its_letters(ax, tmp_path):
    """STIX, which Matplotlib ships, stands for a font of another script: the default font lacks this letter."""
    plots.plot_stack({"7B": PARTS}, ax=ax)
    letter, font = "\u1d81", Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf"
    svg, _ = saved(ax, tmp_path, labels={"weights": letter}, font=font)
    assert letter in svg and "STIXGeneral" in svg
    dsmem.save_report(ax, "b", folder=tmp_path, labels={"weights": letter}, font="STIXGeneral")
    assert b"STIXGeneral" in (tmp_path / "b.pdf").read_bytes()


def test_the_csv_draws_the_same_figure_again(tmp_path):
    bars = {"fp16": PARTS, "int8": PARTS | {"weights": 8 * GIB, "logits": GIB}}
    pictures = []
    for _ in range(2):
        figure = Figure(figsize=(7.5, 3), layout="constrained")
        _, rows = saved(plots.plot_stack(bars, ax=figure.subplots(), title="Half, nearly"), tmp_path)
        figure.savefig(tmp_path / "a.png", dpi=80)
        pictures.append(matplotlib.image.imread(tmp_path / "a.png"))
        bars = {row["x"]: {} for row in rows}
        for row in rows:
            bars[row["x"]][row["series"]] = float(row["bytes"])
    assert (pictures[0] == pictures[1]).all() and pictures[0].min() < 1


def test_pdf_and_svg_hold_text_as_text(tmp_path):
    ax = plots.plot_stack({"7B": PARTS}, ax=Figure(layout="constrained").subplots(), title="Weights win")
    pdf, svg, _ = dsmem.save_report(ax, "a", folder=tmp_path, formats=["pdf", "svg"])
    assert b"/Type /Font" in pdf.read_bytes() and b"/FontFile2" in pdf.read_bytes()  # embedded as TrueType
    root = ElementTree.parse(svg).getroot()
    words = ["".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Weights win", "7B", "weights"} <= set(words)
