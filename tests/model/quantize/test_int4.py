"""INT4 groups: packing against a reference by hand, errors of half a step, and bytes with scales and zero points."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import layer, normal, relative_error

from dsmem import formulas
from dsmem.model.decoder import TORCH_DTYPES
from dsmem.model.quantize import Int4Linear
from dsmem.units import FLOATS

SIZES = st.integers(1, 300)


def grouped(weight, group_size, bias=False):
    made = Int4Linear(*weight.shape[::-1], bias=bias, dtype=torch.float32, device="cpu", group_size=group_size)
    made.set_weight(weight)
    return made


def spread_out(made, numbers):
    """One number per element: each group's number repeated."""
    return numbers.double().repeat_interleave(made.group_size, dim=1)[:, : made.in_features]


def unpacked(made):
    """The codes, read byte by byte: even columns are in the low half, odd columns in the high half."""
    packed, codes = made.weight.numpy(), np.zeros((made.out_features, made.in_features))
    for column in range(made.in_features):
        byte = packed[:, column // 2].astype(int)
        codes[:, column] = byte // 16 if column % 2 else byte % 16
    return torch.from_numpy(codes)


@given(SIZES, SIZES, st.integers(1, 150), st.integers(0, 99), st.sampled_from(FLOATS))
@settings(max_examples=60)
def test_the_copy_is_code_less_zero_point_times_scale_rounded_once(n_out, n_in, group_size, seed, activations):
    made = grouped(0.02 * normal(n_out, n_in, seed=seed) + 0.01, group_size)
    codes, zero = unpacked(made), spread_out(made, made.zero_point)
    expected = ((codes - zero) * spread_out(made, made.scale)).float().to(TORCH_DTYPES[activations])
    assert torch.equal(made.weight_copy(TORCH_DTYPES[activations]), expected)


@given(SIZES, SIZES, st.integers(1, 150), st.integers(-30, 37), st.floats(-3, 3), st.integers(0, 99))
@settings(max_examples=60)
def test_rounding_leaves_half_a_step_and_keeps_zeros(n_out, n_in, group_size, exponent, offset, seed):
    weight = (normal(n_out, n_in, seed=seed) + offset) * 10.0**exponent
    weight[:, n_in // 2] = 0
    made = grouped(weight, group_size)
    difference = (made.weight_copy(torch.float32).double() - weight.double()).abs()
    # the scale has 8 significant bits, so 15 steps may miss the span by 15 / 256 of a step
    assert (difference <= spread_out(made, made.scale) * (0.5 + 15 / 256 + 1e-3)).all()
    assert not made.weight_copy(torch.float32)[:, n_in // 2].any()
    assert torch.equal(made.zero_point, made.zero_point.round()) and 0 <= made.zero_point.min()


@given(st.integers(1, 150), st.integers(0, 99))
def test_numbers_that_are_levels_come_back_exactly(group_size, seed):
    codes = torch.randint(0, 16, (40, 200), generator=torch.Generator().manual_seed(seed)).float()
    for start in range(0, 200, group_size):
        codes[:, start] = 0
        codes[:, min(start + group_size, 200) - 1] = 15
    made = grouped(codes * 0.25, group_size)
    if group_size > 1 and 200 % group_size != 1:
        assert torch.equal(made.weight_copy(torch.float32), codes * 0.25)


@pytest.mark.parametrize("seed", range(3))
def test_smaller_groups_leave_smaller_errors_and_take_more_bytes(seed):
    weight = 0.02 * normal(256, 1024, seed=seed)
    made = [grouped(weight, size) for size in (1024, 256, 128, 64, 32)]
    errors = [relative_error(each.weight_copy(torch.float32), weight.double()) for each in made]
    stored = [sum(tensor.nbytes for tensor in each.parameters()) for each in made]
    assert errors == sorted(errors, reverse=True) and stored == sorted(stored)
    assert 0.09 < errors[2] < 0.11


def test_a_weight_outlier_harms_its_own_group_alone():
    weight = 0.02 * normal(96, 384)
    spoiled = weight.clone()
    spoiled[3, 130] = 100
    same = grouped(weight, 128).weight_copy(torch.float32) == grouped(spoiled, 128).weight_copy(torch.float32)
    assert same[torch.arange(96) != 3].all() and same[3, :128].all() and same[3, 256:].all()
    assert not same[3, 128:256].all()


@given(SIZES, SIZES, st.integers(1, 300))
@settings(max_examples=60)
def test_bytes_are_those_of_the_stored_tensors(n_out, n_in, group_size):
    stored = sum(tensor.nbytes for tensor in grouped(torch.zeros(n_out, n_in), group_size).parameters())
    assert formulas.int4_linear_bytes(n_in, n_out, group_size) == stored


@pytest.mark.parametrize("wrong", [4, 4.125, 4.15625])
def test_a_weight_takes_four_and_a_quarter_bits(wrong):
    """Not 4 (no scales), 4.125 (no zero points) or 4.156 (zero points of 4 bits, as AWQ packs them)."""
    made = layer("int4", torch.zeros(1024, 4096))
    bits = 8 * sum(tensor.nbytes for tensor in made.parameters()) / (1024 * 4096)
    assert bits == 4.25 != wrong
    assert formulas.int4_linear_bytes(4096, 1024, 128) == 1024 * 4096 * 4.25 / 8


@pytest.mark.parametrize("group_size", [0, -1, 1.5, True, None])
def test_an_impossible_group_size_is_refused(group_size, refuses):
    refuses(lambda: grouped(torch.zeros(2, 2), group_size), f"group_size={group_size!r}", "at least 1")
