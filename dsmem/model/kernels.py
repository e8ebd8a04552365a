"""What a GPU's kernels allocate where a CPU has none of the kind: calls of other people's code led to operators."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dsmem.model import efficient
from dsmem.model.gpu_softmax import GpuSoftmax
from dsmem.model.operators import grouped_linear
from dsmem.model.softmax import from_fp16
from dsmem.units import format_name

_SOFTMAX = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)
_GROUPED = (getattr(torch.nn.functional, "grouped_mm", None), getattr(torch, "_grouped_mm", None))


class GpuKernels(TorchFunctionMode):
    """A context in which code on CPU or fake tensors allocates as a GPU's fused kernels do, where a CPU has none.

    Attention whose values are not as wide as its keys (MLA) would write all scores to memory on a CPU; a GPU's
    memory-efficient kernel does not. Grouped products in FP16 and FP32 do not exist for fake tensors. A softmax in
    float32 copies FP16 numbers into float32 first on a CPU, and on a GPU it does not; a GPU's backward of any softmax
    makes a product more (`GpuSoftmax`).
    said: a sentence for each kind that was led elsewhere. softmax_in: the formats in which scores (batch, heads,
    seq_len, key_len) had their softmax.
    """

    def __init__(self):
        super().__init__()
        self.said: dict[str, str] = {}
        self.softmax_in: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return self._attention(func, *args, **kwargs)
        if func in _SOFTMAX:
            return self._softmax(func, *args, **kwargs)
        if func in _GROUPED and func is not None and args[0].dtype != torch.bfloat16:
            return self._grouped(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _attention(self, func, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **options):
        alike = query.shape[-1] == value.shape[-1] or query.shape[1] != key.shape[1] or dropout_p
        if alike:
            return func(query, key, value, attn_mask, dropout_p, is_causal, **options)
        self.said["attention"] = (
            "Values are not as wide as keys: attention allocates as a GPU's memory-efficient kernel, not a CPU's."
        )
        if attn_mask is not None and attn_mask.dtype == torch.bool:  # torch converts it before any kernel
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
        return efficient.attention(query, key, value, attn_mask, is_causal, options.get("scale")).transpose(1, 2)

    def _softmax(self, func, input, *args, **kwargs):  # called as torch calls it, by keyword, too
        wide = torch.float32 in (*args, *kwargs.values())
        if input.dim() == 4:
            self.softmax_in.add("fp32" if wide else format_name(input.dtype))
        dim = kwargs.get("dim", args[0] if args else None)
        if torch.is_grad_enabled() and input.requires_grad and dim is not None:
            dtype = next((each for each in (*args, *kwargs.values()) if isinstance(each, torch.dtype)), None)
            return GpuSoftmax.apply(input, dim, dtype)
        last = dim in (-1, input.dim() - 1)
        if not (input.dtype == torch.float16 and wide and last):
            return func(input, *args, **kwargs)
        self.said["softmax"] = (
            "Softmax in float32 reads FP16 numbers as a GPU's kernel does; a CPU copies them first, 4 bytes a number."
        )
        return from_fp16(input)

    def _grouped(self, func, x, weight, offs=None, bias=None, **options):
        if weight.dim() != 3 or offs is None or bias is not None or not isinstance(x, Tensor) or x.dim() != 2:
            return func(x, weight, offs=offs, bias=bias, **options)
        return grouped_linear(x, weight.transpose(1, 2), offs)
