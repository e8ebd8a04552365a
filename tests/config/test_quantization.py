"""What configs say of quantization: each method's layout against its own library's, and what is not read is refused."""

import math

import pytest
import torch

from dsmem import formulas
from dsmem.config.quantization import packed_bits, quantization_of
from dsmem.config.schemes import packed
from dsmem.units import dtype_bits

WIDTHS = 192, 320  # in, out: 192 fills no tile of 128, and 320 none


def read(method, **keys):
    return quantization_of({"quantization_config": {"quant_method": method} | keys})


def compressed(layout, weights, inputs=None):
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}
    return read("compressed-tensors", format=layout, ignore=["lm_head"], config_groups=groups)


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}
TILES = {"weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}

# as compressed-tensors 0.20 writes a bfloat16 layer of 192 x 320 (`compress` of each of its compressors)
COMPRESSED = {
    "whole numbers": (
        compressed("pack-quantized", INT4 | {"symmetric": True}),
        {
            "weight_packed": ((320, 24), "int32"),
            "weight_scale": ((320, 3), "bf16"),
            "weight_shape": ((2,), "int64"),
        },
    ),
    "zero points": (
        compressed("pack-quantized", INT4 | {"symmetric": False}),
        {
            "weight_packed": ((320, 24), "int32"),
            "weight_scale": ((320, 3), "bf16"),
            "weight_shape": ((2,), "int64"),
            "weight_zero_point": ((40, 3), "int32"),
        },
    ),
    "FP8": (
        compressed("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
        {"weight": ((320, 192), "fp8"), "weight_scale": ((320, 1), "bf16")},
    ),
    "NVFP4 with inputs": (
        compressed("nvfp4-pack-quantized", FP4, FP4),
        {
            "weight_packed": ((320, 96), "uint8"),
            "weight_scale": ((320, 12), "fp8"),
            "weight_global_scale": ((1,), "fp32"),
            "input_global_scale": ((1,), "fp32"),
        },
    ),
    "NVFP4 of weights alone": (
        compressed("nvfp4-pack-quantized", FP4),
        {
            "weight_packed": ((320, 96), "uint8"),
            "weight_scale": ((320, 12), "fp8"),
            "weight_global_scale": ((1,), "fp32"),
        },
    ),
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_compressed_tensors_own_shapes(kind):
    found, theirs = COMPRESSED[kind]
    assert found.tensors(*WIDTHS) == theirs


def test_fp8_has_the_tiles_of_transformers():
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    theirs = fp8.FP8Linear(*WIDTHS, block_size=(128, 128))
    ours = read("fp8", **TILES).tensors(*WIDTHS)
    assert {name: tuple(tensor.shape) for name, tensor in theirs.named_parameters()} == {
        name: shape for name, (shape, _) in ours.items()
    }
    assert theirs.weight_scale_inv.dtype == torch.float32 and ours["weight_scale_inv"][1] == "fp32"


def test_mxfp4_has_the_blocks_of_transformers():
    integration = pytest.importorskip("transformers.integrations.mxfp4")
    from transformers import GptOssConfig

    sizes = {"num_local_experts": 4, "hidden_size": WIDTHS[0], "intermediate_size": WIDTHS[1] // 2}
    with torch.device("meta"):
        theirs = dict(integration.Mxfp4GptOssExperts(GptOssConfig(**sizes)).named_parameters())
    blocks, scales = read("mxfp4").tensors(*WIDTHS).values()
    tensor = theirs["gate_up_proj"]  # declared with its blocks joined
    assert (tensor.numel(), tensor.dtype) == (4 * math.prod(blocks[0]), torch.uint8) and blocks[1] == "uint8"
    assert scales == (blocks[0][:-1], "uint8") and blocks[0][-1] == 16  # OCP's MX: an exponent for 32 numbers


def test_gpt_oss_20b_is_as_large_as_published():
    # total_size in the index of openai/gpt-oss-20b; 20,914,757,184 parameters, experts in MXFP4, the rest in bfloat16
    mxfp4, experts, width = read("mxfp4"), 24 * 32, 2880
    packed_numbers = experts * (2 * width + width) * width
    stored = experts * (stored_bytes(mxfp4.tensors(width, 2 * width)) + stored_bytes(mxfp4.tensors(width, width)))
    assert 2 * (20_914_757_184 - packed_numbers) + stored == 13_761_264_768


def stored_bytes(tensors):
    return sum(math.prod(shape) * dtype_bits(element) // 8 for shape, element in tensors.values())


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_the_formulas_hold_what_the_layouts_do(group_size):
    widths = 1024, 512
    assert stored_bytes(read("awq", bits=4, group_size=group_size).tensors(*widths)) == formulas.awq_linear_bytes(
        *widths, group_size
    )
    for bits in (2, 4, 8):
        layout = read("gptq", bits=bits, group_size=group_size).tensors(*widths)
        assert stored_bytes(layout) == formulas.gptq_linear_bytes(*widths, group_size, bits)
        assert stored_bytes(layout) == packed("gptq", group_size, bits).linear_bytes(*widths)
    nvfp4 = quantization_of({"quantization_config": {"quant_algo": "NVFP4"}})
    assert stored_bytes(nvfp4.tensors(*widths)) == formulas.nvfp4_linear_bytes(*widths)
    assert stored_bytes(read("mxfp4").tensors(*widths)) == packed("mxfp4").linear_bytes(*widths)
    for double, formula in ((False, formulas.nf4_linear_bytes), (True, formulas.nf4_double_linear_bytes)):
        nf4 = read("bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double)
        assert stored_bytes(nf4.tensors(*widths)) + 4 * double == formula(*widths)  # a file keeps the offset as text
    int8 = read("bitsandbytes", load_in_8bit=True).tensors(*widths)
    assert stored_bytes(int8) == formulas.int8_linear_bytes(*widths) + 1


@pytest.mark.parametrize(
    ("kept", "module", "converts"),
    [
        ("lm_head", "lm_head", False),
        ("lm_head", "model.layers.0.lm_head_2", True),
        ("model.layers.1", "model.layers.1.mlp.up_proj", False),
        ("model.layers.1", "model.layers.10.mlp.up_proj", True),
        ("model.layers.1.*", "model.layers.10.mlp.up_proj", True),
        ("model.layers.0*", "model.layers.0.self_attn.q_proj", False),
        ("model.layers.0*", "model.layers.10.self_attn.q_proj", True),
        ("model.layers.3.self_attn*", "model.layers.3.self_attn.o_proj", False),
        ("model.layers.*.self_attn", "model.layers.3.self_attn.o_proj", False),
        ("model.layers.*.self_attn", "model.layers.3.mlp.experts.gate_up_proj", True),
        ("*.mlp.shared_expert.*", "model.layers.3.mlp.shared_expert.up_proj", False),
        ("gate", "model.layers.3.mlp.gate", False),
        ("gate", "model.layers.3.mlp.gate_proj", True),
        ("re:.*down_proj", "model.layers.3.mlp.down_proj", False),
        ("re:.*down_proj$", "model.layers.3.mlp.up_proj", True),
    ],
)
def test_which_modules_stay_as_they_are(kept, module, converts):
    assert read("fp8", **TILES, modules_to_not_convert=[kept]).converts(module) == converts


def test_who_keeps_the_head_and_who_the_experts():
    expert, head = "model.layers.0.mlp.experts.gate_up_proj", "lm_head"
    assert not read("fp8", **TILES).converts(head)
    assert not read("awq", bits=4, modules_to_not_convert=["gate"]).converts(head)
    assert read("gptq", bits=4, lm_head=True).converts(head) and not read("gptq", bits=4).converts(head)
    for version, converted in (("5.23.0", False), ("4.57.1", True)):
        said = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
        assert quantization_of(said | {"transformers_version": version}).converts(expert) == converted


def test_a_config_without_a_word_says_nothing():
    assert quantization_of({}) is None and quantization_of({"quantization_config": None}) is None
    assert packed_bits({}) is None and packed_bits({"text_config": {"quantization_config": {"bits": 3}}}) == 3


REFUSED = {
    "unknown": ({"quant_method": "hqq"}, "quant_method='hqq'", "gptq"),
    "unnamed": ({}, "quant_method='unnamed'", "fp8"),
    "no object": ("fp8", "quantization_config='fp8'", "JSON object"),
    "awq, 8 bit": ({"quant_method": "awq", "bits": 8}, "bits=8", "4"),
    "awq, another layout": ({"quant_method": "awq", "bits": 4, "version": "exllama"}, "version='exllama'"),
    "gptq, 5 bit": ({"quant_method": "gptq", "bits": 5}, "bits='5'", "8"),
    "gptq without bits": ({"quant_method": "gptq"}, "bits=None"),
    "gptq, marlin": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "checkpoint_format='marlin'"),
    "gptq, rules": ({"quant_method": "gptq", "bits": 4, "dynamic": {"a": {}}}, "dynamic", "weigh its files"),
    "fp8, a tile": ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size=128"),
    "fp8, E5M2": ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt='e5m2'", "e4m3"),
    "a group of text": ({"quant_method": "awq", "bits": 4, "group_size": "128"}, "group_size='128'"),
    "kept by a number": ({"quant_method": "awq", "bits": 4, "modules_to_not_convert": [3]}, "modules_to_not_convert"),
    "bitsandbytes, words": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
        "bnb_4bit_quant_storage='bfloat16'",
    ),
    "modelopt, mixed": ({"quant_algo": "MIXED_PRECISION"}, "quant_algo='MIXED_PRECISION'", "NVFP4"),
    "two groups": ({"quant_method": "compressed-tensors", "config_groups": {"a": {}, "b": {}}}, "2 groups"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_read_is_refused_by_name(kind, refuses):
    said, *words = REFUSED[kind]
    refuses(lambda: quantization_of({"quantization_config": said}), *words)
