"""What stands on the decoder: `architectures` decides, and transformers' classes on the meta device count."""

import pytest
import torch
import transformers
from decoders import CONFIGS, TOKENS, close
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import any_architectures, cached_workloads

import dsmem
from dsmem import Architecture, build_model
from dsmem.model import checkpoint

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "vocab_size": 128_256,
}
MISTRAL_7B = LLAMA_8B | {"model_type": "mistral", "vocab_size": 32_000, "sliding_window": None}
FAMILIES = {"v3": "DeepseekV3", "v2": "DeepseekV2", "qwen3_moe": "Qwen3Moe", "llama": "Llama", "mistral": "Mistral"}
FAMILIES |= {"qwen2, tied": "Qwen2", "qwen3": "Qwen3", "gpt2": "GPT2", "opt": "OPT"}
CLASSES = [
    (name, prefix + ending)
    for name, prefix in FAMILIES.items()
    for ending in ("Model", "ForSequenceClassification", "ForTokenClassification")
    if hasattr(transformers, prefix + ending)
]
each_class = pytest.mark.parametrize(("name", "cls"), CLASSES)


def theirs(name, cls, **labels):
    """The class of transformers, of a small config, with its head drawn at random too."""
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(**CONFIGS[name] | labels | {"num_nextn_predict_layers": 0})
    model = getattr(transformers, cls)(config).eval().float()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(0.05 * torch.randn_like(tensor))
    return model


@pytest.mark.parametrize(
    ("config", "cls", "labels", "count"),
    [
        (LLAMA_8B, "LlamaForSequenceClassification", {"num_labels": 1}, 7_504_928_768),
        (LLAMA_8B, "LlamaForSequenceClassification", {"id2label": {"0": "LABEL_0"}}, 7_504_928_768),
        (LLAMA_8B, "LlamaForSequenceClassification", {}, 7_504_928_768 + 4096),  # two labels where none are named
        (LLAMA_8B, "LlamaForCausalLM", {}, 8_030_261_248),
        (MISTRAL_7B, "MistralModel", {}, 7_110_660_096),
        (MISTRAL_7B, "MistralForCausalLM", {}, 7_241_732_096),
    ],
)
def test_published_shapes_are_counted_with_the_head_that_they_have(config, cls, labels, count):
    named = config | {"architectures": [cls]} | labels
    assert Architecture.from_config(named).n_params == count
    with torch.device("meta"):
        model = getattr(transformers, cls)(transformers.AutoConfig.for_model(**config | labels))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@each_class
@pytest.mark.parametrize("labels", [{}, {"num_labels": 5}])
@torch.no_grad()
def test_every_class_is_counted_and_run_as_in_transformers(name, cls, labels):
    model = theirs(name, cls, **labels)
    arch = Architecture.from_config(model.config.to_dict() | {"architectures": [cls]})
    assert arch.n_params == sum(parameter.numel() for parameter in model.parameters())
    ours = build_model(arch, "fp32", "cpu")
    checkpoint.fill_from(ours, model.state_dict())
    found = ours(TOKENS[:1])
    said = model(TOKENS[:1])
    if cls.endswith("Model"):
        close(found, said.last_hidden_state)
    else:
        close(found[:, -1] if cls.endswith("ForSequenceClassification") else found, said.logits)


@given(any_architectures(), cached_workloads(), st.sampled_from(("none", "score")), st.integers(1, 9), st.booleans())
@settings(max_examples=30, deadline=None)
def test_formula_and_ledger_agree_on_every_head(arch, work, head, labels, bias):
    arch = arch.scaled(head=head, num_labels=labels, score_bias=bias, tie_word_embeddings=False)
    run = dsmem.measure(arch, work)
    assert run.footprint.total_bytes == run.ledger.peak_bytes
    assert set(run.footprint.totals.values()) <= set(run.ledger.timeline().live_bytes.tolist())


def test_no_logits_are_made_without_a_language_models_head():
    reward = LLAMA_8B | {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}
    footprint = dsmem.inference_footprint(reward, weights="bf16", logits="all", seq_len=1024)
    assert footprint.instants["score"]["logits"] == 1024 * 2
    assert "logits" not in dsmem.inference_footprint(LLAMA_8B | {"architectures": ["LlamaModel"]}).parts
    converted = dsmem.inference_footprint(reward, weights="int8", modules_to_not_convert=())
    assert converted.instants["score"]["weights"] == 2 * (128_256 * 4096 + 65 * 4096 + 4096)  # embedding, norms, score


def test_a_v3_without_a_language_models_head_predicts_no_further_tokens():
    named = CONFIGS["v3"] | {"num_nextn_predict_layers": 1}
    assert Architecture.from_config(named).num_nextn_predict_layers == 1
    assert Architecture.from_config(named | {"architectures": ["DeepseekV3Model"]}).num_nextn_predict_layers == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["Qwen2ForRewardModel"]}, ("architectures='Qwen2ForRewardModel'", "ForCausalLM")),
        ({"architectures": ["MistralModel"]}, ("'MistralModel'", "model_type='llama'")),
        ({"architectures": ["LlamaModel", "LlamaForCausalLM"]}, ("architectures", "several heads")),
        ({"architectures": ["LlamaForCausalLMEagle3"]}, ("architectures='LlamaForCausalLMEagle3'",)),
        ({"num_labels": 3, "id2label": {"0": "a"}}, ("num_labels=3", "id2label")),
        ({"num_labels": 0}, ("num_labels=0", "at least 1")),
        ({"num_labels": "3"}, ("num_labels='3'",)),
        ({"id2label": ["a"]}, ("id2label=['a']",)),
        ({"id2label": {"a": 1}}, ("id2label={'a': 1}", "number")),
    ],
)
def test_a_head_that_is_not_known_is_refused(change, words, refuses):
    named = {"architectures": ["LlamaForSequenceClassification"]} | change
    refuses(lambda: Architecture.from_config(LLAMA_8B | named), *words)


def test_a_head_that_is_tied_to_nothing_is_refused(refuses):
    arch = Architecture.from_config(LLAMA_8B)
    refuses(lambda: arch.scaled(head="none", tie_word_embeddings=True), "head='none'", "tie_word_embeddings")
    refuses(lambda: arch.scaled(head="eagle"), "head='eagle'", "lm_head, score, none")
    refuses(lambda: arch.scaled(head="score"), "num_labels=0")
