"""Checkpoints predicted from a config alone: R1's published bytes, and what transformers really saves, quantized."""

import json
import shutil
import warnings

import pytest
import torch
from decoders import CONFIGS

import dsmem
from dsmem.config.source import DATA
from dsmem.footprint.checkpoints.names import part_of

R1 = json.loads((DATA / "models" / "deepseek-r1.json").read_text(encoding="utf-8"))
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4"}


def config_in(folder, config, **beside):
    for name, content in {"config": config, **beside}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_r1s_own_config_says_what_is_published(tmp_path):
    said = dsmem.checkpoint(config_in(tmp_path, R1 | {"quantization_config": FP8}))
    assert said.total_bytes == 688_574_839_360 and said.predicted and said.file_bytes is None
    assert said.by_part["mtp"] and said.n_params == 671_026_404_352 + 11_610_067_968 + 1_853_358_080
    assert "predicted from its config" in repr(said)
    shown = str(said.table())
    assert "not read" in shown and "as its quantization_config says: fp8 (8 bits)" in shown
    assert dsmem.checkpoint(tmp_path / "config.json").total_bytes == said.total_bytes


def test_modules_that_a_config_leaves_out_stay_in_16_bit(tmp_path):
    kept = ["lm_head", "model.layers.0.*", "model.layers.1.self_attn*", "model.layers.4*"]
    config = CONFIGS["v3"] | {"num_nextn_predict_layers": 0, "dtype": "bfloat16"}
    said = dsmem.checkpoint(config_in(tmp_path, config | {"quantization_config": NVFP4 | {"ignore": kept}}))
    formats = {tensor.name: tensor.element for tensor in said.tensors}
    assert formats["model.layers.0.mlp.up_proj.weight"] == formats["lm_head.weight"] == "bf16"
    assert formats["model.layers.1.self_attn.o_proj.weight"] == "bf16"
    assert formats["model.layers.1.mlp.experts.3.up_proj.weight"] == "uint8"
    assert formats["model.layers.1.mlp.experts.3.up_proj.weight_scale"] == "fp8"
    assert formats["model.layers.1.mlp.gate.weight"] == "bf16"  # a router is never converted
    assert said.n_params == dsmem.Architecture.of(config).n_params


def test_a_file_of_its_own_says_the_quantization_too(tmp_path):
    config, said = CONFIGS["qwen2"], {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    plain = dsmem.checkpoint(config_in(tmp_path, config)).total_bytes
    assert plain == 2 * dsmem.Architecture.of(config).n_params
    assert dsmem.checkpoint(config_in(tmp_path, config, hf_quant_config=said)).total_bytes < plain


def test_a_model_inside_a_larger_one_has_a_prefix(tmp_path):
    kept = ["language_model.lm_head", "language_model.model.layers.0.*"]
    inner = CONFIGS["v3"] | {"num_nextn_predict_layers": 0}
    outer = {"model_type": "kimi_k25", "text_config": inner, "vision_config": {}}
    outer |= {"quantization_config": NVFP4 | {"ignore": kept}}
    formats = {tensor.name: tensor.element for tensor in dsmem.checkpoint(config_in(tmp_path, outer)).tensors}
    assert formats["model.layers.0.mlp.up_proj.weight"] == formats["lm_head.weight"] == "bf16"
    assert formats["model.layers.1.mlp.experts.3.up_proj.weight"] == "uint8"


@pytest.mark.parametrize("name", ["qwen3_moe", "v3", "llama with biases"])
@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit", None])
def test_what_transformers_saves_is_what_its_config_says(kind, name, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    config = {key: value for key, value in CONFIGS[name].items() if key != "num_nextn_predict_layers"}
    plain, saved, alone = (tmp_path / each for each in ("plain", "saved", "alone"))
    alone.mkdir()
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    model.save_pretrained(plain)
    if kind:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            how = BitsAndBytesConfig(**{kind: True})
            model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=how, device_map={"": "cpu"})
            model.save_pretrained(saved)
    saved = saved if kind else plain
    shutil.copy(saved / "config.json", alone)
    if name == "v3":  # transformers has no module that predicts further tokens, whatever the config says
        config_in(alone, json.loads((alone / "config.json").read_text()) | {"num_nextn_predict_layers": 0})
    stored, said = dsmem.checkpoint(saved), dsmem.checkpoint(alone)
    # each 4-bit layer's shape as JSON
    words = sum(tensor.nbytes for tensor in stored.tensors if "quant_state" in tensor.name)
    # a router's bias, a buffer, is saved in the model's own format
    biases = sum(t.nbytes for t in said.tensors if part_of(t.name) == "buffers")
    biases -= sum(t.nbytes for t in stored.tensors if part_of(t.name) == "buffers")
    assert stored.total_bytes - words == said.total_bytes - biases and stored.n_params == said.n_params
    parts = dict(stored.by_part), dict(said.by_part)
    for each in parts:
        each.pop("weight_scales", None), each.pop("buffers", None)
    assert parts[0] == parts[1]


def test_what_cannot_be_predicted_is_refused(tmp_path, refuses):
    refuses(lambda: dsmem.checkpoint(config_in(tmp_path, {"model_type": "falcon"})), "model_type='falcon'")
    unread = CONFIGS["qwen2"] | {"quantization_config": {"quant_method": "hqq"}}
    refuses(lambda: dsmem.checkpoint(config_in(tmp_path, unread)), "quant_method='hqq'")
    refuses(lambda: dsmem.checkpoint(config_in(tmp_path, CONFIGS["qwen2"] | {"dtype": "int8"})), "dtype='int8'")
