"""Bytes, and the widths of the number formats that models are stored in.

GiB is 2**30 bytes and GB is 10**9 bytes; the two differ by 7%, enough to turn "fits" into "does not fit".
"""

DTYPE_BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8, "fp8": 8, "int4": 4, "nf4": 4}
"""Bits of one element, by the name of its number format."""

FLOATS = ("fp32", "bf16", "fp16")
"""Formats that a pass computes in."""

INT8_SCHEMES = ("int8", "int8_w8a8")
"""Ways to store the weights of linear layers in INT8; `quantize` says what each of them does."""

QUANTIZED = (*INT8_SCHEMES, "fp8", "int4")
"""All ways to store the weights of linear layers in fewer bits than a pass computes in."""

GIB = 2**30
GB = 10**9


def dtype_bits(name, argument="dtype"):
    """Bits of one element of the format called `name`.

    >>> dtype_bits("fp16")
    16
    """
    if name not in DTYPE_BITS:
        raise ValueError(f"{argument}={name!r} is not a known number format; allowed: {', '.join(DTYPE_BITS)}")
    return DTYPE_BITS[name]


def gib(nbytes):
    """Bytes as GiB (2**30 bytes).

    >>> gib(3 * 2**30)
    3.0
    """
    return nbytes / GIB


def gb(nbytes):
    """Bytes as GB (10**9 bytes).

    >>> gb(15_231_233_024)
    15.231233024
    """
    return nbytes / GB


def format_bytes(nbytes):
    """Bytes in words, in the largest binary unit that leaves at least 1.

    >>> format_bytes(15_231_233_024), format_bytes(4096), format_bytes(-3 * 2**20), format_bytes(12)
    ('14.19 GiB', '4.00 KiB', '-3.00 MiB', '12 B')
    """
    for unit, size in (("TiB", 2**40), ("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:,.2f} {unit}"
    return f"{int(nbytes)} B"
