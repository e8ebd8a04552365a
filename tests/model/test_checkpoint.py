"""DeepSeek-R1's checkpoint rebuilt by name; real weights into our decoder; files and tensors that are refused."""

import json
import math

import pytest
import torch
from decoders import CONFIGS, TOKENS, close, theirs_and_ours, transformers_model
from quantized import layer
from safetensors.torch import load_file, save_file

from dsmem import Architecture, build_model
from dsmem.config.names import STACKED, TURNED_STACKS
from dsmem.footprint.checkpoints import published
from dsmem.model import checkpoint
from dsmem.model.quantize import LAYERS, QuantizedLinear, QuantizedStack
from dsmem.units import QUANTIZED

R1 = Architecture.from_config("deepseek-r1")
CONFIG = CONFIGS["v3"] | {"num_nextn_predict_layers": 0}
BIASED = ("llama with biases", "qwen2", "qwen2, tied", "v2 with biases", "v3 with biases", "qwen3_moe")


def test_r1s_checkpoint_has_the_published_elements():
    # elements by format and bytes of the published safetensors files
    found = published.published_tensors(R1, "fp8")
    assert published.elements_by_format(found) == {"fp8": 680_571_043_840, "bf16": 3_918_786_560, "fp32": 41_555_600}
    assert sum(published.elements_by_format(found).values()) == 684_531_386_000
    assert published.published_bytes(found) == 688_574_839_360


def test_r1_without_its_further_token_module():
    # the published total of the main model, and what its FP8 form takes
    main = published.published_tensors(R1, "fp8", mtp=False)
    assert published.published_bytes(main) == 673_150_611_808
    scales_and_biases = sum(math.prod(s) for name, (s, _) in main.items() if name.endswith(("scale_inv", "bias")))
    assert sum(published.elements_by_format(main).values()) - scales_and_biases == 671_026_404_352


def test_the_further_token_module_adds_what_is_published():
    extra = published.published_tensors(R1, "bf16").keys() - published.published_tensors(R1, "bf16", mtp=False).keys()
    found = published.published_tensors(R1, "bf16")
    ends = sum(math.prod(found[name][0]) for name in extra if name.endswith(("embed_tokens.weight", "head.weight")))
    assert ends == 1_853_358_080
    unique = sum(math.prod(found[name][0]) for name in extra) - ends
    assert unique - 256 == 11_610_067_968  # the router's bias counts apart


@pytest.mark.parametrize("name", ["deepseek-r1-distill-qwen-7b", "qwen2.5-0.5b", "deepseek-v2-lite", "qwen3-30b-a3b"])
def test_a_checkpoint_holds_the_parameters(name):
    arch = Architecture.from_config(name)
    assert published.elements_by_format(published.published_tensors(arch)) == {"bf16": arch.n_params}


def test_an_unknown_format_of_a_checkpoint_is_refused(refuses):
    refuses(lambda: published.published_tensors(R1, "int8"), "weights", "'int8'", "fp8")


def one_by_one(state):
    """The same weights as the hub stores them, expert by expert."""
    found = {}
    for name, tensor in state.items():
        if name.endswith("experts.gate_up_proj"):
            for expert, (gate, up) in enumerate(zip(*tensor.chunk(2, dim=1), strict=True)):
                prefix = f"{name.removesuffix('gate_up_proj')}{expert}"
                found |= {f"{prefix}.gate_proj.weight": gate, f"{prefix}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            found |= {f"{name.removesuffix('down_proj')}{e}.down_proj.weight": w for e, w in enumerate(tensor)}
        else:
            found[name] = tensor
    return {name: tensor.contiguous() for name, tensor in found.items()}


@pytest.mark.parametrize("layout", [dict, one_by_one])
@torch.no_grad()
def test_a_folder_of_weights_gives_the_logits_of_transformers(layout, tmp_path):
    theirs = transformers_model(CONFIG)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"dtype": "float32"}))
    save_file(layout(theirs.state_dict()), tmp_path / "model.safetensors")
    ours = checkpoint.load_model(tmp_path)
    torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, rtol=1e-4, atol=1e-4)


SAVED = {"qwen3": CONFIGS["qwen3"], "v3": CONFIG} | {
    name: CONFIGS[name]
    for name in (
        "mixtral",
        "minimax_m2",
        "gpt_oss",
        "gpt_oss, square experts, all slide, no biases of attention",
        "glm4_moe",
        "qwen2_moe",
        "qwen3_moe, some dense",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen2_5_vl",
    )
}


@pytest.mark.parametrize("config", SAVED.values(), ids=SAVED)
@torch.no_grad()
def test_files_that_transformers_writes_hold_the_published_names_and_load(config, tmp_path):
    theirs = transformers_model(config)
    theirs.save_pretrained(tmp_path)  # in the hub's names, experts one by one
    arch, state = Architecture.from_config(tmp_path), load_file(tmp_path / "model.safetensors")
    if arch.model_type in set(STACKED) - set(
        TURNED_STACKS
    ):  # but those stay as they were made, and on the hub they lie the other way
        state = {name: tensor.mT.contiguous() if ".experts." in name else tensor for name, tensor in state.items()}
        save_file(state, tmp_path / "model.safetensors")
    held = {name: tuple(tensor.shape) for name, tensor in state.items() if "visual." not in name}
    assert held == {name: shape for name, (shape, _) in published.published_tensors(arch, mtp=False).items()}
    close(checkpoint.load_model(tmp_path)(TOKENS), theirs(TOKENS).logits)


def stored(module, weight):
    """What the scheme of this layer, or stack, should store of a weight: {name: tensor}, biases apart."""
    if isinstance(module, QuantizedStack):
        each = [dict(layer(module.scheme, matrix).named_parameters()) for matrix in weight]
        return {name: torch.stack([one[name] for one in each]) for name in each[0]}
    scheme = next(name for name, kind in LAYERS.items() if type(module) is kind)
    return dict(layer(scheme, weight).named_parameters())


@pytest.mark.parametrize("weights", ["fp32", *QUANTIZED])
@pytest.mark.parametrize("name", BIASED)
@torch.no_grad()
def test_every_tensor_of_the_checkpoint_lands_in_its_place_rounded_as_its_scheme_says(name, weights):
    theirs, ours = theirs_and_ours(CONFIGS[name], weights, activations="fp32")
    state = {key.removeprefix("model."): tensor for key, tensor in theirs.state_dict().items()}
    found, schemes = dict(ours.named_parameters()) | dict(ours.named_buffers()), (QuantizedLinear, QuantizedStack)
    for place, module in ours.named_modules():
        if isinstance(module, schemes):
            weight = state.pop(place if isinstance(module, QuantizedStack) else f"{place}.weight")
            for part, expected in stored(module, weight).items():
                assert torch.equal(found.pop(f"{place}.{part}"), expected), (place, part)
    for key, tensor in state.items():  # biases among them
        own = next(name for name in (key, f"{key}.weight") if name in found or name == "lm_head.weight")
        assert torch.equal(found.pop(own) if own in found else ours.embed_tokens.weight, tensor), key
    assert set(found) <= {"inv_freq"}


def test_tensors_that_do_not_fit_are_refused_by_name(refuses):
    model, state = build_model(Architecture.from_config(CONFIG), "fp32", "cpu"), transformers_model(CONFIG).state_dict()
    refuses(
        lambda: checkpoint.fill_from(model, {k: v for k, v in state.items() if "lm_head" not in k}), "lm_head.weight"
    )
    refuses(lambda: checkpoint.fill_from(model, state | {"model.extra": torch.ones(1)}), "'extra'")
    refuses(lambda: checkpoint.fill_from(model, state | {"model.norm.weight": torch.ones(3)}), "norm.weight", "(3,)")


def test_a_folder_without_weights_or_with_damaged_ones_is_refused(tmp_path, refuses):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    refuses(lambda: checkpoint.load_model(tmp_path), "no safetensors file")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    refuses(lambda: checkpoint.load_model(tmp_path), "damaged", "model.safetensors")
