"""Formulas of many ranks against the tables of the papers that they come from."""

import numpy as np
import pytest

from dsmem import formulas

STAGES = (formulas.zero1_states_bytes, formulas.zero2_states_bytes, formulas.zero3_states_bytes)
ADAM = (16, 16, 96)  # bits of parameter, gradient, and optimizer states: FP16 with an FP32 copy and two moments
ZERO = {  # arXiv 1910.02054, table 1: GB of each rank at stages 1, 2, 3, as printed
    7_500_000_000: {
        1: ("120", "120", "120"),
        4: ("52.5", "41.3", "30"),
        16: ("35.6", "21.6", "7.5"),
        64: ("31.4", "16.6", "1.88"),
        256: ("30.4", "15.4", "0.47"),
        1024: ("30.1", "15.1", "0.12"),
    },
    128_000_000_000: {
        1: ("2048", "2048", "2048"),
        4: ("896", "704", "512"),
        16: ("608", "368", "128"),
        64: ("536", "284", "32"),
        256: ("518", "263", "8"),
        1024: ("513", "257", "2"),
    },
    1_000_000_000_000: {
        1: ("16000", "16000", "16000"),
        4: ("7000", "5500", "4000"),
        16: ("4750", "2875", "1000"),
        64: ("4187", "2218", "250"),
        256: ("4046", "2054", "62.5"),
        1024: ("4011", "2013", "15.6"),
    },
}


@pytest.mark.parametrize("elements, data", [(elements, data) for elements in ZERO for data in ZERO[elements]])
def test_zero_shares_out_as_its_paper_prints(elements, data):
    for stage, printed in zip(STAGES, ZERO[elements][data], strict=True):
        found = stage(elements, data, *ADAM) / 1e9
        step = 10.0 ** -len(printed.partition(".")[2])
        if step == 1:  # the paper cuts off what it prints without digits: 4187.5 as 4187, 513.5 as 513
            assert int(found) == int(printed)
        else:
            assert abs(found - float(printed)) <= 0.5001 * step


def test_the_headline_of_zero_to_the_byte():
    n = 7_500_000_000
    found = [formulas.training_states_bytes(n, 16, 16, 32, 32)] + [stage(n, 64, *ADAM) for stage in STAGES]
    assert found == [120_000_000_000, 31_406_250_000, 16_640_625_000, 1_875_000_000]


def test_one_rank_alone_shares_nothing():
    for n in (1, 7, 1_543_714_304):
        assert {stage(n, 1, *ADAM) for stage in STAGES} == {formulas.training_states_bytes(n, 16, 16, 32, 32)}


def test_torchtitan_saved_what_the_shares_say():
    """Llama 3.1 8B in FP32 with Adam, 8 against 128 GPUs: 14.0 GiB of the 15.4 GiB that were measured."""
    few, many = (formulas.zero3_states_bytes(8_030_000_000, data, 32, 32, 64) for data in (8, 128))
    assert round((few - many) / 2**30, 1) == 14.0


# arXiv 2205.05198, table 3: heads, width, layers, tensor, pipeline, batch of a microbatch; 2,048 tokens
MODELS = {
    "22B": (64, 6144, 48, 8, 1, 4),
    "175B": (96, 12_288, 96, 8, 8, 1),
    "530B": (128, 20_480, 105, 8, 35, 1),
    "1T": (160, 25_600, 128, 8, 64, 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_keeps_what_its_paper_says(name):
    heads, hidden, _, t, _, batch = MODELS[name]
    sbh, scores = 2048 * batch * hidden, 5 * heads * 2048 / hidden
    sizes = batch, 2048, hidden
    cut = [heads, t]
    assert formulas.tensor_activation_bytes(*sizes, *cut) == pytest.approx(sbh * (10 + 24 / t + scores / t), rel=1e-15)
    assert formulas.sequence_activation_bytes(*sizes, *cut) == pytest.approx(sbh / t * (34 + scores), rel=1e-15)
    assert formulas.tensor_selective_activation_bytes(*sizes, t) == sbh * (10 + 24 / t)
    assert formulas.sequence_selective_activation_bytes(*sizes, t) == sbh * 34 / t


@pytest.mark.parametrize("name", MODELS)
def test_sequence_parallel_and_selective_recompute_save_as_its_paper_draws(name):
    """Figure 7: each alone about halves what tensor parallel keeps, both together leave about a fifth."""
    heads, hidden, _, t, _, batch = MODELS[name]
    sizes = batch, 2048, hidden
    whole = formulas.tensor_activation_bytes(*sizes, heads, t)
    sequence = formulas.sequence_activation_bytes(*sizes, heads, t) / whole
    selective = formulas.tensor_selective_activation_bytes(*sizes, t) / whole
    both = formulas.sequence_selective_activation_bytes(*sizes, t) / whole
    full = formulas.checkpoints_bytes(*sizes, 1, 16) / whole
    assert 0.45 < sequence < 0.68 and 0.45 < selective < 0.68 and both < 0.21 and full < 0.11


def test_the_first_stage_of_any_pipeline_keeps_as_much_as_one_rank_would():
    heads, hidden, layers, t, p, batch = MODELS["530B"]
    layer = formulas.sequence_activation_bytes(batch, 2048, hidden, heads, t)
    assert formulas.first_stage_activation_bytes(layer, layers, p, p) == layer * layers


def test_shares_of_an_uneven_matrix_are_filled_up():
    ranks = np.array([1, 2, 3, 7, 8])
    assert list(formulas.shard_bytes(10, 3, ranks, 16)) == [60, 30, 24, 12, 12]
