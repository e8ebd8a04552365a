"""What can be turned in an explorer: the values of each control, read from one spelling by both kinds of explorer."""

import dataclasses
from collections.abc import Mapping
from numbers import Number
from typing import Any

LABELS = {
    "batch": "batch (sequences)",
    "seq_len": "length (tokens)",
    "cached_tokens": "cached (tokens)",
    "tokens": "length (tokens)",
    "num_experts_per_tok": "experts a token",
    "lora_rank": "LoRA rank",
    "weights": "weights (format)",
    "kv_cache": "KV cache (format)",
    "logits": "logits kept",
    "kept": "kept in 16 bit",
    "modules_to_not_convert": "kept in 16 bit",
    "hide": "left out",
    "gpu": "GPU",
    "count": "number of GPUs",
    "overhead_bytes": "kept free",
    "every_instant": "every instant",
    "num_key_value_heads": "KV heads of GQA",
    "mla_cache": "MLA keeps",
    "max_split_size_mb": "max split (MiB)",
    "expandable_segments": "expandable",
}


@dataclasses.dataclass(frozen=True)
class Knob:
    """One control: its values in order, as they are and as a page shows them.

    kind: "slider" over numbers, "steps" (a slider over a range), "menu", "box" to tick, or "fixed": no control.
    at: the place of the value that it starts with. texts, title: what a page shows, where that is not the plain value
    or name.
    """

    name: str
    kind: str
    values: tuple
    at: int = 0
    texts: tuple = ()
    title: str = ""

    @property
    def start(self) -> Any:
        """The value that it starts with."""
        return self.values[self.at]

    @property
    def label(self) -> str:
        """What it is called, with its unit."""
        return self.title or LABELS.get(self.name, self.name.replace("_", " "))

    def shown(self) -> list[str]:
        """Every value as a reader sees it."""
        return list(self.texts) or [f"{v:,}" if _is_number(v) else str(v) for v in self.values]


def read(name: str, spec: Any, menus: bool = False) -> Knob:
    """The `Knob` that `spec` describes, in the forms that `dsmem.explore` lists; {text: value} is a menu.

    menus: a menu in place of each slider over numbers. Raises ValueError, one sentence, for any other form.

    >>> read("batch", (1, 8, 4)).values, read("batch", (1, 8, 4)).start
    ((1, 2, 4, 8), 4)
    """
    if isinstance(spec, bool):
        return Knob(name, "box", (False, True), int(spec))
    if isinstance(spec, str | Number | None):
        return Knob(name, "fixed", (spec,))
    if isinstance(spec, range) and len(spec) > 1 and spec.step > 0:
        return Knob(name, "steps", tuple(spec))
    if isinstance(spec, tuple) and powers(spec):
        values = powers(spec)
        return _choice(name, values, values.index(spec[-1] if len(spec) == 3 else spec[0]), menus)
    if isinstance(spec, list) and spec:
        values = sorted(spec) if _are_numbers(spec) else spec
        return _choice(name, values, values.index(spec[0]), menus)
    if isinstance(spec, Mapping) and spec and all(isinstance(text, str) for text in spec):
        return Knob(name, "menu", tuple(spec.values()), 0, tuple(spec))
    raise ValueError(
        f"{name}={spec!r} makes no control; allowed: (low, high) or (low, high, start) in powers of two, "
        "a list, {text: value}, a range, True or False, a widget, or one number or text"
    )


def powers(spec: tuple) -> list[int]:
    """The powers of two from low to high, or nothing if `spec` is not made of them.

    >>> powers((2, 16)), powers((1, 3))
    ([2, 4, 8, 16], [])
    """
    if len(spec) not in (2, 3) or not all(isinstance(n, int) and n > 0 and n & (n - 1) == 0 for n in spec):
        return []
    found = [2**k for k in range(spec[0].bit_length() - 1, spec[1].bit_length())]
    return found if spec[-1] in found else []


def _choice(name, values, at, menus):
    """A slider over numbers in order, a menu over anything else."""
    kind = "slider" if len(values) > 1 and _are_numbers(values) and not menus else "menu"
    return Knob(name, kind, tuple(values), at)


def _are_numbers(values):
    return len(values) > 1 and all(isinstance(value, Number) for value in values)


def _is_number(value):
    return isinstance(value, Number) and not isinstance(value, bool)
