"""Bytes, number formats, and the checks of plain values: the one place for each.

GiB is 2**30 bytes and GB is 10**9 bytes; the two differ by 7%, enough to turn "fits" into "does not fit".
"""

import numbers
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

DTYPE_BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8, "fp8": 8, "int6": 6, "int5": 5, "int4": 4, "nf4": 4}
DTYPE_BITS |= {
    "int3": 3,
    "int2": 2,
    "fp4": 4,
    "uint8": 8,
    "int32": 32,
    "int64": 64,
}  # FP4 comes two in a byte; words hold packed numbers
"""Bits of one element, by the name of its number format."""

BLOCK_FORMATS = {"q8_0": (32, 34), "q4_0": (32, 18), "q4_K": (256, 144), "q5_K": (256, 176), "q6_K": (256, 210)}
BLOCK_FORMATS |= {"mxfp4": (32, 17), "nvfp4": (64, 36)}
"""GGUF's formats: numbers in a block, and bytes of the block, scales and all (llama.cpp, `ggml/src/ggml-common.h`)."""

FLOATS = ("fp32", "bf16", "fp16")
"""Formats that a pass computes in."""

INT8_SCHEMES = ("int8", "int8_w8a8")
"""Ways to store the weights of linear layers in INT8; `model.quantize` says what each of them does."""

QUANTIZED = (*INT8_SCHEMES, "fp8", "int4")
"""All ways to store the weights of linear layers in fewer bits than a pass computes in."""

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
GB = 10**9

_ALIASES = {"float32": "fp32", "float": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16"}
_ALIASES |= {"float8_e4m3fn": "fp8", "float8": "fp8", "e4m3": "fp8", "f32": "fp32", "f16": "fp16"}
_BINARY = {"bytes": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_DECIMAL = {"kB": 10**3, "MB": 10**6, "GB": GB, "TB": 10**12}
BYTE_UNITS = _BINARY | _DECIMAL
"""Bytes of each unit of memory, by its name."""

_UNIT_NAMES = {name.lower(): name for name in BYTE_UNITS} | {"b": "bytes", "byte": "bytes"}


def format_name(value: Any) -> Any:
    """The kit's name of a number format: "fp16" for "fp16", "float16", "torch.float16" and `torch.float16` alike.

    A value that names no known format comes back as it is, for the caller's own check to refuse.

    >>> format_name("float16"), format_name("torch.bfloat16"), format_name("INT8")
    ('fp16', 'bf16', 'int8')
    """
    if not (isinstance(value, str) or str(value).startswith("torch.")):
        return value
    name = str(value).removeprefix("torch.").lower()
    return _ALIASES.get(name, name)


def dtype_bits(name: Any, argument: str = "dtype") -> int:
    """Bits of one element of the format called `name`.

    name: any spelling that `format_name` knows. argument: what an error calls it. Raises ValueError for another format.

    >>> dtype_bits("fp16"), dtype_bits("float32")
    (16, 32)
    """
    return DTYPE_BITS[one_of(argument, format_name(name), DTYPE_BITS, what="a known number format")]


def one_of(argument: str, value: Any, allowed: Iterable[str], what: str = "allowed here") -> Any:
    """`value` if it is one of `allowed`; ValueError, in one sentence with all that is allowed, if not."""
    allowed = list(allowed)
    if not (isinstance(value, str) and value in allowed):
        raise ValueError(f"{argument}={value!r} is not {what}; allowed: {', '.join(allowed)}")
    return value


def whole_number(argument: str, value: Any, least: int = 1, what: str = "a count") -> int:
    """`value` as an int if it is one whole number of at least `least`; ValueError, in one sentence, if not.

    >>> whole_number("batch", 4)
    4
    """
    if type(value) is int and value >= least:
        return value  # a replay asks a hundred thousand times
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{argument}={value!r} is not {what}; it must be a whole number of at least {least}")
    return int(value)


def whole_numbers(argument: str, value: Any, least: int = 1) -> "int | np.ndarray":
    """`whole_number`, or an int64 array of them: every element at least `least`, and within 64 bits."""
    if isinstance(value, numbers.Integral):
        return whole_number(argument, value, least)
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal length
        array = np.empty(0)
    if array.dtype.kind not in "iu" or array.size == 0 or np.any(array < least) or np.any(array > 2**63 - 1):
        raise ValueError(f"{argument}={value!r} is not a count; it must be a whole number of at least {least}")
    return int(array) if array.ndim == 0 else array.astype(np.int64)


def finite(argument: str, value: Any, what: str = "a number of bytes") -> Any:
    """`value` if it is a finite number, or an array of them; ValueError, in one sentence, if not.

    >>> finite("nbytes", 1.5)
    1.5
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return value
    array = np.asarray(value) if isinstance(value, numbers.Real | np.ndarray) else np.empty(0)
    if array.dtype.kind not in "iuf" or array.size == 0 or not np.all(np.isfinite(array)):
        raise ValueError(f"{argument}={value!r} is not {what}; it must be a finite number")
    return value


def as_text(argument: str, value: Any) -> str:
    """`value` if it is a text; ValueError, in one sentence, if not.

    >>> as_text("title", "Where the bytes are")
    'Where the bytes are'
    """
    if not isinstance(value, str):
        raise ValueError(f"{argument}={value!r} is not a text; it must be one")
    return value


def names(argument: str, value: Any) -> tuple:
    """Several names as a tuple, or the one that is given as a text; ValueError, in one sentence, for anything else.

    >>> names("modules_to_not_convert", "lm_head")
    ('lm_head',)
    """
    if not isinstance(value, str | tuple | list | set | frozenset):
        raise ValueError(f"{argument}={value!r} is not a list; it must hold names")
    return (value,) if isinstance(value, str) else tuple(value)


def gib(nbytes: float) -> float:
    """Bytes as GiB (2**30 bytes).

    >>> gib(3 * 2**30)
    3.0
    """
    return finite("nbytes", nbytes) / GIB


def gb(nbytes: float) -> float:
    """Bytes as GB (10**9 bytes).

    >>> gb(15_231_233_024)
    15.231233024
    """
    return finite("nbytes", nbytes) / GB


def format_bytes(nbytes: float) -> str:
    """Bytes in words, in the largest binary unit that leaves at least 1.

    >>> format_bytes(15_231_233_024), format_bytes(4096), format_bytes(-3 * 2**20), format_bytes(12)
    ('14.19 GiB', '4.00 KiB', '-3.00 MiB', '12 B')
    """
    finite("nbytes", nbytes)
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if abs(nbytes) >= BYTE_UNITS[unit]:
            return f"{nbytes / BYTE_UNITS[unit]:,.2f} {unit}"
    return f"{int(nbytes)} B"


def parse_bytes(text: Any, argument: str = "size") -> int:
    """Bytes that a text such as "24 GiB", "448.00 MiB" or "80 GB" says; a whole number is bytes already.

    Raises ValueError for a number without a unit, an unknown unit, or anything below 0.

    >>> parse_bytes("24 GiB"), parse_bytes("80 GB"), parse_bytes(512)
    (25769803776, 80000000000, 512)
    """
    if isinstance(text, numbers.Integral) and not isinstance(text, bool) and text >= 0:
        return int(text)
    found = re.fullmatch(r"\s*([\d_,]*\.?\d+)\s*([A-Za-z]+)\s*", text) if isinstance(text, str) else None
    unit = _UNIT_NAMES.get(found[2].lower()) if found else None
    if unit is None:
        units = ", ".join(name for name in BYTE_UNITS if name != "bytes")
        raise ValueError(f"{argument}={text!r} is not a size; it must be whole bytes, or a number and one of {units}")
    return round(float(found[1].replace(",", "").replace("_", "")) * BYTE_UNITS[unit])
