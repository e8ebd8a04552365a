"""What many families spell alike: the sizes of a decoder, its rotary positions, its experts, its window."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from dsmem.config.keys import Keys
from dsmem.config.windows import FULL, KINDS, SLIDING

MOST_LAYERS = 10_000
NO_WINDOW = {"sliding_window": None, "layer_types": ()}
STRETCHED = ("linear", "dynamic", "yarn", "llama3")  # scalings that a factor says the strength of


class UnknownFamily(ValueError):
    """A `model_type`, or a kind of it, that is not known as formulas; transformers' own code may still run it."""


@dataclasses.dataclass(frozen=True)
class Family:
    """How one `model_type` is read.

    read: the checked keys of a config to the fields of an `Architecture`. aliases: {other spelling: the kit's name}, as
    in the `attribute_map` of transformers' config class. defaults: what that class puts in place of an absent key, by
    the kit's names. harmless: keys of this family that move no byte, beside `keys.HARMLESS`. foreign: as in `Keys`.
    """

    read: Callable[[Keys], dict[str, Any]]
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    harmless: frozenset = frozenset()
    foreign: frozenset = frozenset()


def decoder(keys: Keys, head_dim: int | None = None, act: tuple[str, str] = ("hidden_act", "silu")) -> dict[str, Any]:
    """What every decoder of RMSNorm and a gated MLP spells alike.

    head_dim: where the family gives it by another key. act: how the activation is spelled, and the one that is read.
    """
    keys.choice(act[0], act[1:], act[1])
    hidden, heads = keys.whole("hidden_size"), keys.whole("num_attention_heads")
    own = keys.maybe_whole("head_dim")
    head_dim = head_dim or own
    if head_dim is None:
        if hidden % heads:
            raise ValueError(
                f"hidden_size={hidden} does not divide by num_attention_heads={heads}; "
                "it must, or the config must give head_dim"
            )
        head_dim = hidden // heads
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layer_count(keys),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.maybe_whole("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "intermediate_size": keys.whole("intermediate_size"),
        "vocab_size": keys.whole("vocab_size"),
        "tie_word_embeddings": keys.flag("tie_word_embeddings"),
        "rms_norm_eps": keys.number("rms_norm_eps", 1e-6),
    } | rope(keys)


def layer_count(keys: Keys) -> int:
    """The number of layers; each is looked at one by one, so a number that no model has is refused first."""
    layers = keys.whole("num_hidden_layers")
    if layers > MOST_LAYERS:
        raise ValueError(f"num_hidden_layers={layers} is more than any model has; allowed: at most {MOST_LAYERS}")
    return layers


def rope(keys: Keys) -> dict[str, Any]:
    """Rotary base and scaling: transformers 5 writes `rope_parameters`, earlier releases two keys side by side."""
    found = {key: keys.get(key) for key in ("rope_parameters", "rope_scaling")}
    for key, value in found.items():
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{key}={value!r} is not a scaling; it must be a JSON object or null")
    scaling = dict(found["rope_parameters"] or found["rope_scaling"] or {})
    theta, own = keys.number("rope_theta", 10_000.0), scaling.pop("rope_theta", None)
    if own is not None:
        theta = Keys({"rope_theta": own}, keys.family, {}, {}).number("rope_theta", theta)
    kinds = [scaling.pop(key, None) for key in ("rope_type", "type")]
    kind = next((kind for kind in kinds if kind), "default")
    if not isinstance(kind, str):
        raise ValueError(f"rope_type={kind!r} is not the name of a scaling; it must be one, such as 'yarn'")
    if kind in STRETCHED and "factor" not in scaling:
        raise ValueError(f"rope_type={kind!r} has no factor beside it; the scaling must give one")
    # lists become tuples, for an architecture is hashable
    rest = ((name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(scaling.items()))
    return {"rope_theta": theta, "rope_scaling": () if kind == "default" else (("rope_type", kind), *rest)}


def rotary_dim(keys: Keys, head_dim: int, factor: float = 1.0) -> int | None:
    """Elements of a head that are rotated, None for all; factor: the part of them where the config does not say."""
    scaling = keys.get("rope_parameters") or keys.get("rope_scaling") or {}
    inside = scaling.get("partial_rotary_factor")
    factor = keys.number("partial_rotary_factor", factor)
    factor = factor if inside is None else Keys({"": inside}, keys.family, {}, {}).number("", factor)
    rotated = int(head_dim * factor)
    if rotated % 2 or not 2 <= rotated <= head_dim:
        raise ValueError(
            f"partial_rotary_factor={factor!r} rotates {rotated} of head_dim={head_dim} elements; it must be an even "
            "number of them, from 2 to all"
        )
    return None if rotated == head_dim else rotated


def experts(keys: Keys) -> dict[str, Any]:
    """The sizes of a mixture of experts, and how its router chooses."""
    keys.only("moe_layer_freq", 1)
    sizes = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
    return {name: keys.whole(name) for name in sizes} | {
        "n_shared_experts": keys.maybe_whole("n_shared_experts") or 0,
        "first_k_dense_replace": keys.whole("first_k_dense_replace", 0, least=0),
        "n_group": keys.maybe_whole("n_group") or 1,
        "topk_group": keys.maybe_whole("topk_group") or 1,
        "norm_topk_prob": keys.flag("norm_topk_prob"),
        "routed_scaling_factor": keys.number("routed_scaling_factor", 1.0),
    }


def windows(keys: Keys, slides: Callable[[int], bool] | None = None, switched_on: bool = True) -> dict[str, Any]:
    """`sliding_window` and `layer_types`, as an `Architecture` has them: which layers slide, and over how many tokens.

    slides: whether layer `index` does where the config has no layer_types; None for a family whose layers all slide
    where any does. switched_on: False where another key switches the window off.
    """
    given, layers = keys.get("sliding_window"), layer_count(keys)
    if given is not None:  # transformers may write 0 where it is switched off
        keys.whole("sliding_window", least=int(switched_on))
    window = given if switched_on else None
    usual = [SLIDING if window and (slides is None or slides(index)) else FULL for index in range(layers)]
    kinds = keys.get("layer_types")
    kinds = usual if kinds is None else kinds
    if not isinstance(kinds, list | tuple) or len(kinds) != layers or not all(kind in KINDS for kind in kinds):
        raise ValueError(
            f"layer_types={kinds!r} is not read in {keys.family}; it must name {layers} layers; allowed: "
            f"{', '.join(KINDS)}"
        )
    if (slides is None and list(kinds) != usual) or (SLIDING in kinds and not window):
        raise ValueError(
            f"layer_types={kinds!r} goes with another sliding_window than {window!r} in {keys.family}; take one of "
            "them out of the config"
        )
    return {"sliding_window": window, "layer_types": tuple(kinds)} if SLIDING in kinds else NO_WINDOW
