"""The explorers of reads, ranks and training in a real browser: they answer in Python's words, and fit a page."""

import pytest
from browser import browser, needs_browser, page

import dsmem

pytestmark = needs_browser
SMALL = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}
SMALL |= {"num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 101, "_name_or_path": "small"}
MAKE = {  # an explorer; what is chosen by name; the slider that a key then moves, and where to
    "reads": (
        lambda: dsmem.explore_reads(["gpt-oss-20b", "llama-2-7b"], page=True, weights=["bf16", "fp8"]),
        {"weights": "fp8", "memory": "B200"},
        ("batch", 2),
    ),
    "ranks": (
        lambda: dsmem.explore_ranks(SMALL, capacity=["T4", "H200"], page=True, batch=1, seq_len=128, expert=1),
        {"gpu": "H200", "precision": "master"},
        ("zero", 1),
    ),
    "training": (
        lambda: dsmem.explore_training(SMALL, capacity=["T4", "H200"], page=True, attention="fused", weights="bf16"),
        {"gpu": "H200", "optimizer": "adamw8bit", "checkpointing": "full"},
        ("lora_rank", 8),
    ),
}


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("width", [390, 1280])
def test_it_answers_to_keys_in_pythons_words_and_fits(chromium, tmp_path, kind, width):
    make, chosen, (slider, value) = MAKE[kind]
    explorer = make()
    path = explorer.save_html(tmp_path / "page.html")
    with page(chromium, width=width, offline=True) as tab:
        tab.goto(path.as_uri())
        words = tab.locator(".dsmem-words")
        assert words.inner_text() == explorer.alt
        tops = {tab.locator(".dsmem-picture").bounding_box()["y"]}
        for name, text in chosen.items():
            tab.locator(f"[data-knob={name}]").select_option(label=text)
        explorer.set(**chosen)
        assert words.inner_text() == explorer.alt
        tab.locator(f"[data-knob={slider}]").focus()
        tab.keyboard.press("ArrowRight")
        explorer.set(**{slider: value})
        assert words.inner_text() == explorer.alt
        tops.add(tab.locator(".dsmem-picture").bounding_box()["y"])
        assert len(tops) == 1 and tab.evaluate("document.documentElement.scrollWidth") <= width
        inside = """[...document.querySelectorAll(".dsmem-picture text")].every((text) => {
          const box = text.getBoundingClientRect(), svg = text.ownerSVGElement.getBoundingClientRect();
          return box.left >= svg.left - 1 && box.right <= svg.right + 1; })"""
        assert tab.evaluate(inside) and tab.problems == []
