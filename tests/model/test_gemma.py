"""Gemma 2 and 3: what published shapes count, what is cached, and what is said of capped scores."""

import pytest
import torch
from decoders import CONFIGS, TOKENS, close, theirs_and_ours

import dsmem
from dsmem import Architecture
from dsmem.config.written import config_of
from dsmem.footprint import cache_bytes, published_tensors
from dsmem.model import capped, checkpoint
from dsmem.model.devices import attention_for

GEMMA2_9B = {"hidden_size": 3584, "intermediate_size": 14_336, "num_hidden_layers": 42, "num_attention_heads": 16}
GEMMA2_9B |= {"model_type": "gemma2", "num_key_value_heads": 8, "vocab_size": 256_000}
GEMMA3_27B = {"hidden_size": 5376, "intermediate_size": 21_504, "num_hidden_layers": 62, "num_attention_heads": 32}
GEMMA3_27B |= {"model_type": "gemma3_text", "num_key_value_heads": 16, "vocab_size": 262_208, "head_dim": 128}
GEMMA3_27B |= {"sliding_window": 1024, "query_pre_attn_scalar": 168}
GEMMA3_27B |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}


@pytest.mark.parametrize(("config", "count"), [(GEMMA2_9B, 9_241_705_984), (GEMMA3_27B, 27_009_346_304)])
def test_a_published_shape_has_the_parameters_of_transformers(config, count):
    arch = Architecture.from_config(config)
    assert arch.n_params == count == sum(torch.Size(shape).numel() for shape, _ in published_tensors(arch).values())
    assert Architecture.from_config(config_of(arch)) == arch


def test_one_layer_in_six_of_gemma_3_keeps_all_tokens():
    arch, token = Architecture.from_config(GEMMA3_27B), 2 * 16 * 128 * 2
    assert arch.layers_that(False) == list(range(5, 62, 6))
    assert cache_bytes(arch, seq_len=131_072, weights="bf16") == {"kv_cache": (10 * 131_072 + 52 * 1023) * token}
    assert arch.rope_scaling and arch.rope_theta == 1e6 and arch.rope_local_base_freq == 10_000
    two = arch.scaled(rope_local_base_freq=None)
    parts, one = (dsmem.inference_footprint(a, seq_len=64).parts for a in (arch, two))
    assert parts["rope_tables"] == 2 * one["rope_tables"] and parts["buffers"] == 2 * one["buffers"]


def test_the_language_model_inside_a_gemma_3_is_read_and_the_rest_named():
    whole = {"model_type": "gemma3", "text_config": GEMMA3_27B, "vision_config": {"model_type": "siglip_vision_model"}}
    arch = Architecture.from_config(whole)
    assert arch.apart == ("vision_config",) and arch.n_params == 27_009_346_304


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
@torch.no_grad()
def test_a_folder_of_transformers_is_loaded_and_decoded_step_by_step(name, tmp_path):
    theirs, _ = theirs_and_ours(CONFIGS[name])
    theirs.save_pretrained(tmp_path)
    ours = checkpoint.load_model(tmp_path)
    cache = ours.new_cache(2, 11, layout="growing")
    close(torch.cat([ours(t, cache=cache) for t in TOKENS.split(1, dim=1)], dim=1), theirs(TOKENS).logits)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_activation": "gelu"}, ("hidden_activation='gelu'", "gelu_pytorch_tanh")),
        ({"use_bidirectional_attention": True}, ("use_bidirectional_attention=True",)),
        ({"num_key_value_heads": None}, ("num_key_value_heads",)),
        ({"attn_logit_softcapping": -1}, ("attn_logit_softcapping=-1", "above 0")),
        ({"rope_parameters": {"rope_theta": 5e5}}, ("rope_parameters", "full_attention and sliding_attention")),
        ({"sliding_window_pattern": 0}, ("sliding_window_pattern=0",)),
    ],
)
def test_what_a_gemma_cannot_be_is_refused(change, words, refuses):
    refuses(lambda: Architecture.from_config(GEMMA3_27B | {"rope_scaling": None} | change), *words)


def test_on_a_gpu_capped_scores_want_eager_attention(monkeypatch, refuses):
    arch = Architecture.from_config(GEMMA2_9B)
    monkeypatch.setattr("dsmem.model.devices.check_device", lambda device: "cuda")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    assert attention_for("cuda", arch) == "eager"

    class OnGPU:
        is_cuda = True

    refuses(lambda: capped._refuse_on_gpu(OnGPU, 50.0), "softcap=50.0", "attention='eager'")
