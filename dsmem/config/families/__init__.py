"""Read a `config.json` into the fields of an `Architecture`: each family says how it spells its shape.

A key that is absent takes the value that transformers' config class puts in its place; an alias of the class's
`attribute_map` is that key. A family that is not listed, a head that is not known, and a key that may move a byte and
is not read are refused by name, never guessed. Of a config that holds a language model beside other
parts (`text_config`) the language model is read, and the others are named. The families lie in files by kind:
`dense`, `mixtures` (of experts), `latent` (attention), `indexed` (attention to chosen keys), `gpt`.
"""

from typing import Any

from dsmem.config.families import dense, gpt, indexed, latent, mixtures
from dsmem.config.families.common import Family
from dsmem.config.families.heads import head
from dsmem.config.keys import Keys
from dsmem.config.source import load

FAMILIES: dict[str, Family] = dense.FAMILIES | mixtures.FAMILIES | latent.FAMILIES | indexed.FAMILIES | gpt.FAMILIES
"""Every family that is read, by its `model_type`."""


class UnknownFamily(ValueError):
    """A `model_type` whose shape is not known as formulas; transformers' own code may still run it."""


def read(source: Any) -> dict[str, Any]:
    """The fields of an `Architecture` that `source` describes, as a dict; source and errors: see its `from_config`."""
    name, whole = load(source)
    config, apart = language_model(whole)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UnknownFamily(
            f"model_type={family!r} is not read; allowed: {', '.join(FAMILIES)} (dsmem.measure runs others in "
            "transformers' code, where that is installed)"
        )
    top = head(whole)  # after the family: of one that is not read another's code may know the head
    known = FAMILIES[family]
    keys = Keys(config, family, known.aliases, known.defaults, known.foreign)
    fields = {"name": name, "model_type": family, "apart": apart} | known.read(keys) | top
    keys.finish(known.harmless)
    return fields


def language_model(config: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of the language model inside `config`, and the names of the parts beside it, such as vision_config.

    A config without a `text_config` is its own.
    """
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config, ()
    apart = tuple(key for key, value in config.items() if key.endswith("_config") and isinstance(value, dict))
    # the outer config decides about what both could say
    outer = {key: config[key] for key in ("tie_word_embeddings", "_name_or_path") if key in config}
    return text | outer, tuple(key for key in apart if key not in ("text_config", "quantization_config"))
