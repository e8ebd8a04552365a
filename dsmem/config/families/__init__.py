"""Read a `config.json` into the fields of an `Architecture`: each family says how it spells its shape.

A key that is absent takes the value that transformers' config class puts in its place; an alias of the class's
`attribute_map` is that key. A family that is not listed, a head that is not known, and a key that may move a byte and
is not read are refused by name, never guessed. Of a config that holds a language model beside other parts
(`text_config`) the language model is read, and the others are named. The families lie in files by kind: `dense`,
`mixtures` (of experts), `latent` (attention), `indexed` (attention to chosen keys), `gpt`, `multimodal`, `sliding`
(windows).
"""

from typing import Any

from dsmem.config.families import dense, gpt, indexed, latent, mixtures, multimodal, sliding
from dsmem.config.families.common import Family, UnknownFamily
from dsmem.config.families.heads import head
from dsmem.config.families.multimodal import language_model
from dsmem.config.keys import Keys
from dsmem.config.quantization import stored_as
from dsmem.config.source import load

_KINDS = (dense, mixtures, latent, indexed, gpt, multimodal, sliding)
FAMILIES: dict[str, Family] = {name: family for kind in _KINDS for name, family in kind.FAMILIES.items()}
"""Every family that is read, by its `model_type`."""


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
    fields = {"name": name, "model_type": family, "apart": apart, "stored": stored_as(whole)} | known.read(keys) | top
    if "learned_positions" not in fields:  # a table of positions says it already
        fields["max_position_embeddings"] = keys.maybe_whole("max_position_embeddings")
    keys.finish(known.harmless)
    return fields
