"""Quantized linear layers: what they store, what they compute, and which temporary tensors appear while they run.

| scheme | stored per layer | product runs in | temporaries |
|---|---|---|---|
| `int8` (weight-only) | INT8 weight, a float32 scale per output channel | 16 bit | 16-bit copy of the weight |
| `int8_w8a8` | the same | INT8 x INT8 -> INT32 | INT8 input, INT32 product, its float32 copy |
| `fp8` (weight-only) | FP8 E4M3 weight, a float32 scale per 128 x 128 tile | 16 bit | 16-bit copy of the weight |
| `int4` (weight-only) | two 4-bit codes per byte, a bfloat16 scale and zero point per group of 128 | 16 bit | 16-bit |
| | | | copy of the weight; while it is filled, half of the codes as one byte each |

INT8 is symmetric rounding to nearest without zero points (arXiv 2208.07339, section 3, without its outlier columns,
which `errors` has). FP8 is the format in which DeepSeek-V3 and R1 are published (arXiv 2412.19437, section 3.3). Biases
stay in 16 bit. Not here: fused kernels, which never write the temporaries to memory.
"""

from dsmem.model.quantize import errors
from dsmem.model.quantize.base import QuantizedLinear, tiles
from dsmem.model.quantize.fp8 import Fp8Linear, fp8_scales
from dsmem.model.quantize.int4 import Int4Linear
from dsmem.model.quantize.int8 import Int8Linear, W8A8Linear, int8_rows, padded_int8_rows, quantize_rows
from dsmem.model.quantize.stack import QuantizedStack
from dsmem.model.quantize.table import LAYERS

__all__ = [
    "errors",
    "LAYERS",
    "QuantizedLinear",
    "QuantizedStack",
    "Int8Linear",
    "W8A8Linear",
    "Fp8Linear",
    "Int4Linear",
    "quantize_rows",
    "int8_rows",
    "padded_int8_rows",
    "fp8_scales",
    "tiles",
]
