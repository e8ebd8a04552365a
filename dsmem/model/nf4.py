"""A frozen linear layer in NF4 as bitsandbytes trains through it, on fake tensors too, where theirs is not built."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64
"""Numbers that share a scale."""


class Nf4Linear(nn.Module):
    """Two codes of 4 bit per byte and an FP32 scale for every `BLOCK` numbers, as `bitsandbytes.nn.Linear4bit` keeps.

    x is cast to `compute`, the output back to the format of x. Forward makes a copy of the whole weight in `compute`
    and lets it go, and so does backward once more: nothing but the stored bytes is kept in between.
    Values are those of bitsandbytes; scales that are quantized again (double quantization) are not written here.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, compute: torch.dtype, device: torch.device):
        super().__init__()
        self.in_features, self.out_features, self.compute = in_features, out_features, compute
        count = in_features * out_features
        self.weight = _frozen(torch.zeros(-(-count // 2), 1, dtype=torch.uint8, device=device))
        self.absmax = _frozen(torch.ones(-(-count // BLOCK), dtype=torch.float32, device=device))
        self.code = _frozen(torch.zeros(16, dtype=torch.float32, device=device))
        self.bias = _frozen(torch.zeros(out_features, dtype=compute, device=device)) if bias else None

    @classmethod
    def of(cls, linear: nn.Linear) -> "Nf4Linear":
        """A layer of the shape and bias of `linear`; on real tensors with its weight, rounded by bitsandbytes."""
        like = linear.weight
        made = cls(linear.in_features, linear.out_features, linear.bias is not None, like.dtype, like.device)
        if like.device.type == "meta" or type(like.data) is not Tensor:
            return made
        import bitsandbytes.functional as library

        packed, state = library.quantize_4bit(like.data, blocksize=BLOCK, quant_type="nf4")
        made.weight.copy_(packed)
        made.absmax.copy_(state.absmax)
        made.code.copy_(state.code)
        if made.bias is not None:
            made.bias.copy_(linear.bias.data)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features). Returns (..., out_features) in the format of x."""
        shape = (self.out_features, self.in_features)
        return _Product.apply(x.to(self.compute), self.weight, self.absmax, self.code, shape, self.bias).to(x.dtype)


def nf4_layers(module: nn.Module) -> None:
    """Put every linear layer of a model of transformers but its head in NF4, and the rest in FP32, all frozen.

    So transformers loads a 4-bit model, and peft's `prepare_model_for_kbit_training` goes on.
    """
    head = module.get_output_embeddings()
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.Linear) and part is not head:
                setattr(parent, name, Nf4Linear.of(part))
    module.requires_grad_(False)
    for part in module.modules():
        if not isinstance(part, Nf4Linear):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.float()


class _Product(torch.autograd.Function):
    """x @ weight.T + bias, with a copy of the weight in forward and another in backward."""

    @staticmethod
    def forward(ctx, x, weight, absmax, code, shape, bias):
        ctx.stored, ctx.shape = (weight, absmax, code), shape
        return F.linear(x, nf4_weight(weight, absmax, code, list(shape), x.dtype), bias)

    @staticmethod
    def backward(ctx, grad):
        weight = nf4_weight(*ctx.stored, list(ctx.shape), grad.dtype)
        return torch.matmul(grad, weight), None, None, None, None, None


@torch.library.custom_op("dsmem::nf4_weight", mutates_args=())
def nf4_weight(weight: Tensor, absmax: Tensor, code: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    """The weight of this shape in `dtype`, from two codes a byte, the first in the high bits. As bitsandbytes' kernel
    it makes nothing but the result."""
    codes = torch.cat((weight >> 4, weight & 15), dim=1).flatten()[: shape[0] * shape[1]]
    scale = absmax.repeat_interleave(BLOCK)[: codes.numel()]
    return (code[codes.long()] * scale).to(dtype).view(shape)


@nf4_weight.register_fake
def _(weight, absmax, code, shape, dtype):
    return weight.new_empty(shape, dtype=dtype)


def _frozen(tensor):
    return nn.Parameter(tensor, requires_grad=False)
