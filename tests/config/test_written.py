"""What is written of an architecture is read as that architecture, and transformers builds it at the size we count."""

import pytest
import torch
from decoders import each_config
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from dsmem import Architecture, model_names
from dsmem.config.written import config_of
from dsmem.model import library

CHANGES = st.fixed_dictionaries(
    {"num_hidden_layers": st.integers(1, 6), "vocab_size": st.integers(1, 99), "tie_word_embeddings": st.booleans()},
    optional={"intermediate_size": st.integers(1, 99), "rope_theta": st.floats(1, 1e6)},
)


def counted_by_transformers(config):
    """Parameters of the model that transformers builds of a dict, without allocating it."""
    family = library.RUN_AS.get(config["model_type"], config["model_type"])
    config = CONFIG_MAPPING[family].from_dict(dict(config, model_type=family))
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).parameters())


@pytest.mark.parametrize("name", model_names())
def test_a_shipped_model_comes_back_and_is_of_the_same_size_in_transformers(name):
    arch = Architecture.from_config(name).scaled(num_hidden_layers=4)
    assert Architecture.from_config(config_of(arch)) == arch
    assert counted_by_transformers(config_of(arch)) == arch.n_params


@each_config
def test_a_decoder_of_every_family_comes_back_and_is_of_the_same_size_in_transformers(config):
    arch = Architecture.from_config(config).scaled(apart=())  # what stands beside the language model is left out
    assert Architecture.from_config(config_of(arch)) == arch
    assert counted_by_transformers(config_of(arch)) == arch.n_params


@given(st.sampled_from(model_names()), CHANGES)
def test_a_scaled_model_comes_back(name, changes):
    arch = Architecture.from_config(name)
    if arch.learned_positions:
        changes = {field: value for field, value in changes.items() if field != "rope_theta"}
    arch = arch.scaled(**changes)
    assert Architecture.from_config(config_of(arch)) == arch


@pytest.mark.parametrize("head", ["none", "score"])
@pytest.mark.parametrize("name", ["llama-2-7b", "qwen3-30b-a3b", "qwen2.5-0.5b"])
def test_what_stands_on_the_decoder_is_written(name, head):
    fields = {"head": head, "num_labels": 3 if head == "score" else 0, "tie_word_embeddings": False}
    arch = Architecture.from_config(name).scaled(num_hidden_layers=1, **fields)
    assert Architecture.from_config(config_of(arch)) == arch
    assert library.read(arch).n_params == arch.n_params


def test_what_a_family_cannot_say_is_refused(refuses):
    llama = Architecture.from_config("llama-2-7b")
    refuses(lambda: config_of(llama.scaled(qk_norm=True)), "qk_norm=True", "llama", "False")
    refuses(lambda: config_of(llama.scaled(qkv_bias=True)), "o_bias=False", "True")
