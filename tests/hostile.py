"""Configs as no one should write them: each is counted as transformers counts it, or refused in one sentence.

`python tests/hostile.py` runs 3,000 and lists what is amiss; `config/test_hostile.py` runs a share. A case is a config
of `data/models`, or what a family's config class writes of itself, with one to three mutations.
"""

import collections
import contextlib
import copy
import dataclasses
import functools
import json
import math
import random
import signal
import sys
import warnings

import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

import dsmem
from dsmem.config.families import FAMILIES
from dsmem.config.keys import HARMLESS
from dsmem.config.source import DATA

NOT_THEIRS = {"kimi_k2": "deepseek_v3"}  # read as the other, whose code transformers has
HUGE = (2**31, 2**63, 10**400)
UNCOUNTED = {
    "rms_norm_eps",
    "rope_theta",
    "routed_scaling_factor",
    "rope_scaling",
    "rope_parameters",
    "n_group",
    "topk_group",
    "swiglu_alpha",
    "swiglu_limit",
}  # they move no byte
NONSENSE = (None, -1, 0, 3, 7, *HUGE, "8", "", "llama", True, False, [], [1], ["a"], {}, {"a": 1}, 1.5, -0.5)
NONSENSE += (math.nan, math.inf, -math.inf)
SCALINGS = (4, "yarn", [4.0], True, {}, {"factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}, {"rope_type": "linear"})
SCALINGS += ({"type": "linear", "factor": 2.0}, {"rope_type": 7}, {"rope_theta": "high"}, {"rope_theta": 1e6}, 0)
HEADS = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "")
PREFIXES = {
    "gpt2": "GPT2",
    "opt": "OPT",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "deepseek_v3": "DeepseekV3",
}
LABELS = (None, 1, 5, "3", {"0": "a"}, {"0": "a", "1": "b", "2": "c"})
SECONDS = 20
# of transformers 5: checks between fields of which one is not used, and a null head_dim that Qwen2 computes with
STRICTER = (
    "not a multiple of the number of attention heads",
    "even rotary dimension",
    "'NoneType' and 'float'",
)


@functools.cache
def bases():
    """{name: config}: every shipped model, and every family as its class writes itself; few layers, of every kind."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (DATA / "models").glob("*.json")}
    for family in FAMILIES:
        written = AutoConfig.for_model(NOT_THEIRS.get(family, family)).to_dict()
        if "num_experts_per_tok" in written:
            written["num_experts_per_tok"] = written["num_experts_per_tok"] or 2  # deepseek_v2's class has no value
        if family == "glm4_moe":
            written["head_dim"] = 128  # as published: the class's own width does not divide by its heads
        found[family] = {**written, "model_type": family}
    return {name: json.loads(json.dumps(shallow(found[name]))) for name in sorted(found)}


def shallow(config):
    """The same config with as few layers as show every kind of layer."""
    aliases = FAMILIES[config["model_type"]].aliases
    spelled = next(key for key in config if aliases.get(key, key) == "num_hidden_layers")
    layers = config[spelled]
    few = min(layers, (config.get("first_k_dense_replace") or 0) + 2)
    lists = {key: value[:few] for key, value in config.items() if isinstance(value, list) and len(value) == layers}
    return config | lists | {spelled: few}


# --- Mutations --------------------------------------------------------------------------------------------------------


def mutated(seed):
    """A config, and the keys that its mutations touched."""
    draw, touched = random.Random(seed), set()
    config = copy.deepcopy(bases()[draw.choice(list(bases()))])
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        kind = draw.choice((remove, replace, replace, rename, resize, resize, resize, scale, head, add))
        touched |= kind(draw, config)
    if draw.random() < 0.1:
        config = {draw.choice(("text_config", "text_config", "llm_config")): config}
    return config, touched


def remove(draw, config):
    key = draw.choice(sorted(config))
    config.pop(key)
    return {key}


def replace(draw, config):
    key = draw.choice(sorted(config))
    config[key] = draw.choice(NONSENSE)
    return {key}


def rename(draw, config):
    """A key under an alias of its family, or under one that nobody knows."""
    family = FAMILIES.get(str(config.get("model_type")))
    aliases = {} if family is None else family.aliases
    known = [(name, alias) for alias, name in aliases.items() if name in config]
    known += [(alias, name) for alias, name in aliases.items() if alias in config]
    key = draw.choice(sorted(config))
    old, new = draw.choice([*known, (key, f"{key}s"), (key, draw.choice(("n_embd", "n_layer", "d_model")))])
    config[new] = config.pop(old)
    return {old, new}


def resize(draw, config):
    """A size that is another, and still one."""
    sizes = [key for key, value in config.items() if type(value) is int and value > 1]
    if not sizes:
        return set()
    key = draw.choice(sorted(sizes))
    config[key] = draw.choice((config[key] * 2, config[key] + 1, config[key] * 3, config[key] // 2))
    return {key}


def scale(draw, config):
    key = draw.choice(("rope_scaling", "rope_parameters"))
    config[key] = copy.deepcopy(draw.choice(SCALINGS))
    return {key}


def head(draw, config):
    """Another class, which decides about the head, and perhaps labels."""
    prefix = PREFIXES.get(config.get("model_type") if isinstance(config.get("model_type"), str) else "", "Qwen2")
    config["architectures"] = draw.choice(([prefix + draw.choice(HEADS)],) * 5 + ([], None, "LlamaForCausalLM", [7]))
    labels = draw.choice(("num_labels", "id2label", "architectures"))
    if labels != "architectures":
        config[labels] = copy.deepcopy(draw.choice(LABELS))
    return {"architectures", labels}


def add(draw, config):
    """A key that the class knows and the config did not say, or one that is known to nobody."""
    family = str(config.get("model_type"))
    family = NOT_THEIRS.get(family, family)
    written = AutoConfig.for_model(family).to_dict() if family in FAMILIES else {}
    ours = {name for known in FAMILIES.values() for name in (*known.defaults, *known.aliases)}
    ours |= {field.name for field in dataclasses.fields(dsmem.Architecture)} - {"name", "head"}
    key = draw.choice(sorted({*written, *ours, "draft_vocab_size", "attention_chunk_size"}))
    config[key] = copy.deepcopy(draw.choice(NONSENSE))
    return {key}


# --- Judges -----------------------------------------------------------------------------------------------------------


def ours(config):
    """Our count, or the sentence of the refusal; the footprint must say as much of what was read."""
    try:
        arch = dsmem.Architecture.from_config(config)
    except ValueError as error:
        return str(error)
    with contextlib.suppress(ValueError):
        dsmem.inference_footprint(arch, seq_len=8, weights="bf16")
    return arch.n_params


def theirs(config):
    """transformers' count of the language model, on the meta device; any error where it cannot be built."""
    if "text_config" in config:
        config = config["text_config"] | {"architectures": None}  # the outer config decides about the head
    family = NOT_THEIRS.get(config["model_type"], config["model_type"])
    settings = CONFIG_MAPPING[family].from_dict(copy.deepcopy(config) | {"model_type": family})
    names = config.get("architectures") or []
    named = [getattr(transformers, name) for name in names if not name.endswith("ForCausalLM")]
    inside = type(settings) not in MODEL_FOR_CAUSAL_LM_MAPPING  # of a whole, which has the head
    kinds = MODEL_MAPPING if inside else MODEL_FOR_CAUSAL_LM_MAPPING
    with torch.device("meta"):
        model = (named or [kinds[type(settings)]])[0](settings)
    head = inside and not named and not getattr(settings, "tie_word_embeddings", False)
    return sum(p.numel() for p in model.parameters()) + head * settings.vocab_size * settings.hidden_size


def relevant(config, uncounted=()):
    """The config without what is known to move no byte: what transformers may refuse and we need not read."""
    inner = config.get("text_config", config)
    scores = "For" in str(config.get("architectures")) and "ForCausalLM" not in str(config.get("architectures"))
    read = {"architectures", "model_type"} | ({"num_labels", "id2label"} if scores else set())
    read |= {"max_position_embeddings"} if inner["model_type"] in ("gpt2", "opt") else set()  # they are learned there
    harmless = (HARMLESS | FAMILIES[inner["model_type"]].harmless) - read | set(uncounted)
    kept = {key: value for key, value in inner.items() if key not in harmless and not key.startswith("_")}
    if not kept.get("layer_types"):
        kept.pop("layer_types", None)  # an empty one is no list
    return kept if inner is config else {"text_config": kept}


def judge(config, touched):
    """(verdict, words): "counted" and "refused" are right, "ours alone" is what transformers cannot build."""
    try:
        found = ours(config)
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}"
    if isinstance(found, str):
        inside = {
            key
            for value in config.get("text_config", config).values()
            if isinstance(value, dict)
            for key in map(str, value)
        }
        names = touched | {key for name in touched for key in spellings(name)} | {"model_type"} | inside
        names |= {f"{key}=" for key in config.get("text_config", config)}
        names |= {"missing from the config"} if "model_type" in touched else set()  # of another family
        right = "\n" not in found and len(found) < 1200 and any(name in found for name in names)
        return ("refused" if right else "not a sentence about it"), found
    for said in (config, relevant(config), relevant(config, UNCOUNTED)):
        try:
            counted = theirs(said)
        except Exception as error:
            refusal = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
            continue
        return ("counted" if counted == found else "wrong"), f"ours {found:,}, transformers' {counted:,}"
    return ("uncounted" if any(words in refusal for words in STRICTER) else "ours alone"), refusal


def spellings(name):
    return {alias for family in FAMILIES.values() for pair in family.aliases.items() if name in pair for alias in pair}


def verdict(seed):
    """`judge` of the case number `seed`, in quiet and within a time."""
    config, touched = mutated(seed)
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transformers.logging.set_verbosity_error()
            return *judge(config, touched), config, touched
    except TimeoutError:
        return "hangs", f"more than {SECONDS} s", config, touched
    finally:
        signal.alarm(0)


def _late(*_):
    raise TimeoutError


RIGHT = ("counted", "refused", "uncounted")


def main(count=3000, first=0):
    """Run `count` cases, print what is amiss, and say how many were counted and refused. first: its seed."""
    verdicts = collections.Counter()
    for seed in range(first, first + count):
        kind, words, config, touched = verdict(seed)
        verdicts[kind] += 1
        if kind not in RIGHT:
            changed = {key: config.get("text_config", config).get(key, "<absent>") for key in sorted(touched)}
            print(f"{seed}: {kind}: {words}\n    {config.get('model_type')}: {str(changed)[:400]}")
    print(f"{count:,} configs: {dict(verdicts)}")
    return sum(verdicts[kind] for kind in verdicts if kind not in RIGHT)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])) > 0)
