"""torchao and bitsandbytes beside our schemes: stored bytes by formula, errors alike, and not a line of noise."""

import logging
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import SMALL, normal

from dsmem import formulas
from dsmem.model.decoder import Linear
from dsmem.model.quantize import quantize_rows
from dsmem.runs import libraries, library_layers

BITSANDBYTES = {
    None: formulas.int8_linear_bytes,
    False: formulas.nf4_linear_bytes,
    True: formulas.nf4_double_linear_bytes,
}
FORMULAS = {
    "int8": formulas.int8_linear_bytes,
    "int8_w8a8": formulas.int8_linear_bytes,
    "fp8": formulas.fp8_linear_bytes,
    "int4": lambda n_in, n_out: formulas.int4_linear_bytes(n_in, n_out, 128),
    # torchao stores a zero point for each channel, 1 byte, also where it is 0
    "torchao int8": lambda n_in, n_out: formulas.int8_linear_bytes(n_in, n_out) + n_out,
    "torchao int8 dynamic": lambda n_in, n_out: formulas.int8_linear_bytes(n_in, n_out) + n_out,
    "bitsandbytes int8": formulas.int8_linear_bytes,
    "bitsandbytes nf4": formulas.nf4_linear_bytes,
    "bitsandbytes nf4 double": formulas.nf4_double_linear_bytes,
}
ARCH = SMALL.scaled(hidden_size=256, intermediate_size=768, head_dim=64, qkv_bias=True)


def linear(n_in, n_out, bias=False):
    made = Linear(n_in, n_out, bias=bias, dtype=torch.bfloat16).requires_grad_(False)
    made.weight.copy_(0.02 * normal(n_out, n_in))
    return made


@pytest.fixture(scope="module")
def rows():
    return {row.name: row for row in libraries.compare_libraries(ARCH, batch=2, seq_len=40, repeats=1)}


@pytest.mark.parametrize("double", BITSANDBYTES)
def test_a_layer_in_bitsandbytes_takes_the_formulas_bytes(double):
    @given(st.integers(1, 400), st.integers(1, 400))
    @settings(max_examples=15)
    def check(n_in, n_out):
        with libraries.quiet():
            made = library_layers.bitsandbytes_linear(linear(n_in, n_out), double)
        assert library_layers.module_bytes(made) == BITSANDBYTES[double](n_in, n_out)

    check()


def test_every_row_takes_the_formulas_bytes_and_16_bit_norms_and_biases(rows):
    shapes = (ARCH.attention_linears() | ARCH.mlp_linears()).values()
    others = 2 * (2 * ARCH.hidden_size + sum(n_out for _, n_out, bias in shapes if bias))
    assert set(rows) == {"bf16", *FORMULAS}
    for name, linear_bytes in FORMULAS.items():
        assert rows[name].layer_bytes == others + sum(linear_bytes(n_in, n_out) for n_in, n_out, _ in shapes), name
        whole = 2 * (2 * ARCH.vocab_size * ARCH.hidden_size + ARCH.hidden_size)
        assert rows[name].model_bytes == ARCH.num_hidden_layers * rows[name].layer_bytes + whole
    assert rows["bf16"].model_bytes == 2 * ARCH.n_params


def test_errors_are_ordered_and_like_ours(rows):
    error = {name: row.error for name, row in rows.items()}
    assert error["bf16"] < error["int8"] < error["int8_w8a8"] < error["fp8"] < error["bitsandbytes nf4"] < error["int4"]
    assert error["torchao int8"] == pytest.approx(error["int8"], rel=0.1)
    assert error["torchao int8 dynamic"] == pytest.approx(error["int8_w8a8"], rel=0.1)
    assert error["bitsandbytes int8"] == pytest.approx(error["int8_w8a8"], rel=0.1)
    assert error["bitsandbytes nf4 double"] == pytest.approx(error["bitsandbytes nf4"], rel=0.05)


def test_weight_only_int8_makes_the_same_copy_in_torchao_as_in_ours(rows):
    assert rows["torchao int8"].temporary_bytes == rows["int8"].temporary_bytes
    widest = max(n_in * n_out for n_in, n_out, _ in (ARCH.attention_linears() | ARCH.mlp_linears()).values())
    assert rows["int8"].temporary_bytes > 2 * widest
    assert rows["int8"].temporary_bytes > rows["bitsandbytes int8"].temporary_bytes


@pytest.mark.parametrize("bias", [False, True])
def test_the_integers_are_ours(bias):
    original = torch.nn.Sequential(linear(96, 64, bias))
    rounded, scales = quantize_rows(original[0].weight)
    by_torchao = library_layers.by_torchao(torch.nn.Sequential(linear(96, 64, bias)), "Int8WeightOnlyConfig")[0].weight
    with libraries.quiet():
        by_bitsandbytes = library_layers.by_bitsandbytes(original, None)[0].weight
    # ties may fall to either side, for the others divide in another format
    assert (by_torchao.qdata.int() - rounded).abs().max() <= 1 >= (by_bitsandbytes.data.int() - rounded).abs().max()
    torch.testing.assert_close(by_torchao.scale, scales, rtol=0.005, atol=0)
    torch.testing.assert_close(by_bitsandbytes.SCB[:, None] / 127, scales)


def test_what_hangs_on_a_weight_is_found_where_parameters_do_not_show_it():
    with libraries.quiet():
        made = library_layers.by_bitsandbytes(torch.nn.Sequential(linear(96, 64, True)), True)
    places = list(library_layers.module_tensors(made))
    state = "0.weight.quant_state"
    assert places == [
        "0.weight",
        *(f"{state}.{name}" for name in ("absmax", "code", "offset", "state2.absmax", "state2.code")),
        "0.bias",
    ]
    assert sum(p.nbytes for p in made.parameters()) < library_layers.module_bytes(made)


def test_a_shared_storage_counts_once():
    tied = torch.nn.ModuleList([linear(8, 8), linear(8, 8)])
    tied[1].weight = tied[0].weight
    assert library_layers.module_bytes(tied) == 2 * 8 * 8


def test_no_line_of_noise_and_no_more_silence_than_asked_for():
    code = (
        "from dsmem import Architecture\nfrom dsmem.runs import compare_libraries\n"
        "arch = Architecture.from_config('qwen2.5-0.5b').scaled(hidden_size=128, intermediate_size=256, head_dim=64)\n"
        "print(len(compare_libraries(arch, repeats=1)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("10\n", "")


def test_warnings_and_logs_are_back_afterwards():
    before = logging.root.manager.disable
    with libraries.quiet():
        warnings.warn("unheard", stacklevel=1)
        assert not logging.getLogger("anyone").isEnabledFor(logging.WARNING)
    assert logging.root.manager.disable == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


@pytest.mark.parametrize("absent", [("torchao",), ("torchao", "bitsandbytes")])
def test_without_a_library_its_rows_are_left_out_and_one_line_says_so(absent, monkeypatch, refuses):
    monkeypatch.setattr(library_layers, "library_version", lambda name: None if name in absent else "1.0")
    line = library_layers.missing_libraries()
    assert "\n" not in line and f"pip install {' '.join(absent)}`" in line
    assert not [name for name in library_layers.layer_formats() if name.startswith(absent)]
    refuses(
        lambda: libraries.compare_libraries(ARCH, names=["torchao int8"]), "name='torchao int8'", "bf16", "int8_w8a8"
    )


def test_with_both_nothing_is_missing():
    assert library_layers.missing_libraries() is None
    assert all(library_layers.library_versions().values())


def test_an_unknown_name_is_refused(refuses):
    refuses(lambda: libraries.compare_libraries(ARCH, names=["gptq"]), "name='gptq'", *library_layers.layer_formats())
    refuses(lambda: libraries.compare_libraries(ARCH, repeats=0), "repeats=0", "at least 1")


def test_the_table_has_a_line_for_each_row(rows):
    lines = str(libraries.library_table(rows.values())).splitlines()
    assert len(lines) == 1 + len(rows)
    assert all(line.startswith(name) for line, name in zip(lines[1:], rows, strict=True))
    assert lines[1].split()[1:5] == ["1.50", "MiB", "3.10", "MiB"]


def test_times_are_multiples_of_the_first_rows_and_the_floor_is_of_bytes():
    prompt = [libraries.Row("bf16", 100, 0, 0, 0.0, 2.0), libraries.Row("int8", 51, 0, 0, 0.0, 3.0)]
    token = [libraries.Row("bf16", 100, 0, 0, 0.0, 1.0), libraries.Row("int8", 51, 0, 0, 0.0, 0.6)]
    _, bf16, int8 = str(libraries.time_table(prompt, token)).splitlines()
    assert bf16.split() == ["bf16", "1.00", "1.00", "1.00"]
    assert int8.split() == ["int8", "1.50", "0.60", "0.51"]


def test_both_tables_keep_the_columns_that_notebooks_show():
    row = libraries.Row("bitsandbytes nf4 double", 7_707_034, 457_187_635, 1_111_490, 0.15641, 0.5)
    first = libraries.Row("bf16", 29_821_501, 988_065_728, 0, 0.00943, 1.0)
    assert str(libraries.library_table([first, row])) == (
        "                                layer       model   peak adds    error\n"
        "bf16                        28.44 MiB  942.29 MiB         0 B    0.94%\n"
        "bitsandbytes nf4 double      7.35 MiB  436.01 MiB    1.06 MiB   15.64%"
    )
    assert str(libraries.time_table([first, row], [first, row])) == (
        "                             prompt     token   its floor\n"
        "bf16                           1.00      1.00        1.00\n"
        "bitsandbytes nf4 double        0.50      0.50        0.26"
    )
