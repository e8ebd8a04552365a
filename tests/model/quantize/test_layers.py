"""Every scheme's layer: stored bytes, outputs near float64, biases, zeros, whole models, tied heads."""

import pytest
import torch
from hypothesis import given, settings
from quantized import SMALL, layer, linear_layers, normal, relative_error
from strategies import passes

from dsmem import Workload, build_model, inference_footprint
from dsmem.config import schemes
from dsmem.footprint.stored import weight_formats
from dsmem.model.decoder import TORCH_DTYPES
from dsmem.model.quantize import LAYERS, QuantizedLinear, QuantizedStack
from dsmem.units import FLOATS, INT8_SCHEMES, QUANTIZED

# Norm of the difference from float64, divided by the norm, for normal data.
# INT8: rounding to steps of s leaves s / sqrt(12) per element, with s = row maximum / 127: 0.9% at a row maximum of 4
# sigma. W8A8 rounds both factors: times sqrt(2). E4M3 keeps 3 bits behind the leading one: steps of 1/8 to 1/16 of the
# number, over sqrt(12), so about 2.6%. INT4: steps of a group's span (about 5.2 sigma of 128 numbers) / 15, so 10%.
LAYER_BOUND = {"int8": 0.010, "int8_w8a8": 0.015, "fp8": 0.03, "int4": 0.12}
# The same for the logits of a model of two layers, with seven rounded linear layers in each.
LOGITS_BOUND = {"int8": 0.02, "int8_w8a8": 0.04, "fp8": 0.06, "int4": 0.25}
each_scheme = pytest.mark.parametrize("scheme", QUANTIZED)
each_float = pytest.mark.parametrize("activations", FLOATS)


@each_scheme
def test_stored_bytes_are_those_of_the_models_parameters(scheme):
    @given(passes(scheme))
    @settings(max_examples=30)
    def check(case):
        arch, work = case
        model = build_model(arch, scheme, "fake", work.activations, work.modules_to_not_convert)
        converted = [m for m in model.modules() if isinstance(m, (QuantizedLinear, QuantizedStack))]
        stored = weight_formats(arch, work)
        assert sum(stored.values()) == sum(parameter.nbytes for parameter in model.parameters())
        payload = stored.get(f"weights_{schemes.SCHEMES[scheme].element}", 0)
        assert payload == sum(module.weight.nbytes for module in converted)
        own = sum(p.nbytes for m in converted for name, p in m.named_parameters() if name != "bias")
        assert stored.get("weight_scales", 0) == own - payload
        in_scheme = [name for name, m in linear_layers(model).items() if isinstance(m, LAYERS[scheme])]
        for name in work.modules_to_not_convert:
            assert [full for full in in_scheme if full.split("mlp.")[-1].split("self_attn.")[-1] == name] == []

    check()


@each_float
@each_scheme
@pytest.mark.parametrize(("n_in", "n_out"), [(64, 64), (304, 200), (896, 4864), (4864, 896)])
def test_a_layer_is_near_float64(scheme, activations, n_in, n_out):
    dtype = TORCH_DTYPES[activations]
    weight, x = (0.02 * normal(n_out, n_in)).to(dtype), normal(40, n_in, seed=1).to(dtype)
    got = layer(scheme, weight, activations)(x)
    assert got.dtype == dtype
    assert LAYER_BOUND[scheme] / 3 < relative_error(got, x.double() @ weight.double().T) <= LAYER_BOUND[scheme]


@each_float
@each_scheme
def test_a_bias_is_added(scheme, activations):
    dtype = TORCH_DTYPES[activations]
    made, x = layer(scheme, 0.02 * normal(96, 64), activations, bias=True), normal(2, 5, 64, seed=1).to(dtype)
    without = made(x)
    made.bias.copy_(normal(96, seed=2))
    torch.testing.assert_close(made(x).float(), without.float() + made.bias.float(), rtol=0.01, atol=0.01)
    assert made(x).shape == (2, 5, 96)


@each_float
@each_scheme
def test_a_row_of_zeros_gives_the_bias(scheme, activations):
    made = layer(scheme, 0.02 * normal(96, 64), activations, bias=True)
    made.bias.copy_(normal(96, seed=2))
    x = normal(4, 64).to(TORCH_DTYPES[activations])
    x[2] = 0
    assert torch.equal(made(x)[2], made.bias)


@each_scheme
def test_a_weight_of_zeros_gives_zeros(scheme):
    assert not layer(scheme, torch.zeros(136, 144))(normal(4, 144)).any()


@each_float
@each_scheme
@torch.no_grad()
def test_the_logits_of_a_model_are_near_those_before_rounding(scheme, activations):
    tokens = torch.randint(96, (2, 24), generator=torch.Generator().manual_seed(5))
    exact = build_model(SMALL, activations, "cpu", seed=3)(tokens).double()
    rounded = build_model(SMALL, scheme, "cpu", activations=activations, seed=3)(tokens)
    assert rounded.dtype == TORCH_DTYPES[activations]
    assert 0 < relative_error(rounded, exact) <= LOGITS_BOUND[scheme]


@each_scheme
def test_embedding_norms_and_by_default_the_head_stay_in_16_bit(scheme):
    model = build_model(SMALL, scheme, "fake")
    plain = {name: p for name, p in model.named_parameters() if name.endswith("weight") and p.dtype == torch.float16}
    assert {name for name in plain if "norm" not in name} == {"embed_tokens.weight", "lm_head.weight"}
    converted = {name for name, module in linear_layers(model).items() if isinstance(module, QuantizedLinear)}
    assert converted == linear_layers(model).keys() - {"lm_head"}


@each_scheme
@pytest.mark.parametrize("kept", [(), ("q_proj",)])
def test_a_head_that_is_the_embedding_cannot_be_converted(scheme, kept, refuses):
    arch = SMALL.scaled(tie_word_embeddings=True)
    work = Workload(weights=scheme, modules_to_not_convert=kept)
    words = (f"modules_to_not_convert={kept!r}", "lm_head", "ties", arch.name)
    refuses(lambda: inference_footprint(arch, work), *words)
    refuses(lambda: build_model(arch, scheme, "fake", modules_to_not_convert=kept), *words)


@each_scheme
def test_a_scheme_is_not_a_format_to_compute_in(scheme, refuses):
    for weights in ("fp16", *INT8_SCHEMES):
        refuses(lambda w=weights: Workload(weights=w, activations=scheme), f"activations={scheme!r}", "fp16")
    refuses(lambda: build_model(SMALL, scheme, "fake", activations=scheme), f"activations={scheme!r}", "fp16")
