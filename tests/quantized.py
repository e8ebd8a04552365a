"""What the tests of quantized layers share: two decoders, a layer by its scheme, normal data, and the error measure."""

import torch
from strategies import DENSE_LINEARS as LINEARS

from dsmem import Architecture
from dsmem.model.decoder import TORCH_DTYPES
from dsmem.model.quantize import LAYERS

QWEN_7B = Architecture.from_config("deepseek-r1-distill-qwen-7b")
SMALL = Architecture.from_config(
    {
        "model_type": "qwen2",
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 256,
        "vocab_size": 96,
        "tie_word_embeddings": False,
    }
)


def linear_layers(model):
    """{name: module} of the linear layers, converted or not."""
    return {name: module for name, module in model.named_modules() if name.split(".")[-1] in LINEARS}


def layer(scheme, weight, activations="fp32", bias=False):
    """The scheme's layer with this weight (out_features, in_features)."""
    made = LAYERS[scheme](*weight.shape[::-1], bias=bias, dtype=TORCH_DTYPES[activations], device="cpu")
    made.requires_grad_(False).set_weight(weight)
    return made


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(got, exact):
    return float((got.double() - exact).norm() / exact.norm())
