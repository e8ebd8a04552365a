"""`measure` in transformers' code: on the very config at hand, with or without a formula, and what the run says."""

import pytest
import torch
from small_configs import SMALL, small
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import dsmem
from dsmem import Architecture, Workload, measure
from dsmem.config.families import FAMILIES

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
    refuses(lambda: run.plot_instants(), "run", "footprint")
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
