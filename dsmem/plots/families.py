"""Parts summed by family, so that a picture of many parts has few colours, and always the same ones."""

import functools
from collections.abc import Mapping
from typing import Any

from dsmem.plots import style

FAMILIES = {  # family: (how its parts' names begin, the part whose look it has); the first that fits counts
    "weights": (("weights", "weight_scales"), "weights"),
    "KV cache": (("kv_cache", "latent_cache", "indexer_cache", "cache_", "slot_mapping"), "kv_cache"),
    "residual stream": (("residual", "norm", "position"), "residual"),
    "attention": (
        ("query", "key", "value", "kv_expanded", "latent", "scores", "attention", "logsumexp", "causal_mask")
        + ("inverse_rms", "rows_", "row_", "scales_gathered", "converted", "window_mask")
        + ("index_", "head_scores", "chosen_"),  # an indexer's
        "scores",
    ),
    "MLP": (("gate", "up", "mlp", "expert", "shared", "rout"), "gated"),
    "working copies": (("weight_copy", "weight_unpacked", "input_", "int32", "float32"), "temporary"),
    "logits": (("logits",), "logits"),
    "other": (("",), "buffers"),
}


def by_family(parts: Mapping[str, Any]) -> dict[str, Any]:
    """{family: bytes} of all `FAMILIES`, from {part: bytes}.

    >>> {family: nbytes for family, nbytes in by_family({"gate": 3, "up": 4, "logits": 5}).items() if nbytes}
    {'MLP': 7, 'logits': 5}
    """
    sums = dict.fromkeys(FAMILIES, 0)
    for part, nbytes in parts.items():
        sums[family_of(part)] = sums[family_of(part)] + nbytes
    return sums


@functools.cache
def family_of(part: str) -> str:
    """The family that a part belongs to.

    >>> family_of("query_rotated"), family_of("never heard of")
    ('attention', 'other')
    """
    return next(family for family, (begins, _) in FAMILIES.items() if part.startswith(begins))


def look(name: str) -> dict:
    """The look of a family, or of a part."""
    return style.look(FAMILIES[name][1] if name in FAMILIES else name)
