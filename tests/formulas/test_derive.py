"""Source, equation and legend of every formula."""

import inspect
import itertools

import pytest
import sympy

import dsmem
from dsmem import formulas
from dsmem.formulas import derive

FORMULAS = {
    name: value
    for name, value in vars(formulas).items()
    if inspect.isfunction(value) and value.__module__.startswith(formulas.__name__)
}
every_formula = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


def arguments(formula):
    return list(inspect.signature(formula).parameters)


@every_formula
def test_every_argument_has_a_letter(formula):
    assert [name for name in arguments(formula) if name not in derive.SYMBOLS] == []


@every_formula
def test_no_two_arguments_share_a_letter(formula):
    letters = [derive.SYMBOLS.get(name, name) for name in arguments(formula)]
    assert [pair for pair in itertools.combinations(letters, 2) if pair[0] == pair[1]] == []


@every_formula
def test_the_equation_gives_the_same_as_the_formula(formula):
    names = arguments(formula)
    for values in (range(3, 3 + len(names)), range(101, 101 + len(names)), [8] * len(names)):
        numbers = dict(zip(names, values, strict=True))
        by_letter = {str(derive.SYMBOLS.get(name, name)): number for name, number in numbers.items()}
        equation = derive.equation(formula)
        answer = equation.subs({s: by_letter[s.name] for s in equation.free_symbols})
        if formula.__name__.endswith("_bytes"):
            assert answer == formula(**numbers)
        assert float(answer) == pytest.approx(formula(**numbers), rel=1e-12)


@every_formula
def test_the_equation_has_a_ceiling_where_a_reader_expects_one(formula):
    rounds_down = formula.__module__.endswith(".capacity")  # what fits is whole sequences and tokens
    assert bool(derive.equation(formula).atoms(sympy.floor)) == rounds_down


@every_formula
def test_the_shown_source_runs_and_is_the_formula(formula):
    namespace = {}
    exec(dsmem.show(formula).source, namespace)
    shown = namespace[formula.__name__]
    assert shown.__doc__ is None
    numbers = range(7, 7 + len(arguments(formula)))
    assert shown(*numbers) == formula(*numbers)


@every_formula
def test_the_legend_names_each_letter_of_the_equation(formula):
    derivation = dsmem.show(formula)
    assert set(derivation.legend) == {str(symbol) for symbol in derivation.expression.free_symbols}
    assert set(derivation.legend.values()) <= set(arguments(formula))


def test_the_cache_of_one_layer_reads_as_in_the_literature():
    shown = derive.equation("kv_cache_bytes", bits=16)
    b, t, layers, n_kv, d = (
        derive.SYMBOLS[name] for name in ("batch", "cache_len", "num_hidden_layers", "num_key_value_heads", "head_dim")
    )
    assert shown == 4 * b * t * layers * n_kv * d


def test_a_name_does_as_well_as_the_function():
    assert derive.equation("logits_bytes") == derive.equation(formulas.logits_bytes)


def test_a_notebook_shows_source_equation_and_legend():
    markdown = dsmem.show("kv_cache_bytes", bits=16)._repr_markdown_()
    assert "```python\ndef kv_cache_bytes(" in markdown
    assert "$$" in markdown and "n_{kv}" in markdown and "`num_key_value_heads`" in markdown


def test_without_a_notebook_source_and_equation_are_printed():
    text = repr(dsmem.show("token_ids_bytes"))
    assert text.startswith("def token_ids_bytes(batch, seq_len):") and text.endswith("8*b*s")


def test_an_unknown_formula_is_refused_with_the_known_ones(refuses):
    refuses(lambda: dsmem.show("kv_bytes"), "formula", "'kv_bytes'", *FORMULAS)


def test_an_unknown_argument_is_refused_with_the_known_ones(refuses):
    refuses(lambda: dsmem.show("logits_bytes", width=3), "'width'", "logits_bytes", "vocab_size")
