"""Explorers in the page: what the script reads is what the formulas say, for every state; nothing in it breaks out."""

import itertools
import json
import re
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from page_data import data_of, decoded, node, rows_alike, rows_of, said_alike, some_states, states_of, told_by_script

import dsmem
from dsmem.config.workload import Workload
from dsmem.footprint.stored import weight_parts
from dsmem.plots.families import FAMILIES, by_family
from dsmem.plots.page import explorer
from dsmem.plots.page import explorers as in_page
from dsmem.plots.page.exact import Functions

SMALL = "qwen2.5-0.5b"
CONFIG = {
    "model_type": "mistral",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "sliding_window": 300,
}


# --- Every state ------------------------------------------------------------------------------------------------------

EXPLORERS = {
    "fit": lambda: dsmem.explore_fit(
        SMALL,
        gpu=["T4", "RTX 4090"],
        count=[1, 2],
        overhead_bytes=[None, 2**30],
        weights=["fp16", "int8_w8a8", "fp8"],
        activations={"as weights": None, "fp32": "fp32"},
        attention="fused",
        kv_cache=[None, "int8"],
    ),
    "footprint": lambda: dsmem.explore_footprint(
        [SMALL, CONFIG], capacity="T4", page=True, cache=["growing", "static"], weights=["fp16", "int8_w8a8"]
    ),
    "positions": lambda: dsmem.explore_footprint("gpt2", page=True, weights=["fp16"], phase=["prefill", "decode"]),
    "experts": lambda: dsmem.explore_footprint(
        "deepseek-v2-lite", page=True, weights=["fp8", "int8_w8a8"], mla_cache=["latent", "expanded"], phase="decode"
    ),
    "curves": lambda: dsmem.explore_curves(
        [SMALL, CONFIG], capacity="T4", page=True, batch=(1, 64, 4), weights=["int8_w8a8", "fp16"], logits="all"
    ),
}


@pytest.fixture(scope="module")
def explorers():
    return {name: make() for name, make in EXPLORERS.items()}


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_state_is_what_the_formulas_say(name, explorers):
    explorer = explorers[name]
    data, knobs = data_of(explorer), explorer._knobs
    batches, lengths = knobs["batch"].values, data.get("lengths") or knobs["seq_len"].values
    values = [decoded(text, batches, lengths) for text in data["functions"].split(";")]
    archs = {arch.name: arch for arch in map(dsmem.Architecture.of, [SMALL, CONFIG, "gpt2", "deepseek-v2-lite"])}
    states = 0
    for choice, state in states_of(data):
        chosen = {name: knobs[name].values[place] for name, place in choice.items()}
        arch, sharding, fields = archs[chosen.pop("model")], chosen.pop("count", 1), chosen
        lacking = state[3] if len(state) == 5 and not isinstance(state, str) else []
        seen = [place for place in range(len(lengths)) if place not in lacking]
        sizes = {"batch": np.array(batches)[None, :], "seq_len": np.array(lengths)[seen, None]}
        try:
            fp = dsmem.inference_footprint(arch, Workload(**fields | sizes), sharding if sharding > 1 else None)
        except ValueError as error:
            assert state == " ".join(str(error).split())
            continue
        assert not isinstance(state, str), chosen
        found = rows_of(data, state, values)
        assert list(found) == list(fp.instants)
        for instant, parts in fp.instants.items():
            for family, nbytes in by_family(parts).items():
                assert np.array_equal(np.broadcast_to(nbytes, (len(seen), len(batches))), found[instant][family][seen])
        states += len(seen) * len(batches)
        for place, error in zip(lacking, state[4] if lacking else [], strict=True):
            with pytest.raises(ValueError) as caught:
                dsmem.inference_footprint(arch, Workload(**fields | {"seq_len": lengths[place]}))
            assert data["errors"][error] == " ".join(str(caught.value).split())
    assert states >= 200


def test_some_lengths_are_out_of_reach(explorers):
    assert any(len(state) == 5 for state in data_of(explorers["positions"])["states"])


def test_every_form_of_a_function_is_in_use(explorers):
    forms = {text[0] for explorer in explorers.values() for text in data_of(explorer)["functions"].split(";")}
    assert forms == set("=~/|#")


def test_weights_and_caches_are_what_is_stored():
    explorer = dsmem.explore_weights([SMALL, "deepseek-r1"], capacity="T4", page=True)
    data = data_of(explorer)
    values = [decoded(text, [1], [1])[0, 0] for text in data["functions"].split(";")]
    for choice, state in states_of(data):
        chosen = {name: explorer._knobs[name].values[place] for name, place in choice.items()}
        kept = dsmem.footprint.stored.KEPT[chosen["kept"]]
        found = rows_of(data, state, values)[chosen["weights"]]
        asked = weight_parts(chosen["model"], chosen["weights"], modules_to_not_convert=kept)
        assert {part: nbytes for part, nbytes in found.items() if nbytes} == asked
    explorer = dsmem.explore_cache(["deepseek-r1", SMALL], page=True)
    explorer.set(seq_len=128, num_key_value_heads=16)
    ax = Figure().subplots()
    dsmem.plots.plot_cache("deepseek-r1", seq_len=128, num_key_value_heads=16, ax=ax)
    assert {row: sum(parts.values()) for row, parts in explorer.state.rows.items()} == {
        n: b for n, _, b in ax.dsmem_data
    }


@given(
    st.lists(st.integers(-(2**40), 2**40), min_size=6, max_size=6),
    st.sampled_from([1, 7, 32]),
    st.sampled_from([1, 100, 256]),
)
@settings(max_examples=60)
def test_functions_come_back_as_they_went_in(terms, batch_step, length_step):
    batches, lengths = [1, 2, 4, 8, 64], [128, 256, 1024, 4096]
    functions = Functions(batches, lengths)
    b, s = functions.grid
    b, s = -(-b // batch_step) * batch_step, -(-s // length_step) * length_step
    parts = [1, b, s, b * s, s**2, b * s**2]
    values = sum((n % 2**17) * part for n, part in zip(terms, parts, strict=True)) - 2**20
    whole = np.broadcast_to(values, (len(functions.lengths), len(functions.batches)))
    text = functions.texts[functions.add(whole)]
    rows, columns = np.isin(functions.lengths, lengths), np.isin(functions.batches, batches)
    assert np.array_equal(decoded(text, batches, lengths), whole[rows][:, columns])
    if text[0] == "=":
        assert np.array_equal(decoded(text, functions.batches.tolist(), functions.lengths.tolist()), whole)
    if text[0] in "~/":
        assert np.array_equal(decoded(text, functions.batches.tolist(), lengths), whole[rows])


# --- The script, where node is there ----------------------------------------------------------------------------------

MORE = {
    "beside": lambda: dsmem.explore_fit(
        [CONFIG, "deepseek-v2-lite"],
        gpu=["T4", "H100", "MI300X"],
        count=[1, 2],
        weights=["bf16", "int4"],
        attention="fused",
        cache=["paged", "static", "growing"],
        phase="prefill",
        kv_cache=[None, "fp8"],
        logits="last",
        cached_tokens=[0, 100],
    ),
    "weights": lambda: dsmem.explore_weights([SMALL, "deepseek-r1"], capacity=["T4", "8 x H200"], page=True),
    "cache": lambda: dsmem.explore_cache([SMALL, "deepseek-r1"], page=True),
}


@node
@pytest.mark.parametrize("name", [*EXPLORERS, *MORE])
def test_the_script_says_what_python_says(name, explorers):
    explorer = explorers[name] if name in explorers else MORE[name]()
    for _, state, told in said_alike(explorer, 25 if name == "fit" else 60):
        assert rows_alike(state, told)
        assert ("curve" in told) == (name == "curves")


@node
def test_curves_in_the_page_are_the_pictures_own(explorers):
    explorer = explorers["curves"]
    for at in some_states(explorer, 1):
        at["model"] = 0
        explorer.set(**{n: explorer._knobs[n].values[at[n]] for n in explorer.controls})
        [told] = told_by_script(explorer, [at])
        drawn = explorer.figure.axes[0].dsmem_data
        assert {x: n for name, x, n in drawn if name == "total"} == {
            length: total for length, total, *_ in told["curve"]
        }
        for place, family in enumerate(FAMILIES):
            found = {x: n for name, x, n in drawn if name == family}
            assert not found or found == {length: parts[place] for length, _, *parts in told["curve"]}


@node
def test_bytes_and_shares_are_written_as_python_writes_them():
    draw = np.random.default_rng(3)
    sizes = [0, 1, 1023, 1024, 2**53 + 1, 2**60 + 12345, -(3 * 2**20)]
    sizes += [int(n) * 2 ** int(k) for n, k in zip(draw.integers(1, 4096, 500), draw.integers(0, 48, 500), strict=True)]
    shares = [k / 16 for k in range(33)] + [k / 2000 for k in range(2001)] + list(draw.random(500))
    script = (explorer.FILES / "1_numbers.js").read_text(encoding="utf-8")
    script += """
    const { sizes, shares } = JSON.parse(require("fs").readFileSync(0, "utf8"));
    const written = shares.map((x) => [percent(x, 0), percent(x, 1), fixed(x, 2)]);
    console.log(JSON.stringify([sizes.map((n) => formatBytes(BigInt(n))), written]));
    """
    text = json.dumps({"sizes": [str(n) for n in sizes], "shares": shares})
    done = subprocess.run(["node", "-e", script], input=text, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [
        [dsmem.units.format_bytes(n) for n in sizes],
        [[f"{x:.0%}", f"{x:.1%}", f"{x:.2f}"] for x in shares],
    ]


# --- As an object -----------------------------------------------------------------------------------------------------


def test_it_is_driven_as_the_kernels_explorer_is(explorers):
    explorer = explorers["footprint"]
    kernel = dsmem.explore_footprint(SMALL, capacity="T4")
    values = {"batch": 8, "seq_len": 4096, "weights": "int8_w8a8", "hide": "weights", "attention": "eager"}
    explorer.set(model=SMALL, gpu="T4", cache="static", logits="all", **values)
    kernel.set(**values)
    assert explorer.alt == kernel.alt and explorer.error is None
    assert explorer.values["batch"] == 8 and repr(explorer).startswith("PageExplorer(model='qwen2.5-0.5b',")
    assert explorer.figure.axes[0].dsmem_data == kernel.figure.axes[0].dsmem_data
    explorer.set(seq_len=1024)
    explorer.set(model="mistral", seq_len=131_072)
    assert explorer.state.rows != {} and explorer.values["seq_len"] == 131_072


def test_a_state_that_cannot_be_keeps_the_picture_before(explorers):
    explorer = explorers["positions"]
    explorer.set(seq_len=1024)
    before = explorer.state
    explorer.set(seq_len=2048)
    assert explorer.error.startswith("seq_len=2048 is past") and explorer.state is before
    explorer.set(seq_len=512)
    assert explorer.error is None and explorer.state is not before


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda e: e.set(batch=3), ["batch=3", "1, 2, 4"]),
        (lambda e: e.set(batches=4), ["batches=4", "gpu", "seq_len"]),
        (lambda e: e.set(model="gpt2"), ["model='gpt2'", "has no control"]),
        (lambda e: dsmem.explore_fit([]), ["arch=[]", "a model or a list of them"]),
        (lambda e: dsmem.explore_fit(SMALL, batches=4), ["field='batches'", "a field of Workload"]),
        (lambda e: dsmem.explore_fit(SMALL, gpu="8 x T4"), ["gpu='8 × T4'", "count"]),
        (lambda e: dsmem.explore_fit(SMALL, count=2, sharding=2), ["count=2", "sharding"]),
        (lambda e: dsmem.explore_fit(SMALL, sharding={"stages": {"pipeline": 2}}), ["pipeline=2", "dsmem.fit"]),
        (lambda e: dsmem.explore_fit(SMALL, sharding={"pipeline": 2}), ["pipeline=2", "dsmem.fit"]),
        (lambda e: dsmem.explore_curves(SMALL, page=True, hide="weights"), ["field='hide'"]),
        (lambda e: dsmem.explore_fit(SMALL, gpu="T5"), ["gpu='T5'", "T4"]),
        (lambda e: dsmem.explore_fit(SMALL, batch=(1, 3)), ["batch=(1, 3)", "makes no control"]),
        (lambda e: dsmem.explore_fit(SMALL, hide=["nothing", 5]), ["hide=5", "names"]),
    ],
)
def test_what_it_refuses(call, words, explorers, refuses):
    before = explorers["fit"].values
    refuses(lambda: call(explorers["fit"]), *words)
    assert explorers["fit"].values == before


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "values", [{"batch": 4}, {"batch": 64, "seq_len": 8192}, {"kv_cache": "int8", "phase": "decode"}]
)
def test_it_answers_as_dsmem_fit_does(count, values, explorers):
    explorer = explorers["fit"]
    fields = {"batch": 1, "seq_len": 1024, "weights": "fp16", "phase": "prefill", "logits": "all"} | values
    explorer.set(
        **{"gpu": "RTX 4090", "count": count, "overhead_bytes": None, "activations": None, "kv_cache": None} | fields
    )
    asked = dsmem.fit(SMALL, gpu="RTX 4090", count=count, attention="fused", **fields)
    words = "with {} to spare" if asked.fits else "{} are missing"
    assert words.format(dsmem.units.format_bytes(abs(asked.spare_bytes))) in explorer.alt
    largest = re.search(r"largest batch of this length is ([\d,]+)( or more)?", explorer.alt)
    batch = int(largest[1].replace(",", "")) if largest else 0
    assert batch == asked.largest_batch or (largest[2] and batch == 512 < asked.largest_batch)
    longest = re.search(r"longest context of this batch is ([\d,]+) tokens( or more)?", explorer.alt)
    tokens = int(longest[1].replace(",", "")) if longest else 0
    assert tokens == asked.longest_context or asked.context_limit == "model"


def test_several_gpus():
    ways = {"one": 1, "tensor": 2, "experts": {"data": 2, "expert": 2}}
    explorer = dsmem.explore_fit(
        "qwen3-30b-a3b", gpu="H100", sharding=ways, weights="bf16", logits="last", kv_cache=None
    )
    for way, sharding in ways.items():
        explorer.set(sharding=dsmem.Sharding.of(sharding))
        fp = dsmem.inference_footprint("qwen3-30b-a3b", sharding=sharding, weights="bf16", batch=4, logits="last")
        assert explorer.state.peak_bytes == fp.total_bytes
        assert ("2 × H100 (79.19 GiB each)" in explorer.alt) == (way != "one")


def test_it_says_what_fits_and_how_far_it_would(explorers):
    explorer = explorers["fit"]
    values = {"phase": "prefill", "logits": "all", "activations": None, "kv_cache": None, "hide": "nothing", "count": 1}
    explorer.set(batch=4, seq_len=1024, weights="fp16", gpu="T4", overhead_bytes=2**30, **values)
    assert "fits T4 (14.57 GiB) with 11.43 GiB to spare, 1.00 GiB kept free; the largest batch" in explorer.alt
    assert explorer.state.title[0] == f"{SMALL} in fp16 fits T4 (14.57 GiB) with 11.43 GiB to spare"
    most = int(re.search(r"largest batch of this length is (\d+)", explorer.alt)[1])
    usable = dsmem.GPUS["T4"].usable_bytes - 2**30
    fits = [dsmem.inference_footprint(SMALL, batch=n, seq_len=1024).total_bytes <= usable for n in (most, most + 1)]
    assert fits == [True, False]


# --- What is in the page ----------------------------------------------------------------------------------------------

HOSTILE = "</script><script>alert(1)</script><b>\"'& ü 模型 \u2028 {peak:n}"


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_hostile_name_stays_a_name():
    explorer = dsmem.explore_fit(
        CONFIG | {"_name_or_path": HOSTILE}, gpu=("</title><i>", 2**30), count=1, weights=["fp16"]
    )
    text = explorer._repr_html_()
    assert text.count("<script") == text.count("</script>") == 2 and "<b>" not in re.sub(r"<b></b>`", "", text)
    data = data_of(explorer, text)
    assert data["knobs"][0]["texts"] == [HOSTILE]
    assert HOSTILE in explorer.alt


def test_a_saved_page_needs_nothing_else(explorers, tmp_path):
    path = explorers["fit"].save_html(tmp_path / "fit.html")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "<meta charset" in text
    assert set(re.findall(r"https?://[^\"'\s]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<link|src=(?!\"data:)|@import|fetch\(|import\(|url\((?!#)", text)


def test_sizes(explorers):
    sizes = {name: len(explorer._script_data()) for name, explorer in explorers.items()}
    assert max(sizes.values()) < 90_000, sizes
    assert len(explorers["fit"]._repr_html_()) < 130_000


def test_too_large_a_page_is_refused(monkeypatch, refuses):
    monkeypatch.setattr(explorer, "MOST_BYTES", 1000)
    refuses(lambda: dsmem.explore_fit(SMALL, weights="fp16", count=1), "controls", "1,000 are allowed", "fewer values")


def test_without_a_script_the_still_picture_and_its_words_are_there(explorers):
    text = explorers["fit"]._repr_html_()
    still = re.search(r'<div class="dsmem-still">(.*?)</div>', text, re.DOTALL)[1]
    assert 'src="data:image/png;base64,' in still and "Trust Notebook" in still
    assert explorers["fit"].alt.replace("&", "&amp;") in still


def test_the_same_explorer_is_the_same_output():
    first, second = (dsmem.explore_cache(SMALL, page=True)._repr_html_() for _ in range(2))
    assert first == second


def test_every_family_has_a_look_of_its_own():
    looks = [(each["face"], each["hatch"]) for each in explorer.looks_of()]
    assert len(set(looks)) == len(FAMILIES)


def test_menus_of_texts():
    kept = {"head": ("lm_head",), "nothing more": ()}
    explorer = dsmem.explore_footprint("llama-2-7b", page=True, weights="int8", modules_to_not_convert=kept)
    before = explorer.state.peak_bytes
    explorer.set(modules_to_not_convert=())
    assert explorer.state.peak_bytes != before
    assert in_page.FIT["kv_cache"] == {"as activations": None, "fp8": "fp8", "int8": "int8"}


def test_a_kernel_that_a_gpu_lacks_is_said():
    shared, gpus, formats = "deepseek-r1-distill-qwen-7b", ["T4", "A100 80 GB"], ["fp16", "fp32"]
    explorer, lacking = dsmem.explore_fit([shared, "llama-2-7b"], gpu=gpus, weights=formats), {}
    for model, attention, gpu, each in itertools.product([shared, "llama-2-7b"], ["fused", "expanded"], gpus, formats):
        explorer.set(model=model, attention=attention, gpu=gpu, weights=each)
        if not explorer.error and "has no such kernel" in explorer.alt:
            lacking.setdefault((model, attention, gpu), []).append(each)
    assert lacking == {(shared, "fused", "T4"): formats, (shared, "fused", "A100 80 GB"): ["fp32"]}
