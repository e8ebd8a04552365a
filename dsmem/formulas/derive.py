"""Show a formula as source and as equation: one set of symbols for every notebook."""

import inspect
from typing import Any

import sympy

from dsmem import formulas

_LETTERS = {
    "batch": "b",
    "seq_len": "s",
    "key_len": "t",
    "cache_len": "t",
    "positions": "p",
    "hidden_size": "h",
    "num_attention_heads": "n_h",
    "num_key_value_heads": "n_kv",
    "head_dim": "d_h",
    "intermediate_size": "i",
    "vocab_size": "V",
    "num_hidden_layers": "L",
    "vectors_per_token": "n",
    "elements": "N",
    "in_features": "n_in",
    "out_features": "n_out",
    "kv_lora_rank": "d_c",
    "qk_rope_head_dim": "d_r",
    "qk_head_dim": "d_qk",
    "v_head_dim": "d_v",
    "n_routed_experts": "E",
    "num_experts_per_tok": "k",
    "moe_intermediate_size": "i_e",
    "heads": "n",
    "group_size": "g",
    "block_size": "B",
    "block_elements": "g",
    "bytes_per_block": "c_g",
    "row_bytes": "c",
    "row_alignment": "a",
    "rows": "r",
    "width": "m",
    "bits": "w",
    "nbytes": "D",
    "tokens": "s",
    "bytes_per_token": "c",
    "n_active_params": "N",
    "bandwidth_bytes_per_s": "B",
    "latency_s": "tau",
    "flops_per_s": "F",
    "weight_bytes": "W",
    "cache_bytes": "C",
    "data": "N_d",
    "tensor": "t",
    "pipeline": "p",
    "ranks": "R",
    "microbatches": "M",
    "state_bits": "w_s",
    "n_params": "N",
    "moments": "m",
    "weight_bits": "w_w",
    "gradient_bits": "w_g",
    "master_bits": "w_p",
    "moment_bits": "w_m",
    "segments": "k",
    "input_bytes": "C_x",
    "layer_bytes": "C_l",
    "rank": "r",
    "usable_bytes": "C",
    "fixed_bytes": "C_0",
    "sequence_bytes": "c_s",
}

SYMBOLS = {
    name: sympy.Symbol(letter, positive=True, integer=None if name.endswith("_s") else True)
    for name, letter in _LETTERS.items()
}
"""SymPy symbols by argument name, the letters of the literature (b, s, h, ...)."""

_UNITS = {
    "_seconds": "seconds",
    "_tokens": "tokens",
    "_sequences": "sequences",
    "_experts": "experts",
    "_params": "parameters",
    "_bytes_per_s": "bytes per second",
    "_tokens_per_s": "tokens per second",
}  # and bytes elsewhere


def equation(formula: Any, **values: Any) -> sympy.Expr:
    """The formula as a SymPy expression in bytes; `values` puts numbers in place of some arguments.

    formula: a function of `dsmem.formulas`, or its name. Raises ValueError for an unknown name or argument.

    >>> equation("hidden_state_bytes", bits=16)
    2*b*h*s
    """
    formula = _formula(formula)
    names = list(inspect.signature(formula).parameters)
    for name in values:
        if name not in names:
            raise ValueError(f"{name!r} is not an argument of {formula.__name__}; allowed: {', '.join(names)}")
    result = formula(**{name: values.get(name, SYMBOLS.get(name, sympy.Symbol(name))) for name in names})
    return sympy.sympify(result).replace(_is_negated_floor, _as_ceiling)


def show(formula: Any, **values: Any) -> "Derivation":
    """Source and equation of a formula side by side, for a notebook cell; arguments as in `equation`.

    >>> print(show("hidden_state_bytes", bits=16).latex)
    \\mathtt{hidden\\_state\\_bytes} = 2 b h s
    """
    return Derivation(_formula(formula), equation(formula, **values))


class Derivation:
    """What `show` returns: `.source` (str), `.expression` (SymPy), `.latex`; renders as Markdown in a notebook."""

    def __init__(self, formula, expression):
        self.source = _without_docstring(formula)
        self.expression = expression
        name = formula.__name__.replace("_", r"\_")
        self.unit = next((unit for ending, unit in _UNITS.items() if formula.__name__.endswith(ending)), "bytes")
        self.latex = rf"\mathtt{{{name}}} = {sympy.latex(expression)}"
        self.legend = {
            str(SYMBOLS[name]): name
            for name in inspect.signature(formula).parameters
            if name in SYMBOLS and SYMBOLS[name] in expression.free_symbols
        }

    def __repr__(self):
        return f"{self.source}\n{self.expression}"

    def _repr_markdown_(self):
        letters = ", ".join(f"${sympy.latex(SYMBOLS[name])}$ = `{name}`" for name in self.legend.values())
        return f"```python\n{self.source}\n```\n\n$${self.latex}\\quad\\text{{{self.unit}}}$$\n\n{letters}"


def _formula(formula):
    if callable(formula):
        return formula
    if not hasattr(formulas, str(formula)):
        names = [name for name, value in vars(formulas).items() if inspect.isfunction(value)]
        raise ValueError(f"formula={formula!r} is unknown; allowed: {', '.join(names)}")
    return getattr(formulas, formula)


def _without_docstring(formula):
    source = inspect.getsource(formula)
    if formula.__doc__ is None:
        return source.strip()
    head, _, tail = source.partition('"""')
    return head.rstrip() + "\n" + tail.partition('"""')[2].strip("\n").rstrip()


def _is_negated_floor(part):
    return isinstance(part, sympy.floor) and part.args[0].could_extract_minus_sign()


def _as_ceiling(part):
    """floor(-x) is -ceiling(x), the form a reader expects."""
    return -sympy.ceiling(-part.args[0])
