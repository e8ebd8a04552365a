"""`measure` in transformers' code: on the very config at hand, with or without a formula, and what the run says."""

import contextlib

import pytest
import torch
from small_configs import SMALL, small
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import dsmem
from dsmem import Architecture, Workload, measure
from dsmem.config.families import FAMILIES
from dsmem.model import kernels as kernels_module
from dsmem.model import library_pass

LENGTH = 20
UNREAD = small("exaone4", sliding_window=None, layer_types=["full_attention"] * 3)
"""Of a family that has no formula here."""


@pytest.mark.parametrize("name", SMALL)
def test_every_family_runs_and_its_weights_are_all_of_it(name):
    run = measure(SMALL[name], seq_len=LENGTH, weights="bf16", code="transformers")
    held = run.ledger.by_category()
    assert sum(held.values()) == run.ledger.peak_bytes <= run.replay.peak_allocated_bytes
    model = dsmem.model.library.read(SMALL[name])
    # a router or a decay may be kept in float32
    assert 2 * model.n_params <= held["weight"] < 2.05 * model.n_params
    assert sum(run.cache.values()) > 0


@pytest.mark.parametrize(
    "name", ["mixtral", "phi3", "opt", "gpt2", "falcon", "deepseek_v32", "glm_moe_dsa", "nemotron_h"]
)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_cache_is_what_transformers_keeps_on_real_tensors(name, phase):
    run = measure(SMALL[name], seq_len=LENGTH, phase=phase, weights="fp32", code="transformers")
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name].from_dict(SMALL[name]), dtype=torch.float32).eval()
    with torch.no_grad():
        cache = model(torch.zeros(1, LENGTH, dtype=torch.long)).past_key_values
    kept = [
        t for layer in cache.layers for v in vars(layer).values() for t in (v.values() if isinstance(v, dict) else [v])
    ]
    assert sum(run.cache.values()) == sum(t.nbytes for t in kept if isinstance(t, torch.Tensor))


def stream(ledger):
    """Every birth and death of a tensor that holds anything."""
    return [(r.module, sign * r.nbytes, r.category) for r, sign in ledger.events if r.nbytes]


def test_fake_and_real_tensors_make_the_same_bytes():
    for work in (Workload(2, 8), Workload(2, 8, "decode"), Workload(2, 8, cached_tokens=5)):
        fake, real = (measure(UNREAD, work, device=device) for device in ("fake", "cpu"))
        assert stream(fake.ledger) == stream(real.ledger)
        assert fake.cache == real.cache


# The very config at hand


def test_a_config_with_a_shipped_models_name_is_run_as_it_is(tmp_path):
    folder = tmp_path / "llama-2-7b"
    folder.mkdir()
    config = dsmem.config.source.load("llama-2-7b")[1] | {"num_key_value_heads": 8, "intermediate_size": 14336}
    (folder / "config.json").write_text(dsmem.config.source.json.dumps(config))
    run = measure(folder, seq_len=8, code="transformers")
    assert run.ledger.by_category()["weight"] == 14_483_464_192


def test_a_scaled_architecture_is_run_as_it_is():
    arch = Architecture.from_config("llama-2-7b").scaled(intermediate_size=5504, num_key_value_heads=8)
    run = measure(arch, seq_len=8, code="transformers")
    assert run.ledger.by_category()["weight"] == 7_537_696_768 == 2 * arch.n_params


# What the run says


def test_a_family_without_a_formula_runs_in_transformers_code_and_says_so(refuses):
    run = measure(UNREAD, seq_len=LENGTH)
    assert "exaone4" not in FAMILIES
    assert run.footprint is None and run.code == "transformers" and run.arch.n_params > 0
    assert "transformers 5" in str(run) and "no formula" in str(run) and "no formula" in repr(run)
    assert [name for name, _, kind in run.gaps().steps if kind == "total"][0] == "ledger"
    assert run.work.weights == "bf16"  # as the config says
    refuses(lambda: run.plot_instants(), "no formula")
    refuses(lambda: measure(UNREAD, seq_len=LENGTH, code="dsmem"), "'exaone4'", "not read")


@pytest.mark.parametrize("plot", ["plot_timeline", "plot_tensors", "plot_gaps"])
def test_a_run_without_a_formula_is_drawn(plot):
    from matplotlib.figure import Figure

    ax = getattr(measure(UNREAD, seq_len=LENGTH), plot)(ax=Figure().subplots())
    assert ax.dsmem_data


def test_what_is_not_as_expected_is_said():
    stored = measure(UNREAD | {"quantization_config": {"quant_method": "fp8"}}, seq_len=8)
    assert any("fp8" in note and "not applied" in note for note in stored.notes) and "not applied" in repr(stored)
    linear = measure(SMALL["qwen3_5"], seq_len=8, code="transformers")
    assert any("fla" in note for note in linear.notes) and not any("fla" in note for note in stored.notes)
    eager = measure(SMALL["gpt_oss"], seq_len=8, code="transformers", weights="fp16")
    assert not any("float32" in note for note in eager.notes)  # its softmax is in FP16
    assert eager.work.attention == "eager" and any("GptOssForCausalLM has no other" in note for note in eager.notes)


def test_a_config_that_is_read_and_wrong_stays_an_error(refuses):
    refuses(lambda: measure(small("llama", hidden_act="gelu"), seq_len=8), "hidden_act='gelu'")
    run = measure(small("llama", hidden_act="gelu"), seq_len=8, code="transformers")
    assert run.footprint is None and any("hidden_act='gelu'" in note for note in run.notes)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"weights": "int8"}, "weights='int8'"),
        ({"kv_cache": "fp8"}, "kv_cache='fp8'"),
        ({"cache": "paged"}, "cache='paged'"),
        ({"mla_cache": "expanded"}, "mla_cache='expanded'"),
        ({"batch": [1, 2]}, "batch"),
        ({"weights": "q4"}, "weights='q4'"),
        ({"tokens": 4}, "tokens"),
    ],
)
def test_what_has_no_counterpart_there_is_refused(fields, word, refuses):
    refuses(lambda: measure(UNREAD, **{"seq_len": 8} | fields), word)


def test_without_a_cache_none_is_kept():
    run = measure(UNREAD, seq_len=8, cache="none")
    assert run.cache == {} and "kv_cache" not in run.ledger.by_category()


# A GPU's kernels in place of a CPU's


def test_values_narrower_than_keys_do_not_put_scores_into_memory():
    run = measure(
        Architecture.from_config("deepseek-v2-lite").scaled(num_hidden_layers=3),
        seq_len=512,
        code="transformers",
        logits="last",
    )
    scores = 16 * 512 * 512 * 2  # bytes of one layer's
    assert all(record.nbytes < scores for record in run.ledger.records if record.module.endswith("self_attn"))
    assert any("memory-efficient" in note for note in run.notes)


@pytest.mark.parametrize("weights", ["fp16", "fp32", "bf16"])
def test_experts_run_in_every_format_on_fake_tensors(weights):
    run = measure(SMALL["mixtral"], seq_len=8, weights=weights, code="transformers")
    assert run.work.weights == weights


def test_a_run_without_a_formula_says_that_it_has_no_instants(refuses):
    run = dsmem.measure(UNREAD, seq_len=8)
    refuses(run.plot_instants, "no formula", "plot_timeline")
    refuses(lambda: dsmem.measure(UNREAD, fold="x"), "fold='x'", "True or False")


# Eager attention whose softmax is in float32

EAGER = {"attention": "eager_fp32", "code": "transformers"}
HEADS, SCORES = 4, 4 * 256**2  # of a small pass of 256 tokens


def test_llama_2_7b_in_transformers_eager_code_and_the_formula_next_to_it():
    for weights, needs, scores in (("bf16", 7_686_128_128, 2 + 4 + 4), ("fp16", 6_612_386_304, 2 + 4 + 2)):
        run = measure("llama-2-7b", seq_len=4096, weights=weights, **EAGER)
        assert run.ledger.peak_bytes - run.ledger.by_category()["weight"] == needs
        large = [record.nbytes for record in run.ledger.at_peak() if record.nbytes >= 2**30]
        assert sum(large) == scores * 32 * 4096**2
        assert run.work.attention == "eager_fp32" and run.footprint.total_bytes - run.ledger.peak_bytes == 16_219_904


@pytest.mark.parametrize("weights", ["fp16", "bf16", "fp32"])
def test_between_the_formula_and_their_eager_code_lies_what_is_named(weights):
    config = small("llama", num_key_value_heads=4)
    run = measure(config, seq_len=256, weights=weights, logits="last", **EAGER)
    width, element = 256 * 64, run.footprint.instants["q_proj"]["query"] // (256 * 64)
    more = {  # of ours
        "keys and values of all heads in another order": 2 * width * element,
        "mask of one byte a pair": 256 * 256,
        "sines of half the width": 256 * 24 * element,
    }
    less = {  # in their code alone
        "embedded tokens, which the caller holds": width * element,
        "mask of one score a pair": 256 * 256 * element,
        "cosines and sines of the whole width": 256 * 32 * element,
        "ids of the positions": 256 * 8,
        "a second copy of the frequencies": 8 * 4,
    }
    assert run.footprint.total_bytes - run.ledger.peak_bytes == sum(more.values()) - sum(less.values())


def test_a_gpus_softmax_copies_no_fp16_scores_and_a_cpus_does():
    theirs = library_pass.LibraryPass(
        dsmem.model.library.read(small("llama")), Workload(1, 256, attention="eager"), "cpu"
    )
    peaks = {}
    for name, kernels in {"as a GPU": theirs._kernels, "as a CPU": contextlib.nullcontext()}.items():
        theirs._kernels = kernels
        with dsmem.Ledger(theirs.module) as ledger:
            theirs.forward()
        peaks[name] = ledger.peak_bytes
    # the peak of the one is after the copy, when the result is rounded: 2, 4 and 2 bytes in place of 2, 4 and 4
    assert peaks["as a CPU"] - peaks["as a GPU"] == 2 * SCORES


@pytest.mark.parametrize(
    ("model_type", "attention", "word"),
    [
        ("llama", "eager", "is in fp32: attention='eager_fp32'"),
        ("gpt2", "eager_fp32", "is in fp16: attention='eager'"),
        ("llama", "eager_fp32", None),
        ("gpt2", "eager", None),
        ("llama", "fused", None),
    ],
)
def test_a_softmax_in_another_format_than_the_formulas_is_said(model_type, attention, word):
    config = SMALL["gpt2"] if model_type == "gpt2" else small("llama")
    run = measure(config, seq_len=16, weights="fp16", attention=attention, code="transformers")
    said = [note for note in run.notes if "softmax of scores" in note]
    assert len(said) == (word is not None) and all(word in note for note in said)
    assert any("a CPU copies them first" in note for note in run.notes) == (model_type + attention[:5] == "llamaeager")


def test_a_softmax_is_seen_however_it_is_called():
    scores, kernels = torch.randn(1, 2, 3, 4).half(), kernels_module.GpuKernels()
    with kernels:
        calls = (
            torch.nn.functional.softmax(input=scores, dim=-1, dtype=torch.float32),
            torch.softmax(scores, 3, torch.float32),
            scores.softmax(-1, dtype=torch.float32),
        )
    assert all(torch.equal(call, calls[0]) and call.dtype == torch.float32 for call in calls)
    assert kernels.softmax_in == {"fp32"} and list(kernels.said) == ["softmax"]
