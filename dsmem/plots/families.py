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

TRAINING = {  # the same of a training step
    "weights": (("weights", "weight_scales", "adapters"), "weights"),
    "master copy": (("master_weights",), "master_weights"),
    "optimizer states": (("optimizer_states", "state_", "step_counts"), "optimizer_states"),
    "gradients": (("gradients",), "gradients"),
    "optimizer's temporaries": (("optimizer_temporaries", "wide_gradient"), "temporary"),
    "logits and loss": (("logits", "log_prob", "loss", "labels"), "logits"),
    "gradients on the way": (("activation_gradients", "narrow_gradients"), "working"),
    "copies of weights": (("weight_casts", "weight_copy", "weight_unpacked"), "weight_copy"),
    "activations": (("",), "residual"),
}


def by_family(parts: Mapping[str, Any], families: Mapping[str, tuple] = FAMILIES) -> dict[str, Any]:
    """{family: bytes} of all `families`, `FAMILIES` or `TRAINING`, from {part: bytes}.

    >>> {family: nbytes for family, nbytes in by_family({"gate": 3, "up": 4, "logits": 5}).items() if nbytes}
    {'MLP': 7, 'logits': 5}
    """
    sums = dict.fromkeys(families, 0)
    for part, nbytes in parts.items():
        family = family_of(part, families is TRAINING)
        sums[family] = sums[family] + nbytes
    return sums


@functools.cache
def family_of(part: str, training: bool = False) -> str:
    """The family that a part belongs to, of `FAMILIES` or of `TRAINING`.

    >>> family_of("query_rotated"), family_of("never heard of")
    ('attention', 'other')
    """
    families = TRAINING if training else FAMILIES
    return next(family for family, (begins, _) in families.items() if part.startswith(begins))


def look(name: str) -> dict:
    """The look of a family, or of a part."""
    known = TRAINING | FAMILIES
    return style.look(known[name][1] if name in known else name)
