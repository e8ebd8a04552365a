"""Every formula on ints, arrays and symbols; its body is plain arithmetic; its bytes are those of real tensors."""

import ast
import inspect

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from dsmem import formulas

FORMULAS = {
    name: value
    for name, value in vars(formulas).items()
    if inspect.isfunction(value) and value.__module__.startswith(formulas.__name__)
}
ARITHMETIC = (ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Pow, ast.UnaryOp, ast.USub)
LEAVES = (ast.Name, ast.Load, ast.Constant, ast.Return)
every_formula = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
IN_BYTES = {name: formula for name, formula in FORMULAS.items() if name.endswith("_bytes")}


def argument_lists(formula):
    """Lists of three argument sets for a formula: {name: [int, int, int]}; widths in bits are those of real formats."""
    parameters = inspect.signature(formula).parameters
    largest = int(2 ** (56 / max(5, len(parameters))))  # the answer stays below 2**63, where int64 ends
    sizes, bits = st.integers(1, largest), st.sampled_from([4, 8, 16, 32])
    return st.fixed_dictionaries(
        {name: st.lists(bits if name == "bits" else sizes, min_size=3, max_size=3) for name in parameters}
    )


def answer(formula, values):
    """What the formula says of ints; Hypothesis drops an example at which it has no answer, or none that is a float."""
    try:
        return formula(**values)
    except (ZeroDivisionError, OverflowError):
        reject()


def test_there_are_formulas():
    assert len(FORMULAS) >= 14


@every_formula
def test_arrays_give_the_same_as_ints_one_by_one(formula):
    @given(argument_lists(formula))
    @settings(max_examples=25)
    def check(columns):
        one_by_one = [
            answer(formula, dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)
        ]
        at_once = formula(**{name: np.array(column) for name, column in columns.items()})
        if formula in IN_BYTES.values():
            assert at_once.dtype == np.int64
            assert at_once.tolist() == one_by_one
        assert at_once.tolist() == pytest.approx(one_by_one, rel=1e-12)

    check()


@every_formula
def test_the_algebra_gives_the_same_as_ints(formula):
    symbols = {name: sympy.Symbol(name, positive=True, integer=True) for name in inspect.signature(formula).parameters}
    algebra = formula(**symbols)

    @given(argument_lists(formula))
    @settings(max_examples=5)
    def check(columns):
        values = {name: column[0] for name, column in columns.items()}
        number, solved = answer(formula, values), algebra.subs({symbols[name]: values[name] for name in values})
        if formula in IN_BYTES.values():
            assert solved == number
        assert float(solved) == pytest.approx(number, rel=1e-6)  # break_even_tokens subtracts, and loses digits

    check()


@pytest.mark.parametrize("formula", IN_BYTES.values(), ids=IN_BYTES)
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
    assert formula.__doc__ and formula.__name__.endswith(
        ("_bytes", "_seconds", "_tokens", "_sequences", "_experts", "_bytes_per_s", "_tokens_per_s", "_params")
    )


def test_the_formulas_import_nothing():
    for module in {inspect.getmodule(formula) for formula in FORMULAS.values()}:
        tree = ast.parse(inspect.getsource(module))
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


# Published: DeepSeek-V3 has 61 layers of 512 + 64 latent numbers (arXiv 2412.19437, section 4.2); the 7Bs as above.
PER_TOKEN = {"R1": 61 * 576 * 2, "Distill-7B": 56 * 2**10, "Llama-2-7B": 512 * 2**10}
A100_HALF = 312e12 / 2  # dense BF16 operations a second, half of them reached
MULTIPLIED = {  # parameters without embedding and head
    "Distill-7B": 7_615_616_512 - 2 * 152_064 * 3584,
    "Llama-2-7B": 6_738_415_616 - 2 * 32_000 * 4096,
}


@pytest.mark.parametrize(
    ("model", "prefix_bytes", "on_10_gbit", "on_100_gbit"),
    [("R1", 288e6, 0.23, 0.023), ("Distill-7B", 235e6, 0.19, 0.019), ("Llama-2-7B", 2.15e9, 1.7, 0.172)],
)
def test_a_prefix_of_4096_tokens_is_fetched_in_the_known_time(model, prefix_bytes, on_10_gbit, on_100_gbit):
    nbytes = 4096 * PER_TOKEN[model]
    assert nbytes == pytest.approx(prefix_bytes, rel=0.005)
    assert formulas.fetch_seconds(nbytes, 10e9 / 8, 0) == pytest.approx(on_10_gbit, rel=0.02)
    assert formulas.fetch_seconds(nbytes, 100e9 / 8, 0) == pytest.approx(on_100_gbit, rel=0.02)
    assert formulas.fetch_seconds(nbytes, 100e9 / 8, 0.5) == pytest.approx(0.5 + on_100_gbit, rel=0.001)


@pytest.mark.parametrize("model", MULTIPLIED)
def test_a_7b_computes_4096_tokens_in_about_a_third_of_a_second(model):
    assert formulas.prefill_seconds(MULTIPLIED[model], 4096, A100_HALF) == pytest.approx(0.34, rel=0.03)


def test_attention_counts_every_pair_of_tokens_once():
    # scores and weighted sums, two operations each, over the half of the pairs that lies in the past
    pairs = 4096 * 4096 / 2
    assert formulas.attention_seconds(4096, 28, 28, 128, 1) == 2 * 2 * pairs * 28 * 28 * 128


@pytest.mark.parametrize(
    ("model", "gbit_per_s"), [("Distill-7B", 235e6 / 0.34 * 8e-9), ("Llama-2-7B", 2.15e9 / 0.34 * 8e-9)]
)
def test_without_grouped_heads_a_prefix_wants_a_link_nine_times_as_fast(model, gbit_per_s):
    case = {"bytes_per_token": PER_TOKEN[model], "n_active_params": MULTIPLIED[model], "flops_per_s": A100_HALF}
    assert 8e-9 * formulas.break_even_bytes_per_s(**case) == pytest.approx(gbit_per_s, rel=0.02)
    below, above = (
        formulas.break_even_tokens(**case, bandwidth_bytes_per_s=1e9 / 8 * gbit_per_s * by, latency_s=0.001)
        for by in (0.9, 1.1)
    )
    assert below < 0 < above


@given(latency=st.floats(1e-6, 1), gbit_per_s=st.floats(6, 1000))
def test_at_the_break_even_length_both_take_as_long(latency, gbit_per_s):
    per_token, params, bandwidth = PER_TOKEN["Distill-7B"], MULTIPLIED["Distill-7B"], gbit_per_s * 1e9 / 8
    tokens = formulas.break_even_tokens(per_token, params, bandwidth, latency, A100_HALF)
    fetched = formulas.fetch_seconds(per_token * tokens, bandwidth, latency)
    assert fetched == pytest.approx(formulas.prefill_seconds(params, tokens, A100_HALF))


@pytest.mark.parametrize(("seq_len", "tokens"), [(1, 16), (16, 16), (17, 32), (100, 112)])
def test_the_last_page_counts_whole(seq_len, tokens):
    assert formulas.paged_tokens(seq_len, 16) == tokens
