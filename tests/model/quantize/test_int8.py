"""INT8 layers: published sizes, copies and products in the ledger, outliers, and error bounds of rounding."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from quantized import QWEN_7B, SMALL, layer, linear_layers, normal, relative_error
from strategies import DENSE_LINEARS as LINEARS

import dsmem
from dsmem import Workload, build_model, inference_footprint
from dsmem.model.decoder import TORCH_DTYPES
from dsmem.model.quantize import padded_int8_rows, quantize_rows
from dsmem.units import FLOATS, GIB, INT8_SCHEMES, QUANTIZED

# Norm of the difference from float64, divided by the norm, for normal data. Rounding to steps of s leaves s / sqrt(12)
# per element, with s = row maximum / 127: 0.9% at a row maximum of 4 sigma. W8A8 rounds both factors: times sqrt(2).
LAYER_BOUND = {"int8": 0.010, "int8_w8a8": 0.015}

each_scheme = pytest.mark.parametrize("scheme", INT8_SCHEMES)
each_float = pytest.mark.parametrize("activations", FLOATS)


# Bytes: the footprint and the ledger


def test_the_7b_models_weights_have_the_published_size():
    run = dsmem.measure(QWEN_7B, Workload(1, 16, weights="int8"), device="fake")
    weights = [record for record in run.ledger.records if record.category == "weight"]
    held = {dtype: sum(r.nbytes for r in weights if r.dtype == dtype) for dtype in ("int8", "float32", "float16")}
    # what bitsandbytes converts: all matrices except embedding and head, which stay in 16 bit
    matrices, vectors = held["int8"], held["float16"] // 2 - 2 * 544_997_376
    assert matrices == 6_525_288_448
    # also kept in 16 bit: 57 norms, and the biases of q, k and v
    assert vectors == 57 * 3584 + 28 * (3584 + 512 + 512)
    # out_features of q and o, k and v, gate and up, down
    assert held["float32"] == 4 * 28 * (2 * 3584 + 2 * 512 + 2 * 18_944 + 3584)
    # LLM.int8() takes 8.113 GiB. Matrices, embedding and head alone take 8.107 GiB in both. The rest are the scales
    # (5.3 MiB) and the 16-bit vectors (0.6 MiB), and ours could differ in nothing else.
    assert round((matrices + 4 * 544_997_376) / GIB, 3) == 8.107
    assert round(sum(held.values()) / GIB, 3) == 8.113
    for scheme in INT8_SCHEMES:
        parts = inference_footprint(QWEN_7B, Workload(1, 16, weights=scheme)).parts
        stored = {"int8": "weights_int8", "float32": "weight_scales", "float16": "weights"}
        assert {dtype: parts[part] for dtype, part in stored.items()} == held


def test_the_ledger_shows_one_16_bit_copy_of_the_layer_at_work():
    work = Workload(2, 40, weights="int8", modules_to_not_convert=("k_proj", "lm_head"))
    run = dsmem.measure(SMALL, work, device="fake")
    copies = [r for r in run.ledger.records if r.op == "_to_copy" and r.module.split(".")[-1] in LINEARS]
    shapes = {
        name: (m.out_features, m.in_features) for name, m in linear_layers(build_model(SMALL, device="fake")).items()
    }
    converted = [name for name in shapes if name.split(".")[-1] not in work.modules_to_not_convert]
    assert [record.module for record in copies] == converted
    for record in copies:
        rows, columns = shapes[record.module]
        assert (record.nbytes, record.category, record.dtype) == (2 * rows * columns, "temporary", "float16")
        assert record.shape == (rows, columns)
        later = [r.birth for r in run.ledger.records if r.birth > record.birth and r.module != record.module]
        assert record.death < min(later, default=len(run.ledger.events))


@pytest.mark.parametrize(("seq_len", "padded"), [(1, 32), (31, 32), (32, 32), (33, 64), (65, 96)])
def test_the_ledger_shows_an_int32_product_of_whole_blocks_of_rows(seq_len, padded):
    run = dsmem.measure(SMALL, Workload(1, seq_len, weights="int8_w8a8"), device="fake")
    products = [record for record in run.ledger.records if record.dtype == "int32"]
    assert {record.category for record in products} == {"temporary"}
    widths = [m.out_features for name, m in linear_layers(build_model(SMALL, "fp16", "fake")).items()]
    assert [record.shape for record in products] == [(padded, width) for width in widths[:-1]]
    assert [record.nbytes for record in products] == [4 * padded * width for width in widths[:-1]]
    assert run.footprint.instants["gate_proj"]["int32_product"] == 4 * padded * SMALL.intermediate_size


# Numbers: one layer, one model


@each_float
@each_scheme
@pytest.mark.parametrize("size", [1e-3, 1e-4])
def test_small_inputs_are_rounded_as_finely_as_large_ones(scheme, activations, size):
    weight, x = 0.02 * normal(96, 64), (size * normal(40, 64, seed=1)).to(TORCH_DTYPES[activations])
    got = layer(scheme, weight, activations)(x)
    # fp16 can only hold results of 1e-5 to about 1%, whatever comes before
    bound = 0.03 if activations == "fp16" else LAYER_BOUND[scheme]
    assert relative_error(got, x.double() @ weight.double().T) <= bound


@each_scheme
def test_an_output_channel_of_zeros_gives_zeros(scheme):
    weight = 0.02 * normal(96, 64)
    weight[7] = 0
    got = layer(scheme, weight)(normal(4, 64))
    assert got[:, 7].eq(0).all() and got.isfinite().all()


@each_float
@each_scheme
def test_an_outlier_harms_its_own_row_alone(scheme, activations):
    dtype = TORCH_DTYPES[activations]
    weight, x = (0.02 * normal(96, 64)).to(dtype), normal(40, 64, seed=1).to(dtype)
    made, spoiled = layer(scheme, weight, activations), x.clone()
    spoiled[3, 5] = 30_000
    others = torch.arange(40) != 3
    assert torch.equal(made(spoiled)[others], made(x)[others])
    exact = spoiled[3:4].double() @ weight.double().T
    # the outlier's own contribution is right: it is the row's maximum, and the maximum is not rounded
    assert relative_error(made(spoiled)[3:4], exact) <= LAYER_BOUND[scheme]


@each_scheme
def test_a_weight_outlier_harms_its_own_channel_alone(scheme):
    weight, x = 0.02 * normal(96, 64), normal(40, 64, seed=1)
    spoiled = weight.clone()
    spoiled[3, 5] = 1000
    others = torch.arange(96) != 3
    torch.testing.assert_close(layer(scheme, spoiled)(x)[:, others], layer(scheme, weight)(x)[:, others])


@each_float
@pytest.mark.parametrize("rows", [1, 31, 32, 33])
def test_padding_rows_do_not_change_the_result(rows, activations):
    dtype = TORCH_DTYPES[activations]
    made, x = layer("int8_w8a8", 0.02 * normal(96, 64), activations), normal(70, 64, seed=1).to(dtype)
    assert torch.equal(made(x[:rows]), made(x)[:rows])


@each_float
@each_scheme
@pytest.mark.parametrize("kept", [(), ("lm_head",), ("q_proj", "down_proj")])
def test_a_seed_gives_the_same_weights_before_rounding(scheme, activations, kept):
    exact = build_model(SMALL, activations, "cpu", seed=3)
    rounded = build_model(SMALL, scheme, "cpu", activations, modules_to_not_convert=kept, seed=3)
    theirs, converted = exact.state_dict(), 0
    for name, weight in rounded.state_dict().items():
        if weight.dtype == torch.int8:
            scale = rounded.get_parameter(name.replace("weight", "scale"))
            difference = theirs[name].float() - weight * scale
            assert (difference.abs() <= scale * (0.5 + 1e-4)).all(), name
            converted += 1
        elif not name.endswith("scale"):
            assert torch.equal(weight, theirs[name]), name
    assert converted == sum(name.split(".")[-1] not in kept for name in linear_layers(exact))


# Rounding


@st.composite
def matrices(draw, largest=1e30):
    """A float32 matrix of any magnitude, possibly with rows of zeros."""
    rows, width = draw(st.integers(1, 70)), draw(st.integers(1, 40))
    exponents = draw(st.lists(st.integers(-30, int(np.log10(largest))), min_size=rows, max_size=rows))
    x = normal(rows, width, seed=draw(st.integers(0, 999))) * 10.0 ** torch.tensor(exponents)[:, None]
    x[torch.tensor(draw(st.lists(st.integers(0, rows - 1), max_size=3)), dtype=torch.long)] = 0
    return x.float().clamp(-3e38, 3e38)


@given(matrices(), st.sampled_from(FLOATS))
def test_rounding_leaves_at_most_half_a_step(x, activations):
    x = x.to(TORCH_DTYPES[activations])
    assume(x.isfinite().all())
    rows, scales = quantize_rows(x)
    assert (rows.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, (len(x), 1))
    difference = x.double() - rows.double() * scales.double()
    assert (difference.abs() <= scales.double() * (0.5 + 1e-4)).all()
    largest = rows.int().abs().amax(dim=1)
    assert largest.max() <= 127
    assert torch.equal(largest, 127 * x.ne(0).any(dim=1).int())


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_any_row_keeps_its_maximum(values):
    x = torch.tensor([values])
    assume(float(x.abs().max()) > 1e-30)
    rows, scales = quantize_rows(x)
    assert rows.int().abs().max() == 127
    torch.testing.assert_close(rows.double().abs().max() * scales.double(), x.double().abs().max()[None, None])
    assert ((x.double() - rows.double() * scales).abs() <= scales * (0.5 + 1e-4)).all()


@given(matrices(largest=1e4), st.sampled_from(FLOATS))
def test_padded_rows_are_whole_blocks_filled_with_zeros(x, activations):
    x = x.to(TORCH_DTYPES[activations])
    padded, scales = padded_int8_rows(x)
    assert len(padded) % 32 == 0 and len(x) <= len(padded) < len(x) + 32
    assert (padded.dtype, scales.dtype, scales.shape) == (torch.int8, x.dtype, (len(x), 1))
    assert padded.int().abs().max() <= 127
    assert not padded[len(x) :].any()
    # the quotient is first rounded to the rows' format, and above 64 the steps of bf16 are 0.5
    slack = {"fp32": 1e-4, "fp16": 0.1, "bf16": 0.75}[activations]
    difference = x.double() - padded[: len(x)].double() * scales.double()
    assert (difference.abs() <= scales.double() * (0.5 + slack)).all()


# Refusals


@pytest.mark.parametrize("width", ["hidden_size", "intermediate_size", "vocab_size"])
def test_widths_that_are_no_multiples_of_8_are_refused(width, refuses):
    arch = SMALL.scaled(**{width: 100})
    build_model(arch, "int8", "fake", modules_to_not_convert=())
    feature = "in_features" if width == "hidden_size" else "out_features"
    call = {"weights": "int8_w8a8", "device": "fake", "modules_to_not_convert": ()}
    refuses(lambda: build_model(arch, **call), f"{feature}=100", "int8_w8a8", "multiple of 8")


@pytest.mark.parametrize("name", ["head", "model.lm_head", "embed_tokens", "l"])
def test_an_unknown_module_to_keep_is_refused(name, refuses):
    for make in (Workload, lambda **options: build_model(SMALL, device="fake", **options)):
        call = {"weights": "int8", "modules_to_not_convert": (name,)}
        refuses(lambda make=make, call=call: make(**call), "modules_to_not_convert", repr(name), "lm_head", "q_proj")


def test_an_unknown_scheme_is_refused(refuses):
    refuses(lambda: Workload(weights="nf4"), "weights='nf4'", "fp16", *QUANTIZED)
    refuses(lambda: build_model(SMALL, "nf4", "fake"), "weights='nf4'", "fp16", *QUANTIZED)
