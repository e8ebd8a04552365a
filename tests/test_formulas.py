"""Every formula on ints, arrays and symbols; its body is plain arithmetic; its bytes are those of real tensors."""

import ast
import inspect

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmem import formulas

FORMULAS = {
    name: value
    for name, value in vars(formulas).items()
    if inspect.isfunction(value) and value.__module__ == formulas.__name__
}
ARITHMETIC = (ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Pow, ast.UnaryOp, ast.USub)
LEAVES = (ast.Name, ast.Load, ast.Constant, ast.Return)
every_formula = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


def argument_lists(formula):
    """Lists of three argument sets for a formula: {name: [int, int, int]}; widths in bits are those of real formats."""
    parameters = inspect.signature(formula).parameters
    largest = int(2 ** (56 / max(5, len(parameters))))  # the answer stays below 2**63, where int64 ends
    sizes, bits = st.integers(1, largest), st.sampled_from([4, 8, 16, 32])
    return st.fixed_dictionaries(
        {name: st.lists(bits if name == "bits" else sizes, min_size=3, max_size=3) for name in parameters}
    )


def test_there_are_formulas():
    assert len(FORMULAS) >= 14


@every_formula
def test_arrays_give_the_same_as_ints_one_by_one(formula):
    @given(argument_lists(formula))
    @settings(max_examples=25)
    def check(columns):
        one_by_one = [formula(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        at_once = formula(**{name: np.array(column) for name, column in columns.items()})
        assert at_once.dtype == np.int64
        assert at_once.tolist() == one_by_one

    check()


@every_formula
def test_the_algebra_gives_the_same_as_ints(formula):
    symbols = {name: sympy.Symbol(name, positive=True, integer=True) for name in inspect.signature(formula).parameters}
    algebra = formula(**symbols)

    @given(argument_lists(formula))
    @settings(max_examples=5)
    def check(columns):
        values = {name: column[0] for name, column in columns.items()}
        assert algebra.subs({symbols[name]: value for name, value in values.items()}) == formula(**values)

    check()


@every_formula
def test_an_answer_to_ints_is_a_whole_number_of_bytes(formula):
    assert type(formula(*[3] * len(inspect.signature(formula).parameters))) is int


@every_formula
def test_a_formula_is_plain_arithmetic(formula):
    function = ast.parse(inspect.getsource(formula)).body[0]
    body = function.body[1:]  # after the docstring
    nodes = [node for statement in body for node in ast.walk(statement)]
    assert [type(node).__name__ for node in nodes if not isinstance(node, ARITHMETIC + LEAVES)] == []
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    assert names == set(inspect.signature(formula).parameters)


@every_formula
def test_a_formula_says_what_it_is(formula):
    assert formula.__doc__ and formula.__name__.endswith(("_bytes", "_tokens", "_seconds"))


def test_the_formulas_import_nothing():
    tree = ast.parse(inspect.getsource(formulas))
    assert [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)] == []


def nbytes(*shape, dtype=torch.float16):
    """Bytes that torch gives a tensor of this shape; allocates nothing."""
    return torch.empty(shape, dtype=dtype, device="meta").untyped_storage().nbytes()


B, S, T, HIDDEN, HEADS, KV, D, WIDE, VOCAB, LAYERS = 3, 5, 11, 24, 6, 2, 8, 40, 101, 7
TENSORS = {
    "tensor_bytes": ((HIDDEN * WIDE, 16), nbytes(HIDDEN, WIDE)),
    "token_ids_bytes": ((B, S), nbytes(B, S, dtype=torch.int64)),
    "hidden_state_bytes": ((B, S, HIDDEN, 32), nbytes(B, S, HIDDEN, dtype=torch.float32)),
    "query_bytes": ((B, S, HEADS, D, 16), nbytes(B, S, HEADS, D)),
    "key_bytes": ((B, T, KV, D, 16), nbytes(B, T, KV, D)),
    "kv_cache_bytes": ((B, T, LAYERS, KV, D, 16), sum(nbytes(B, T, KV, D) for _ in range(2 * LAYERS))),
    "latent_cache_bytes": ((B, T, LAYERS, WIDE, D, 16), sum(nbytes(B, T, WIDE + D) for _ in range(LAYERS))),
    "expanded_cache_bytes": (
        (B, T, LAYERS, HEADS, D, 2 * D, 16),
        sum(nbytes(B, T, HEADS, D) + nbytes(B, T, HEADS, 2 * D) for _ in range(LAYERS)),
    ),
    "cache_rows_bytes": ((B, T, KV, D, 16), nbytes(B, T, KV, D)),
    "cache_scales_bytes": ((B, T, KV), nbytes(B, T, KV, 1, dtype=torch.float32)),
    "expert_rows_bytes": ((B * S, KV, WIDE, 16), nbytes(B * S * KV, WIDE)),
    "router_bias_bytes": ((HEADS,), nbytes(HEADS, dtype=torch.float32)),
    "routing_bytes": (
        (B * S, KV, HEADS),
        2 * nbytes(B * S, KV, dtype=torch.int64) + nbytes(HEADS, dtype=torch.int32),
    ),
    "attention_scores_bytes": ((B, S, T, HEADS, 16), nbytes(B, HEADS, S, T)),
    "causal_mask_bytes": ((S, T), nbytes(S, T, dtype=torch.bool)),
    "logsumexp_bytes": ((B, S, HEADS), nbytes(B, HEADS, S, dtype=torch.float32)),
    "inverse_rms_bytes": ((B, S, HEADS), nbytes(B, S, HEADS, 1, dtype=torch.float32)),
    "rope_tables_bytes": ((S, D, 16), nbytes(S, 1, D) + nbytes(S, 1, D // 2)),
    "rope_frequencies_bytes": ((D,), nbytes(D // 2, dtype=torch.float32)),
    "mlp_width_bytes": ((B, S, WIDE, 16), nbytes(B, S, WIDE)),
    "logits_bytes": ((B, S, VOCAB, 16), nbytes(B, S, VOCAB)),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_formula_gives_the_bytes_of_the_tensor_it_names(name):
    arguments, expected = TENSORS[name]
    assert FORMULAS[name](*arguments) == expected


def test_four_bit_elements_round_up_to_whole_bytes():
    assert formulas.tensor_bytes(3, 4) == 2


@pytest.mark.parametrize(
    ("layers", "kv_heads", "head_dim", "per_token"),
    [
        (28, 4, 128, 56 * 2**10),  # R1-Distill-Qwen-7B
        (32, 8, 128, 128 * 2**10),  # Llama 3 8B
        (80, 8, 128, 320 * 2**10),  # Llama 3 70B
        (32, 32, 128, 512 * 2**10),  # Llama 2 7B, no grouping: half a MiB
    ],
)
def test_the_cache_of_one_token_in_fp16_is_the_known_one(layers, kv_heads, head_dim, per_token):
    assert formulas.kv_cache_bytes(1, 1, layers, kv_heads, head_dim, 16) == per_token
