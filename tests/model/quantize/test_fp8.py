"""FP8 tiles: DeepSeek's published counts, its own dequantization, and the error bound of rounding to E4M3."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import layer, normal, relative_error

from dsmem import formulas
from dsmem.model.decoder import TORCH_DTYPES
from dsmem.model.quantize import fp8_scales, tiles
from dsmem.units import FLOATS

# in_features, out_features of DeepSeek-V3's projections (config.json: hidden_size 7168, q_lora_rank 1536,
# kv_lora_rank 512, 128 heads of 128 + 64 query and 128 value dimensions)
ATTENTION = [(7168, 1536), (1536, 128 * 192), (7168, 512 + 64), (512, 128 * 256), (128 * 128, 7168)]
SIZES = st.integers(1, 300)


def mlp(width):
    return [(7168, width), (7168, width), (width, 7168)]


# 3 dense layers, 58 of experts (256 routed, 1 shared), and one more for multi-token prediction
R1 = 3 * (ATTENTION + mlp(18_432)) + 59 * (ATTENTION + 257 * mlp(2048))


def test_r1s_fp8_matrices_and_scales_are_the_published_ones():
    assert sum(n_in * n_out for n_in, n_out in R1) == 680_571_043_840
    # the checkpoint's other float32 numbers: the router's bias, one for each of 256 experts in 59 layers
    assert sum(fp8_scales(n_in, n_out) for n_in, n_out in R1) + 59 * 256 == 41_555_600
    assert sum(formulas.fp8_linear_bytes(*shape) for shape in R1) == 680_571_043_840 + 4 * (41_555_600 - 59 * 256)


@pytest.mark.parametrize(("n_in", "n_out", "rows", "columns"), [(7168, 2048, 16, 56), (7168, 576, 5, 56)])
def test_a_layers_scales_have_the_published_shape(n_in, n_out, rows, columns):
    made = layer("fp8", torch.ones(n_out, n_in))
    assert made.weight_scale_inv.shape == (rows, columns)
    assert (made.weight.dtype, made.weight_scale_inv.dtype) == (torch.float8_e4m3fn, torch.float32)
    assert fp8_scales(n_in, n_out) == rows * columns


def spread_out(made, n_out, n_in):
    """Every element's scale, a matrix of the weight's size: each scale repeated over its tile."""
    wide = made.weight_scale_inv.repeat_interleave(128, dim=0).repeat_interleave(128, dim=1)
    return wide[:n_out, :n_in]


@given(SIZES, SIZES, st.sampled_from(FLOATS), st.integers(-30, 30), st.integers(0, 99))
@settings(max_examples=60)
def test_the_copy_is_weight_times_scale_rounded_once(n_out, n_in, activations, exponent, seed):
    made = layer("fp8", normal(n_out, n_in, seed=seed) * 10.0**exponent, activations)
    dtype = TORCH_DTYPES[activations]
    # DeepSeek-V3's inference/kernel.py, weight_dequant: both factors in float32, the product stored in the format
    expected = (made.weight.float() * spread_out(made, n_out, n_in)).to(dtype)
    assert torch.equal(made.weight_copy(dtype), expected)


@given(SIZES, SIZES, st.integers(-25, 25), st.integers(0, 99))
@settings(max_examples=60)
def test_rounding_leaves_a_sixteenth_of_each_number_or_half_the_least_step(n_out, n_in, exponent, seed):
    weight = normal(n_out, n_in, seed=seed) * 10.0**exponent
    weight[n_out // 2] *= 1e-4
    made = layer("fp8", weight)
    scale = spread_out(made, n_out, n_in).double()
    difference = (made.weight.double() * scale - weight.double()).abs()
    # three bits behind the leading one; below 2**-6, steps of 2**-9
    assert (difference <= torch.maximum(weight.double().abs() / 16, scale * 2.0**-10) * (1 + 1e-5)).all()
    for tile, _ in tiles(made.weight.float(), 128, 128):
        assert (tile.abs().amax(dim=(1, 3)) == 448).all()


@given(SIZES, SIZES, st.integers(1, 130), st.integers(1, 130))
def test_tiles_cover_each_element_once_with_its_own_scale(rows, columns, height, width):
    seen = torch.zeros(rows, columns, dtype=torch.int64)
    numbers = torch.arange(-(-rows // height) * -(-columns // width)).view(-(-rows // height), -1)
    for tile, index in tiles(seen, height, width):
        tile += 1 + numbers[index]
    i, j = torch.arange(rows) // height, torch.arange(columns) // width
    assert torch.equal(seen, 1 + numbers[i][:, j])


def test_an_outlier_in_a_weight_harms_its_own_tile_alone():
    weight = 0.02 * normal(256, 256)
    spoiled = weight.clone()
    spoiled[3, 5] = 1e4
    fine, coarse = layer("fp8", weight).weight_copy(torch.float32), layer("fp8", spoiled).weight_copy(torch.float32)
    same = fine == coarse
    assert same[128:].all() and same[:, 128:].all() and not same[:128, :128].all()


def test_the_largest_number_of_a_tile_stays_finite_whatever_its_scale():
    for value in torch.rand(200, generator=torch.Generator().manual_seed(1)) * 1e-3:
        made = layer("fp8", torch.full((2, 2), value.item()))
        assert relative_error(made.weight_copy(torch.float32), torch.full((2, 2), value.item()).double()) < 1e-6


# Classic wrong answers


@pytest.mark.parametrize(("n_in", "n_out"), [(7168, 576), (896, 1000), (100, 100)])
def test_scales_at_a_cut_edge_are_whole_scales(n_in, n_out):
    made = layer("fp8", torch.zeros(n_out, n_in))
    stored = sum(tensor.nbytes for tensor in made.parameters())
    assert formulas.fp8_linear_bytes(n_in, n_out) == stored
    floored = n_in * n_out + 4 * (n_in // 128) * (n_out // 128)
    by_elements = n_in * n_out + 4 * (n_in * n_out // 128**2)
    assert (stored == floored) == (n_in % 128 == 0 and n_out % 128 == 0)
    assert by_elements <= stored
