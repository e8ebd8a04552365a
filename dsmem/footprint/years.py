"""Models of three years side by side: bytes of a weight, and of a token that was read, from their configs."""

import dataclasses
from typing import Any

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.config.quoted import published
from dsmem.footprint.reads import step_reads
from dsmem.footprint.stored import KEPT, rows_of, weight_bytes
from dsmem.table import Table


@dataclasses.dataclass(frozen=True)
class ModelYear:
    """One model, as its makers publish it.

    month: of its report. attention: its kind in words. weights: the format. resident_bytes: of all weights.
    read_bytes: of the weights that one token reads. kept_per_token, seen_per_token: bytes of cache in BF16 that a token
    leaves, and that one decode step reads, divided by the tokens so far.
    """

    name: str
    month: str
    attention: str
    weights: str
    bits_per_weight: float
    resident_bytes: int
    read_bytes: float
    kept_per_token: float
    seen_per_token: float


def model_years(tokens: int = 32_768) -> list[ModelYear]:
    """The models of `config.quoted.published("models")`, in the order of their reports.

    tokens: so many have been read, which decides what a window or an indexer saves. Modules that predict further tokens
    are not counted.

    >>> [round(year.kept_per_token) for year in model_years() if year.name == "deepseek-r1"]
    [70272]
    """
    return [_year(**row, tokens=tokens) for row in published("models")["rows"]]


def years_table(years: list[ModelYear]) -> Table:
    """What `model_years` gives, as a `Table`."""
    columns = {"model": None, "month": None, "bits a weight": ".2f", "resident, GB": ",.0f", "a token reads, GB": ".1f"}
    columns |= {"a token leaves, kB": ".1f", "a step sees, kB a token": ".1f"}
    return Table(
        columns,
        [
            (
                *(year.name, year.month, year.bits_per_weight, year.resident_bytes / 1e9, year.read_bytes / 1e9),
                *(year.kept_per_token / 1e3, year.seen_per_token / 1e3),
            )
            for year in years
        ],
    )


def linear_caches(tokens: Any) -> dict[str, Any]:
    """{words: bytes} that one sequence keeps in `published("linear")`'s model: as built, and with no linear layer.

    tokens: of the sequence, a number or an array. Keys and values in BF16, the linear layers' states in FP32; their
    short convolutions, about 2% of the states, are left out.

    >>> linear_caches(0)
    {'as built': 150994944, 'if all layers kept keys and values': 0}
    """
    row = published("linear")
    layers, linear = row["num_hidden_layers"], row["linear_layers"]
    heads, key, value = (row[f"linear_{name}"] for name in ("num_value_heads", "key_head_dim", "value_head_dim"))
    state = formulas.linear_state_bytes(1, linear, heads, key, value, 32)

    def cache(kept):
        return formulas.kv_cache_bytes(1, tokens, kept, row["num_key_value_heads"], row["head_dim"], 16)

    return {"as built": cache(layers - linear) + state, "if all layers kept keys and values": cache(layers)}


def _year(name, released, report, attention, weights, tokens):
    arch = Architecture.of(name)
    # gpt-oss alone publishes this format, of its experts
    options = {"modules_to_not_convert": KEPT["all but routed experts"]} if weights == "mxfp4" else {}
    resident = weight_bytes(arch, weights, **options)
    read = step_reads(arch, 1, tokens, weights, **options)
    seen = read.pop("kv_cache")
    kept = sum(rows_of(arch, arch.cache_rows(), "bf16", 1, tokens))
    rates = kept / tokens, seen / tokens
    return ModelYear(
        name, released, attention, weights, 8 * resident / arch.n_params, resident, sum(read.values()), *rates
    )
