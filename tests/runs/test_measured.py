"""Predictions beside what others measured on real GPUs: published figures, each with its source, and stated bounds."""

import dataclasses
import json
from collections import Counter

import pytest

import dsmem
from dsmem.config.source import DATA
from dsmem.footprint.checkpoints.gguf import MIXES, gguf_bytes, gguf_tensors
from dsmem.footprint.stored import cache_bytes
from dsmem.runs import measured, predicted
from dsmem.runs.measured import KINDS, compare, rows
from dsmem.runs.predicted import predict
from dsmem.units import BLOCK_FORMATS, GIB

MIB = 2**20
BOUNDS = {  # of a set's errors: a share, and how many of its figures may lie beyond it
    "r1_cache_logs": (0.0001, 0),
    "r1_deployments": (0.0035, 1),
    "reports": (0.001, 0),
    "qwen2.5_a100": (0.01, 4),
    "t4_lora": (0.02, 4),
    "peft_training": (0.001, 1),
    "litgpt_training": (0.03, 2),
    "megatron_b200": (0.002, 0),
}


# of the 51 training runs, each of another kind; `python -m dsmem.runs measured` has all
TRAINED = (
    "SmolLM2-135M none sdpa, 2 x 512",
    "SmolLM2-1.7B none eager, 1 x 2,048",
    "Qwen2.5-1.5B-Instruct none sdpa, 1 x 2,048",
    "SmolLM2-1.7B nf4 sdpa, 1 x 2,048",
    "TinyLlama-1.1B-Chat-v1.0 nf4 eager, 2 x 2,048",
)


def shown():
    """All rows, but of the training runs those of `TRAINED` alone."""
    return [row for row in rows() if row["set"] != "t4_lora" or measured._label(row) in TRAINED]


@pytest.fixture(scope="module")
def everything():
    return compare(shown())


# --- The data ---------------------------------------------------------------------------------------------------------


def test_every_row_has_a_source_and_says_what_it_is_of():
    found = rows()
    assert Counter(row["set"] for row in found) == {
        "megatron_b200": 8,
        "qwen2.5_a100": 112,
        "r1_cache_logs": 70,
        "r1_deployments": 23,
        "reports": 12,
        "t4_lora": 51,
        "peft_training": 5,
        "litgpt_training": 7,
    }
    for row in found:
        assert row["source"] and row["licence"] and row["conditions"] and row["unit"] and row["kind"] in KINDS
        assert set((row["kinds"] or {}).values()) <= set(KINDS)
    assert {row["licence"] for row in found} == {"MIT", "Apache-2.0", "not stated"}


@pytest.mark.parametrize(("kind", "count"), [("file", 2), ("reserved", 53), ("requested", 0), ("allocated", 183)])
def test_rows_of_one_kind(kind, count):
    assert len(rows(kind)) == count


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="kind='guessed' is not a kind of figure; allowed: requested, allocated"):
        rows("guessed")


# --- R1's cache: 70 load logs -----------------------------------------------------------------------------------------


def test_all_seventy_cache_logs_to_the_last_printed_digit():
    logs = [row for row in rows() if row["set"] == "r1_cache_logs"]
    missed = [row for row in logs if f"{predict(row)['kv_mib'] / MIB:.2f}" != f"{row['kv_mib']:.2f}"]
    assert len(logs) == 70 and missed == []


@pytest.mark.parametrize(
    ("words", "tokens", "mib"),
    [
        ("latent f16", 163_840, 10_980.0),
        ("latent q8_0", 32_768, 1_166.625),
        ("f16 latent + transposed", 163_840, 20_740.0),
        ("expanded f16", 2_048, 9_760.0),
    ],
)
def test_the_four_layouts_of_r1s_cache(words, tokens, mib):
    assert predicted.stored_cache("deepseek-r1", tokens, words) == mib * MIB


@pytest.mark.parametrize(("kind", "bytes_per_32"), [("q8_0", 34), ("q4_0", 18)])
def test_a_cache_in_blocks_can_be_asked_for(kind, bytes_per_32):
    assert cache_bytes("llama-2-7b", batch=3, seq_len=100, kv_cache=kind) == {
        "kv_cache": 3 * 100 * 2 * 32 * 4096 // 32 * bytes_per_32
    }


def test_a_pass_on_a_cache_in_blocks_is_refused():
    with pytest.raises(
        ValueError, match="kv_cache='q8_0' is a format of llama.cpp or FlashMLA, of which only the size is known"
    ):
        dsmem.inference_footprint("llama-2-7b", kv_cache="q8_0")


# --- Differences of training runs ---


def differences(name):
    return {row["what"]: (predict(row)["difference_bytes"], row) for row in rows() if row["set"] == name}


def test_a_higher_rank_and_full_training_cost_what_formulas_say_without_a_constant():
    found = differences("peft_training")
    for what in ("LoRA rank 64 less rank 32", "full less LoRA rank 32", "full less LoRA rank 64"):
        predicted_bytes, row = found[what]
        assert predicted_bytes == pytest.approx(row["measured"]["difference_bytes"], rel=0.00075)
    # 9,175,040 numbers more, as the two result files have them, of 16 bytes
    assert found["LoRA rank 64 less rank 32"][0] == 16 * (18_350_080 - 9_175_040)


def test_more_sequences_are_not_predicted_for_anothers_layers():
    (row,) = (row for row in rows() if row["set"] == "litgpt_training" and "sequences" in row["what"])
    with pytest.raises(ValueError, match="own layers"):
        predict(row)


# --- GGUF files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mix", "doubled", "gib"),
    [("q8_0", True, 665.308), ("q8_0", False, 664.295), ("bf16", True, 1251.990), ("q4_k_m", False, 376.650)],
)
def test_r1s_gguf_files_as_llama_cpp_prints_them(mix, doubled, gib):
    assert gguf_bytes("deepseek-r1", mix, doubled) / GIB == pytest.approx(gib, abs=0.0006)


def test_r1_without_experts_and_embedding_in_q8_0():
    row = next(row for row in rows() if "gpu_weights_mib" in row.get("measured", {}) and row["set"] == "reports")
    assert predict(row)["gpu_weights_mib"] / MIB == pytest.approx(17_744.02, abs=0.05)


@pytest.mark.parametrize(("mix", "size"), [("f16", 15_237_852_832), ("q8_0", 8_098_524_832), ("Q4_K_M", 4_683_073_184)])
def test_the_7bs_files_differ_from_their_tensors_by_one_header(mix, size):
    assert size - gguf_bytes("deepseek-r1-distill-qwen-7b", mix) == 5_953_184


def test_q4_k_m_puts_half_of_two_kinds_of_matrices_and_the_head_into_six_bits():
    kinds = Counter()
    for name, (_, kind) in gguf_tensors("deepseek-r1-distill-qwen-7b", "q4_k_m").items():
        kinds[name.split(".")[-2], kind] += 1
    assert kinds["down_proj", "q6_K"] == kinds["v_proj", "q6_K"] == 14 and kinds["lm_head", "q6_K"] == 1
    assert kinds["q_proj", "q4_K"] == 28 and kinds["norm", "f32"] == 1


@pytest.mark.parametrize(
    ("arch", "mix", "message"),
    [
        ("qwen2.5-0.5b", "q4_k_m", "rows of 896 in qwen2.5-0.5b do not fill; allowed there: f32, f16, bf16, q8_0"),
        ("deepseek-r1-distill-llama-70b", "q4_k_m", "llama.cpp mixes 80 layers, and 8 experts, by other rules"),
        ("llama-2-7b", "iq2_xs", f"mix='iq2_xs' is not a mix of types; allowed: {', '.join(MIXES)}"),
    ],
)
def test_a_mix_that_is_not_known_is_refused(arch, mix, message):
    with pytest.raises(ValueError, match=message):
        gguf_bytes(arch, mix)


@pytest.mark.parametrize(
    ("name", "bits"), [("q8_0", 8.5), ("q4_0", 4.5), ("q4_K", 4.5), ("q5_K", 5.5), ("q6_K", 6.5625), ("mxfp4", 4.25)]
)
def test_bits_per_weight_of_the_block_formats(name, bits):
    from dsmem.config.schemes import GGUF

    assert GGUF[name].bits_per_weight(4096, 4096) == bits and not GGUF[name].runs
    assert set(GGUF) == set(BLOCK_FORMATS)


# --- Everything -------------------------------------------------------------------------------------------------------


def test_each_figure_is_within_its_sets_bound_or_named(everything):
    for place, (bound, beyond) in BOUNDS.items():
        lines = [line for line in everything.modelled if line.set == place]
        assert sum(abs(line.error) > bound for line in lines) <= beyond, place
    for line in everything.lines:
        assert line.predicted is not None or len(line.reason) > 10
        assert line.reason or abs(line.error) <= 0.01
        assert line.reason != "not named" and line.reason != "nothing of this name is modelled"


def test_no_figure_is_left_out(everything):
    values = [value for row in shown() for value in predicted.figures(row).values()]
    assert len(everything.lines) == sum(len(value) if isinstance(value, list) else 1 for value in values)


def test_peaks_of_qwen_on_an_a100(everything):
    """Published to 0.01 GiB; prompts of 6,144 tokens and more peak in the prefill, a prompt of one in the last step."""
    peaks = [line for line in everything.lines if line.set == "qwen2.5_a100"]
    bf16 = {line.label: line.error for line in peaks if " BF16" in line.label}
    assert len(peaks) == 112 and len(bf16) == 28
    assert all(-0.0105 < error < 0.001 for error in bf16.values())
    larger = [line.error for line in peaks if "0.5B" not in line.label and "GPTQ-Int8" not in line.label]
    assert all(-0.01 < error < 0.003 for error in larger)
    assert sum(abs(line.error) < 0.002 for line in peaks) >= 75


def test_the_table_names_sets_reasons_and_kinds(everything):
    text = repr(everything)
    for words in ("r1_cache_logs", "what the driver keeps", "CUDA graphs", "printed by an engine"):
        assert words in text
    assert everything._repr_html_().count("<table>") == 3
    assert "allocated" in everything.summary().column("kind")
    assert sum(everything.summary().column("figures")) == len(everything.lines)


def test_peaks_of_training_on_a_t4(everything):
    """Without quantization within 0.5% in each phase, most to the KiB; NF4 within 2%; reserved within 5%."""
    lines = [line for line in everything.lines if line.set == "t4_lora" and line.name != "cuda_context_mib"]
    assert {line.label for line in lines} == set(TRAINED)
    for line in lines:
        bound = 0.05 if line.kind != "allocated" else 0.02 if " nf4 " in line.label else 0.005
        assert abs(line.error) < bound, line
    phases = [line for line in lines if line.name.startswith("peak_") and line.kind == "allocated"]
    exact = [line for line in phases if "1.7B" in line.label]
    assert len(exact) == 8 and all(abs(line.predicted - line.measured) <= 1024 for line in exact)


def test_models_that_were_trained_have_their_published_sizes():
    from dsmem.runs.lora_training import configs

    published = {
        "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
        "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
        "HuggingFaceTB/SmolLM2-135M": 134_515_008,
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
        "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
        "deepseek-ai/deepseek-coder-1.3b-instruct": 1_346_471_936,
        "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    }
    found = {name: dsmem.Architecture.from_config(config).n_params for name, config in configs().items()}
    assert {name: found[name] for name in published} == published
    assert set(found) == {row["model"] for row in rows() if row["set"] == "t4_lora"}


def test_a_row_as_its_publisher_has_it_is_enough():
    row = {"model": "Qwen2.5-0.5B-Instruct", "input_tokens": "6144", "format": "BF16", "gpus": "1", "peak_gib": "1.23"}
    line = compare([row]).lines[0]
    assert line.predicted == predict(row)["peak_gib"] and line.name == "peak_gib" and -0.01 < line.error < 0


@pytest.mark.parametrize("row", [{}, {"kv_mib": 3}, 7, None])
def test_what_is_not_a_row_is_refused(row):
    with pytest.raises(ValueError, match="is not of a known form; it must be a dict with one of: n_ctx, input_tokens"):
        predict(row)


def test_a_row_of_which_nothing_is_modelled_says_why():
    with pytest.raises(ValueError, match="a verdict, not bytes"):
        predict({"model": "R1-Distill-Qwen-32B", "measured": {"verdict": "slow"}})


def test_the_files_in_data_are_one_row_a_line_and_name_no_file_of_ours():
    for path in (DATA / "measured").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert len(text) < 40_000 and "shared/" not in text
        about = json.loads(text)
        assert text.count("\n") < 20 + len(about["rows"]) + len(about.get("configs", ()))


def test_one_command_prints_it(capsys, monkeypatch):
    from dsmem.runs.__main__ import main

    monkeypatch.setattr(measured, "_all_rows", lambda: [{"n_ctx": 512, "cache": "latent f16", "kv_mib": 34.31}])
    main(["measured"])
    out = capsys.readouterr().out
    assert "latent f16, 512 tokens" in out and "+0.007%" in out


# --- The picture ------------------------------------------------------------------------------------------------------


def test_every_prediction_is_a_marker(everything):
    from matplotlib.figure import Figure

    from dsmem.plots.measured import plot_measured, sources

    ax = plot_measured(everything, ax=Figure(layout="constrained").subplots())
    assert len(ax.dsmem_data) == len(everything.modelled)
    markers = {line.get_label(): line for line in ax.lines if "measured by others" in line.get_label()}
    assert sum(len(line.get_xdata()) for line in markers.values()) == len(everything.modelled)
    assert "figures that others measured are predicted within 1%" in " ".join(ax.get_title(loc="left").split())
    assert f"{len(everything.not_modelled)} more are not modelled" in ax.get_xlabel()
    assert "github.com/QwenLM/Qwen2.5" in sources(everything)
    large = [line for line in everything.modelled if abs(line.error) > 0.01]
    assert {line.label for line in large} <= {text.get_text() for text in ax.texts}


def test_the_picture_refuses_what_it_cannot_draw(everything):
    from dsmem.plots.measured import plot_measured

    with pytest.raises(ValueError, match="by='colour' is not a way to sort figures; allowed: kind, set"):
        plot_measured(everything, by="colour")
    nothing = [dataclasses.replace(everything.modelled[0], predicted=None)]
    with pytest.raises(ValueError, match="must hold at least one figure with a prediction"):
        plot_measured(nothing)
