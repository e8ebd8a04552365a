"""How each library stores a converted linear layer: the tensors that stand in place of its `weight`, as data.

A layout takes a `Quantization` and the layer's widths, and gives {end of the tensor's name: (shape, format)}, the
numbers first. Shapes are those that the libraries' own loaders make room for.
"""

from collections.abc import Callable

NVFP4_GROUP, MXFP4_GROUP = 16, 32  # numbers of a row that share a scale
NF4_BLOCK, NESTED_BLOCK = 64, 256  # numbers that share a scale, and scales that do


def _up(number, step):
    return -(-number // step)


def _groups(q, n_in):
    """Groups along a row; without a size the whole row is one."""
    return _up(n_in, q.group_size) if q.group_size else 1


def fp8_tiles(q, n_in, n_out):
    """DeepSeek's (arXiv 2412.19437, section 3.3): a float32 scale for each tile."""
    rows, columns = q.tile
    return {"weight": ((n_out, n_in), "fp8"), "weight_scale_inv": ((_up(n_out, rows), _up(n_in, columns)), "fp32")}


def fp8_tensor(q, n_in, n_out):
    """ModelOpt's FP8, and vLLM's: one float32 scale for the matrix, and one for its input where that is static."""
    inputs = {"input_scale": ((), "fp32")} if q.static_input else {}
    return {"weight": ((n_out, n_in), "fp8"), "weight_scale": ((), "fp32")} | inputs


def awq(q, n_in, n_out):
    """AutoAWQ's GEMM kernel: eight numbers in a word of 32 bits, along the outputs; zero points alike."""
    words, groups = n_out * q.bits // 32, _groups(q, n_in)
    return {
        "qweight": ((n_in, words), "int32"),
        "qzeros": ((groups, words), "int32"),
        "scales": ((groups, n_out), "fp16"),
    }


def gptq(q, n_in, n_out):
    """AutoGPTQ and GPTQModel: numbers packed along the inputs, and for each input the group that it is in."""
    groups = _groups(q, n_in)
    return {
        "qweight": ((n_in * q.bits // 32, n_out), "int32"),
        "qzeros": ((groups, n_out * q.bits // 32), "int32"),
        "scales": ((groups, n_out), "fp16"),
        "g_idx": ((n_in,), "int32"),
    }


def bitsandbytes_int8(q, n_in, n_out):
    """LLM.int8(): a float32 for each output, and a byte that names the order."""
    return {"weight": ((n_out, n_in), "int8"), "SCB": ((n_out,), "fp32"), "weight_format": ((), "uint8")}


def bitsandbytes_4bit(q, n_in, n_out):
    """NF4 and FP4 (arXiv 2305.14314, section 3). Left out: about 100 bytes of JSON that say the layer's shape."""
    blocks = _up(n_in * n_out, NF4_BLOCK)
    found = {
        "weight": ((_up(n_in * n_out, 2), 1), "uint8"),
        "weight.absmax": ((blocks,), "uint8" if q.double else "fp32"),
        "weight.quant_map": ((16,), "fp32"),
    }
    nested = {"absmax": ((_up(blocks, NESTED_BLOCK),), "fp32"), "quant_map": ((256,), "fp32")} if q.double else {}
    return found | {f"weight.nested_{name}": tensor for name, tensor in nested.items()}


def packed(q, n_in, n_out):
    """compressed-tensors, pack-quantized: whole numbers in words of 32 bits, along the inputs."""
    groups = _groups(q, n_in)
    found = {
        "weight_packed": ((n_out, _up(n_in * q.bits, 32)), "int32"),
        "weight_scale": ((n_out, groups), "bf16"),
        "weight_shape": ((2,), "int64"),
    }
    zeros = {} if q.symmetric else {"weight_zero_point": ((_up(n_out * q.bits, 32), groups), "int32")}
    return found | zeros | ({"weight_g_idx": ((n_in,), "int32")} if q.ordered else {})


def channels(q, n_in, n_out):
    """compressed-tensors, float- and int-quantized: a byte a number, a 16-bit scale for each output."""
    return {"weight": ((n_out, n_in), "fp8" if q.floating else "int8"), "weight_scale": ((n_out, 1), "bf16")}


def nvfp4(q, n_in, n_out):
    """ModelOpt: two FP4 numbers in a byte, an FP8 scale for each 16, and two float32 for the whole matrix."""
    return {
        "weight": ((n_out, _up(n_in, 2)), "uint8"),
        "weight_scale": ((n_out, _up(n_in, NVFP4_GROUP)), "fp8"),
        "weight_scale_2": ((), "fp32"),
        "input_scale": ((), "fp32"),
    }


def nvfp4_packed(q, n_in, n_out):
    """compressed-tensors, nvfp4-pack-quantized: the same under its own names."""
    numbers, scales, *_ = nvfp4(q, n_in, n_out).values()
    whole = ("weight_global_scale", *["input_global_scale"] * q.static_input)
    return {"weight_packed": numbers, "weight_scale": scales} | {name: ((1,), "fp32") for name in whole}


def mxfp4(q, n_in, n_out):
    """gpt-oss, of stacks of experts alone: two FP4 numbers in a byte, and for each 32 a byte that is an exponent."""
    blocks = _up(n_in, MXFP4_GROUP)
    return {"blocks": ((n_out, blocks, MXFP4_GROUP // 2), "uint8"), "scales": ((n_out, blocks), "uint8")}


LAYOUTS: dict[str, Callable] = {
    layout.__name__: layout
    for layout in (
        *(fp8_tiles, fp8_tensor, awq, gptq, bitsandbytes_int8, bitsandbytes_4bit),
        *(packed, channels, nvfp4, nvfp4_packed, mxfp4),
    )
}
"""Every layout by name."""
