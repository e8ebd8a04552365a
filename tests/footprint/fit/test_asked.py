"""What is asked where nobody says: the device's own attention, the format that a model is published in."""

import json

import pytest

import dsmem
from dsmem.config.devices import devices
from dsmem.config.overhead import overhead
from dsmem.config.quoted import published
from dsmem.config.source import DATA, published_weights
from dsmem.footprint.fit.answer import Answer
from dsmem.footprint.fit.engines import vllm
from dsmem.footprint.fit.maps import fit_map
from dsmem.footprint.fit.verdict import fit
from dsmem.footprint.fit.which import which
from dsmem.footprint.stored import weight_bytes

SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 160}
GEMMA = {"model_type": "gemma2", "sliding_window": 8, "head_dim": 16, "query_pre_attn_scalar": 16}
CAPPED = SMALL | GEMMA | {"num_hidden_layers": 2, "vocab_size": 500, "attn_logit_softcapping": 50.0}


def config_of(name, **changes):
    """The config of a model of `data/models`, as somebody else's file."""
    return json.loads((DATA / "models" / f"{name}.json").read_text(encoding="utf-8")) | changes


# --- Attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "gpu", "kernel"),
    [
        ("qwen2.5-0.5b", "T4", "expanded"),
        ("qwen2.5-0.5b", "L4", "fused"),
        ("llama-2-7b", "T4", "fused"),
        ("deepseek-v2-lite", "T4", "fused"),
        ("qwen2.5-0.5b", "Apple M4 32 GB", "fused"),
        (CAPPED, "H100", "eager"),
    ],
)
def test_attention_is_what_the_device_runs(model, gpu, kernel):
    """As torch chooses: its memory-efficient kernel, the only fused one of a T4, takes no shared heads."""
    found = fit(model, gpu=gpu, seq_len=100)
    assert found.asked.work.attention == kernel == fit(model, gpu=gpu, attention="auto").asked.work.attention
    assert found.needed_bytes == fit(model, gpu=gpu, attention=kernel, seq_len=100).needed_bytes
    cells = fit_map(model, [100], [1], gpu)
    assert cells.needed_bytes == found.needed_bytes and cells.asked.work.attention == kernel
    assert found.to_dict()["attention"] == kernel
    assert bool(found.notes) == (kernel != "fused" or "Apple" in gpu)


def test_the_copies_of_shared_heads_are_counted_or_said():
    fields = {"gpu": "T4", "weights": "int8", "phase": "decode", "seq_len": 4096}
    counted, left = (fit("deepseek-r1-distill-qwen-7b", **fields, **how) for how in ({}, {"attention": "fused"}))
    assert (counted.largest_batch, left.largest_batch) == (22, 26)
    assert "for all heads: that copy is counted" in counted.notes[0]
    assert "which is not counted (attention='auto' does)" in left.notes[0]
    given = fit("deepseek-r1-distill-qwen-7b", dsmem.Workload(), "T4")  # who gives a workload says it all
    assert given.asked.work.attention == "fused" and "not counted" in given.notes[0]
    assert fit("deepseek-r1-distill-qwen-7b", gpu="L4").notes == ()
    theirs = fit("deepseek-r1-distill-qwen-7b", gpu="T4", weights="q4_k_m")  # llama.cpp's kernels, not PyTorch's
    assert theirs.asked.work.attention == "fused" and "PyTorch" not in " ".join(theirs.notes)
    assert fit("qwen2.5-0.5b", gpu="L4", weights="fp32").asked.work.attention == "expanded"


def test_the_gpu_at_hand_is_one_by_its_drivers_name():
    """Colab's T4 calls itself "Tesla T4"."""
    colab = dsmem.config.devices.Devices("Tesla T4", 1, 2**34, (2**34,) * 2, "cuda", (7, 5))
    assert overhead(colab, 0) == overhead(devices("T4"), 0)


# --- Formats that nobody asked for ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        *((name, "fp8") for name in ("deepseek-r1", "deepseek-v3.2", "kimi-k2-instruct", "minimax-m2.5")),
        ("gpt-oss-20b", "mxfp4"),
    ],
)
def test_a_model_is_asked_for_as_it_is_published(model, weights):
    answer = fit(model, gpu="H200", seq_len=64)
    assert answer.asked.weights_words == f"{weights}, as published" == answer.to_dict()["weights"]
    assert f"{model} in {weights}, as published, " in answer.sentence
    assert answer.peak_bytes == fit(model, gpu="H200", seq_len=64, weights=weights).peak_bytes
    assert "published" not in fit(model, gpu="H200", seq_len=64, weights="bf16").sentence
    assert "published" not in fit(model, dsmem.Workload(weights="bf16"), gpu="H200").sentence
    if weights == "fp8":
        assert any(change.answer.asked.weights_words == "int4" for change in answer.changes)


def test_the_published_format_is_that_of_the_years():
    for row in published("models")["rows"]:
        assert published_weights(row["name"]) == (row["weights"] if row["weights"] in ("fp8", "mxfp4") else "")


def test_gpt_oss_has_its_experts_alone_in_mxfp4():
    """13.76 GB, as its files have; a config that says so, somebody else's, means the same."""
    said = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    theirs = config_of("gpt-oss-20b", quantization_config=said)
    for source in ("gpt-oss-20b", theirs):
        assert fit(source, gpu="RTX 4090").parts["weights_mxfp4"] == pytest.approx(13.76e9, rel=1e-3)
    assert "in mxfp4, as its config says, fits" in str(fit(theirs, gpu="RTX 4090"))
    assert vllm("gpt-oss-20b", "RTX 4090").parts["weights_mxfp4"] == pytest.approx(13.76e9, rel=1e-3)


def test_which_tries_the_format_of_a_models_own_files():
    assert which("RTX 4090", models="gpt-oss-20b").column("weights") == ["mxfp4"]
    assert which("RTX 4090", models="gpt-oss-20b", formats=["int4"]).column("weights") == ["int4"]
    assert which("8 x H200", models="deepseek-r1").column("weights") == ["fp8"]


def test_layers_that_a_stored_format_leaves_out_are_counted_in_16_bit():
    config = {"gpu": "RTX 4090", "weights": "awq", "seq_len": 64}
    kept = fit("qwen2.5-7b", modules_to_not_convert=("lm_head", "q_proj"), **config)
    plain = weight_bytes("qwen2.5-7b", "awq", modules_to_not_convert=("lm_head", "q_proj"))
    assert kept.parts["weights_awq"] == plain > fit("qwen2.5-7b", **config).parts["weights_awq"]


def test_a_format_that_is_not_as_the_kit_has_it_is_refused(refuses):
    """GPTQ in 8 bits is twice GPTQ in 4."""
    config = config_of("qwen2.5-7b", quantization_config={"quant_method": "gptq", "bits": 8, "group_size": 128})
    refuses(lambda: fit(config, gpu="T4"), "gptq (8 bits, groups of 128)", "dsmem.checkpoint")
    assert fit(config, gpu="T4", weights="int8").asked.weights_words == "int8"


def test_notes_are_text_on_a_page():
    note = Answer()
    note.sentence, note.notes, note.table = "s", ("<b>x</b>",), fit("gpt2", gpu="T4", seq_len=16).table
    assert "<b>" not in note._repr_html_() and "&lt;b&gt;" in note._repr_html_() and str(note) == "s"
