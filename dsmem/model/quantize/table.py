"""The quantized linear layers by name."""

from dsmem.model.quantize.fp8 import Fp8Linear
from dsmem.model.quantize.int4 import Int4Linear
from dsmem.model.quantize.int8 import Int8Linear, W8A8Linear

LAYERS = {"int8": Int8Linear, "int8_w8a8": W8A8Linear, "fp8": Fp8Linear, "int4": Int4Linear}
"""Linear layers by the names that `Workload(weights=...)` and `build_model(weights=...)` accept."""
