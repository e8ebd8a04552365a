"""What stands on the decoder: `architectures` in a config names the class, and the class decides about the head.

A language model's head (`ForCausalLM`), a score for each of a few labels (`ForSequenceClassification`, as reward models
and rerankers have it, and `ForTokenClassification`), or none (`LlamaModel`, as embedding models have it).
"""

from typing import Any

from dsmem.config.keys import Keys
from dsmem.units import whole_number

WORDS = ("ForCausalLM", "ForConditionalGeneration")
SCORES = ("ForSequenceClassification", "ForTokenClassification")


def head(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of an `Architecture` that say what stands on the decoder; empty for a language model's head.

    config: as the file holds it. Raises ValueError for a class whose head is not known.
    """
    names = _classes(config)
    kinds = {_kind(config, name) for name in names}
    if len(kinds) > 1:
        raise ValueError(f"architectures={names!r} names classes with several heads; it must name one")
    kind = kinds.pop() if kinds else "words"
    if kind == "words":
        return {}
    # nothing is tied to the embedding then, and no further tokens are predicted
    bare = {"tie_word_embeddings": False, "num_nextn_predict_layers": 0}
    if kind == "none":
        return bare | {"head": "none"}
    bias = kind == "ForTokenClassification" and Keys(config, kind, {}, {}).flag("token_classification_bias", True)
    return bare | {"head": "score", "num_labels": _labels(config), "score_bias": bias}


def _classes(config):
    named = config.get("architectures")
    names = [] if named is None else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"architectures={named!r} is not a list of names; it must be one, or no such key")
    return names


def _kind(config, name):
    """ "words", "none", or the ending of a class that scores; only the family's own classes are known so well."""
    if name.endswith(WORDS):
        return "words"
    family = str(config.get("model_type")).replace("_", "").lower()
    endings = {f"{family}model": "none", f"{family}lmheadmodel": "words"} | {
        f"{family}{ending}".lower(): ending for ending in SCORES
    }
    if name.lower() not in endings or name == "OPTForTokenClassification":  # which nobody has
        raise ValueError(
            f"architectures={name!r} is a class whose head is not known; allowed: a name that ends in ForCausalLM, or "
            f"of model_type={config.get('model_type')!r} the Model alone, {' or '.join(SCORES)} (or take the key out "
            "to read the decoder with a language model's head)"
        )
    return endings[name.lower()]


def _labels(config):
    """As transformers counts them: `id2label` lists them, `num_labels` is their number, and two are the default."""
    listed = config.get("id2label")
    if listed is not None and not (isinstance(listed, dict) and all(str(key).isdecimal() for key in listed)):
        raise ValueError(f"id2label={listed!r} is not a list of labels; it must be {{number: label}} or null")
    number = config.get("num_labels", 2 if listed is None else len(listed))
    if listed is not None and number != len(listed):
        raise ValueError(f"num_labels={number!r} is not the {len(listed)} labels of id2label; they must agree")
    return whole_number("num_labels", number, what="a number of labels")
