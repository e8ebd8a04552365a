"""The weight formats as data: what each stores and computes, for footprints, tables and plots; no torch needed."""

import dataclasses
import functools
from collections.abc import Callable

from dsmem import formulas
from dsmem.table import Table
from dsmem.units import BLOCK_FORMATS, dtype_bits, one_of, whole_number

INT4_GROUP = 128  # numbers of an output channel that share a scale and a zero point
FP8_TILE = 128  # side of the square of numbers that share a scale (arXiv 2412.19437, section 3.3)
COPY = "16-bit copy of the weight"
KEPT = "embedding, norms, biases; by default the head"
KEPT_BNB = "embedding, norms, biases, stacks of experts; by default the head"


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One way to store the weight of a linear layer, and what a product with it costs.

    element: format of the stored numbers, of `units.DTYPE_BITS`. linear_bytes: (in_features, out_features) to the
    bytes of a whole layer without bias. product: the format that the product runs in. temporaries: what appears at
    each call. kept: what stays in 16 bit. runs: whether `build_model` takes it; the others run in bitsandbytes
    or llama.cpp. stacks: how routed experts are stored: "whole" (a layer's as one stack), "one by one", or "kept" in 16
    bit: bitsandbytes 0.50 under transformers 5.23, where stacks are plain parameters, converts `nn.Linear` alone.
    """

    name: str
    element: str
    linear_bytes: Callable
    stored: str
    scales: str
    product: str = "16 bit"
    temporaries: str = COPY
    kept: str = KEPT
    runs: bool = True
    stacks: str = "whole"

    def payload_bytes(self, in_features: int, out_features: int) -> int:
        """Bytes of a layer's numbers alone; what `linear_bytes` has beyond them is scales."""
        return out_features * formulas.tensor_bytes(in_features, dtype_bits(self.element))

    def bits_per_weight(self, in_features: int, out_features: int) -> float:
        """Bits that the layer stores for each number of its weight, scales and all.

        >>> SCHEMES["int4"].bits_per_weight(3584, 18944)
        4.25
        """
        return 8 * self.linear_bytes(in_features, out_features) / (in_features * out_features)


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8", "int8", formulas.int8_linear_bytes, "INT8", "float32 per output channel"),
        Scheme(
            "int8_w8a8",
            "int8",
            formulas.int8_linear_bytes,
            "INT8",
            "float32 per output channel",
            product="INT8 x INT8 to INT32",
            temporaries="input in INT8; product in INT32 and again in float32",
        ),
        Scheme("fp8", "fp8", formulas.fp8_linear_bytes, "FP8 E4M3", "float32 per 128 x 128 tile"),
        Scheme(
            "int4",
            "int4",
            functools.partial(formulas.int4_linear_bytes, group_size=INT4_GROUP),
            "INT4, two in a byte",
            "bfloat16 scale and zero point per group of 128",
            temporaries=f"{COPY}; half of its numbers in a byte each",
        ),
        Scheme(
            "nf4",
            "nf4",
            formulas.nf4_linear_bytes,
            "NF4, two in a byte",
            "float32 per block of 64",
            kept=KEPT_BNB,
            runs=False,
            stacks="kept",
        ),
        Scheme(
            "nf4_double",
            "nf4",
            formulas.nf4_double_linear_bytes,
            "NF4, two in a byte",
            "8 bit per block of 64, float32 per 256 blocks",
            temporaries=f"{COPY}; scales in float32",
            kept=KEPT_BNB,
            runs=False,
            stacks="kept",
        ),
    )
}
"""Every scheme by name; those that run are what `Workload(weights=...)` and `build_model(weights=...)` take."""


def _gguf(name, element, scales):
    elements, nbytes = BLOCK_FORMATS[name]
    layer = functools.partial(formulas.block_linear_bytes, block_elements=elements, bytes_per_block=nbytes)
    stored = f"{element.upper()}, {elements} in {nbytes} bytes"
    how = {"product": "llama.cpp's own, in blocks", "temporaries": "none", "kept": "norms, biases, router, in float32"}
    return Scheme(name, element, layer, stored, scales, **how, runs=False)


GGUF = {
    scheme.name: scheme
    for scheme in (
        _gguf("q8_0", "int8", "float16 per block of 32"),
        _gguf("q4_0", "int4", "float16 per block of 32"),
        _gguf("q4_K", "int4", "6-bit scale and minimum per 32, two float16 per block of 256"),
        _gguf("q5_K", "int5", "6-bit scale and minimum per 32, two float16 per block of 256"),
        _gguf("q6_K", "int6", "8-bit scale per 16, a float16 per block of 256"),
        _gguf("mxfp4", "fp4", "8-bit exponent per block of 32"),
        _gguf("nvfp4", "fp4", "FP8 per 16"),
    )
}
"""The schemes of GGUF files by name; a file mixes them, and embedding and head have one: see `checkpoints.gguf`."""


def packed(name: str, group_size: int = INT4_GROUP, bits: int = 4) -> Scheme:
    """The `Scheme` of quantized files of other libraries: "awq", "gptq", "mxfp4" or "nvfp4"; none of them runs here.

    group_size: numbers of a row that share a scale, in AWQ and GPTQ; bits: of a number in GPTQ. Each expert's matrices
    are stored one by one, but in MXFP4, gpt-oss's, as stacks. Raises ValueError for another name or size.

    >>> packed("awq", group_size=64).bits_per_weight(8192, 28672), packed("mxfp4").bits_per_weight(2880, 2880)
    (4.3125, 4.25)
    """
    one_of("scheme", name, PACKED, "a scheme of packed files")
    whole_number("group_size", group_size, what="a size of groups")
    one_of("bits", str(bits), ("2", "3", "4", "8"), "a number of bits that is packed")
    grouped = {"group_size": group_size}
    scales = f"float16 scale and {bits}-bit zero point per group of {group_size}"
    how = {"runs": False, "stacks": "one by one"}
    if name == "awq":
        layer = functools.partial(formulas.awq_linear_bytes, **grouped)
        return Scheme(name, "int4", layer, "INT4, eight in a word", scales, **how)
    if name == "gptq":
        layer = functools.partial(formulas.gptq_linear_bytes, bits=bits, **grouped)
        return Scheme(name, f"int{bits}", layer, f"INT{bits} in words", f"{scales}, a group per input", **how)
    if name == "nvfp4":
        scales = "FP8 per 16, two float32 per matrix"
        return Scheme(name, "fp4", formulas.nvfp4_linear_bytes, "FP4, two in a byte", scales, **how)
    layer = functools.partial(formulas.block_linear_bytes, block_elements=32, bytes_per_block=17)
    return Scheme(name, "fp4", layer, "FP4, two in a byte", "8-bit exponent per 32", runs=False)


PACKED = ("awq", "gptq", "mxfp4", "nvfp4")
"""Names that `packed` takes."""


def table(in_features: int = 3584, out_features: int = 18_944) -> Table:
    """The schemes as a `Table`, with the bits per weight of a layer of this shape.

    >>> print(str(table()).splitlines()[4])
    int4           4.250  INT4, two in a byte    bfloat16 scale and zero point per group of 128
    """
    rows = [(s.name, s.bits_per_weight(in_features, out_features), f"  {s.stored}", s.scales) for s in SCHEMES.values()]
    return Table({"scheme": None, "bits": ".3f", "  stored": None, "scales": None}, rows, widths=(12, 8, 25, 0))
