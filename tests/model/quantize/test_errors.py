"""Outliers planted in known data: finer scales do less harm, and mixed precision undoes most of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import layer, normal

from dsmem.model.quantize import errors as outliers
from dsmem.model.quantize import quantize_rows
from dsmem.model.quantize.errors import mixed, plant_columns, plant_numbers, product_errors, round_trip, weight_errors

SEEDS = st.integers(0, 10_000)
FACTORS = st.floats(20, 60)


@given(SEEDS, st.integers(8, 64), st.sampled_from((512, 1024, 1536)), st.integers(1, 2), FACTORS)
@settings(max_examples=25)
def test_finer_scales_harm_a_product_less(seed, tokens, width, columns, factor):
    x = plant_columns(normal(tokens, width, seed=seed), columns, factor, seed)
    errors = product_errors(x, 0.02 * normal(96, width, seed=seed + 1))
    tensor, _, token, groups, llm_int8 = errors.values()
    assert tensor > token > groups > llm_int8


@given(SEEDS, st.integers(64, 256), st.sampled_from((512, 1000, 1536)), st.integers(1, 12), FACTORS)
@settings(max_examples=25)
def test_finer_scales_harm_a_weight_less(seed, outputs, width, count, factor):
    weight = plant_numbers(0.02 * normal(outputs, width, seed=seed), count, factor, seed)
    tensor, channel, groups = weight_errors(weight).values()
    assert tensor > channel > groups


@given(SEEDS, st.integers(2, 6), FACTORS)
@settings(max_examples=15)
def test_mixed_precision_undoes_most_of_the_harm_of_six_columns(seed, columns, factor):
    plain, weight = normal(32, 1024, seed=seed), 0.02 * normal(128, 1024, seed=seed + 1)
    spoiled = product_errors(plant_columns(plain, columns, factor, seed), weight)
    unharmed = product_errors(plain, weight)
    assert spoiled["per token"] > 3 * unharmed["per token"]
    assert spoiled["mixed"] < 1.2 * unharmed["mixed"]


@given(SEEDS)
@settings(max_examples=10)
def test_without_outliers_little_is_gained(seed):
    errors = product_errors(normal(32, 1024, seed=seed), 0.02 * normal(128, 1024, seed=seed + 1))
    assert errors["per tensor"] < 2 * errors["groups of 128"]
    assert errors["mixed"] == errors["per token"]  # nothing reaches the threshold


@given(SEEDS, st.sampled_from(outliers.PER), st.integers(2, 7))
@settings(max_examples=20)
def test_each_bit_more_halves_the_error_or_nearly(seed, per, bits):
    x = normal(16, 512, seed=seed)
    coarse, fine = (outliers.error(round_trip(x, per, width), x) for width in (bits, bits + 1))
    assert fine < (0.6 if bits > 2 else 0.8) * coarse


@pytest.mark.parametrize("per", outliers.PER)
def test_rounding_leaves_at_most_half_a_step(per):
    x = plant_columns(normal(16, 300), 3, 50.0)
    for bits in range(2, 9):
        rounded = round_trip(x, per, bits, group_size=64)
        assert (rounded - x).abs().max() <= x.abs().max() / (2 ** (bits - 1) - 1) * 0.5001
        assert len(torch.unique(round_trip(x[:1], "row", bits))) <= 2**bits - 1


def test_rows_are_rounded_as_the_int8_layers_do():
    x = plant_columns(normal(40, 96), 3, 30.0)
    rows, scales = quantize_rows(x)
    torch.testing.assert_close(round_trip(x, "row"), rows.double() * scales.double(), rtol=1e-5, atol=0)


def test_per_token_is_what_a_w8a8_layer_gives():
    x, weight = plant_columns(normal(40, 512), 3, 30.0), 0.02 * normal(96, 512)
    got = outliers.error(layer("int8_w8a8", weight)(x), x.double() @ weight.double().T)
    assert got == pytest.approx(product_errors(x, weight)["per token"], rel=1e-3)


def test_mixed_keeps_exactly_the_planted_columns():
    x, weight = normal(32, 256), 0.02 * normal(64, 256)
    spoiled = plant_columns(x, 6, 40.0)
    planted = (spoiled != x).any(dim=0)
    assert planted.sum() == 6
    by_hand = round_trip(x * ~planted, "row") + (spoiled * planted).half().double()
    torch.testing.assert_close(mixed(spoiled, weight), by_hand @ round_trip(weight, "row").T)


@pytest.mark.parametrize(("largest", "kept"), [(6.0, True), (-6.0, True), (5.99, False)])
def test_a_column_stays_in_16_bit_from_the_threshold_on(largest, kept):
    x = torch.zeros(4, 8)
    x[2, 3], x[2, 4] = largest, 0.02
    # beside 5.99, 0.02 is less than half a step; without it, 0.02 is the largest of its row
    assert (mixed(x, torch.eye(8))[2, 4] > 0.01) == kept


def test_four_bits_need_groups():
    weight = plant_numbers(0.02 * normal(256, 1024), 64, 40.0)
    errors = weight_errors(weight, bits=4)
    assert errors["per tensor"] > 0.5 > errors["per channel"] > 1.2 * errors["groups of 128"]


def test_planting_leaves_the_original_and_the_other_columns_alone():
    x = normal(8, 64)
    before = x.clone()
    planted = plant_columns(x, 5, 20.0)
    assert torch.equal(x, before)
    assert ((planted != x).any(dim=0)).sum() == 5
    assert torch.equal(plant_columns(x, 0), x) and (plant_numbers(x, 7, 20.0) != x).sum() == 7


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plant_columns(torch.ones(2, 8), columns=9), ("columns=9", "0 to 8")),
        (lambda: plant_columns(torch.ones(2, 8), columns=1.5), ("columns=1.5", "whole number")),
        (lambda: plant_numbers(torch.ones(2, 8), count=-1), ("count=-1", "0 to 16")),
        (lambda: round_trip(torch.ones(2, 8), per="column"), ("per='column'", "tensor, row, group")),
        (lambda: round_trip(torch.ones(2, 8), bits=16), ("bits=16", "2 to 8")),
    ],
)
def test_impossible_arguments_are_refused(call, words, refuses):
    refuses(call, *words)
