"""DeepSeek-R1's checkpoint rebuilt by name; real weights into our decoder; files and tensors that are refused."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from dsmem import Architecture, build_model
from dsmem.footprint import published
from dsmem.model import checkpoint

R1 = Architecture.from_config("deepseek-r1")
CONFIG = {
    "model_type": "deepseek_v3",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "vocab_size": 61,
    "num_nextn_predict_layers": 0,
}
TOKENS = torch.arange(14).view(2, 7)


def transformers_model():
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIG), dtype=torch.float32).eval()


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
    theirs = transformers_model()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"dtype": "float32"}))
    save_file(layout(theirs.state_dict()), tmp_path / "model.safetensors")
    ours = checkpoint.load_model(tmp_path)
    torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["int8", "int8_w8a8", "fp8", "int4"])
@torch.no_grad()
def test_weights_are_rounded_to_the_scheme_that_is_asked_for(weights):
    theirs = transformers_model()
    ours = build_model(Architecture.from_config(CONFIG), weights, "cpu", activations="fp32")
    checkpoint.fill_from(ours, theirs.state_dict())
    error = (ours(TOKENS) - theirs(TOKENS).logits).norm() / theirs(TOKENS).logits.norm()
    assert 1e-4 < error < 0.25


def test_tensors_that_do_not_fit_are_refused_by_name(refuses):
    model, state = build_model(Architecture.from_config(CONFIG), "fp32", "cpu"), transformers_model().state_dict()
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
