"""Latent attention to the keys that an indexer chooses (DeepSeek Sparse Attention): DeepSeek-V3.2 and GLM-5."""

from dsmem.config.families.common import Family, experts
from dsmem.config.families.latent import V3, dense_layers, latent_attention, words
from dsmem.config.keys import Keys

ATTENTION = ("indexed_attention", "deepseek_sparse_attention")  # the second is the older spelling
INDEX = ("full", "shared")


def _deepseek_v32(keys):
    keys.only("rope_interleave", True)
    keys.only("indexer_rope_interleave", False)
    return _indexed(keys)


def _glm_moe_dsa(keys):
    keys.only("rope_interleave", True)
    keys.only("indexer_rope_interleave", True)
    return _indexed(keys) | {"indexer_rope_interleave": True, "indexer_types": _indexer_types(keys)}


def _indexed(keys):
    keys.only("scoring_func", "sigmoid")
    keys.only("topk_method", "noaux_tc")
    words(keys, "layer_types", ATTENTION)
    keys.whole("n_shared_experts", least=0)  # a null is not "none" in these families
    return {
        **latent_attention(keys),
        **experts(keys),
        **dense_layers(keys, keys.whole("first_k_dense_replace", least=0)),
        **{name: keys.whole(name) for name in ("q_lora_rank", "index_n_heads", "index_head_dim", "index_topk")},
        "scoring_func": "sigmoid",
        "rope_interleave": True,
        "num_nextn_predict_layers": keys.whole("num_nextn_predict_layers", 0, least=0),
    }


def _indexer_types(keys) -> tuple[str, ...]:
    """One word a layer, as the config class makes them of a list, a pattern or a frequency; none where all are full."""
    layers, kinds = keys.whole("num_hidden_layers"), words(keys, "indexer_types", INDEX)
    step, offset = keys.whole("index_topk_freq", 1), keys.whole("index_skip_topk_offset", 2, least=0)
    letters = keys.get("index_topk_pattern")
    if kinds is None and letters is not None:
        spelled = {"F": "full", "S": "shared"}
        named = [spelled.get(letter, letter) for letter in letters] if isinstance(letters, str) else letters
        kinds = words(Keys({"index_topk_pattern": named}, keys.family, {}, {}), "index_topk_pattern", INDEX, layers)
    if kinds is None:
        kinds = tuple("shared" if max(index - offset + 1, 0) % step else "full" for index in range(layers))
    return kinds if "shared" in kinds else ()


_ALIASES = {"num_local_experts": "n_routed_experts", "num_experts": "n_routed_experts"}
_V32 = {name: value for name, value in V3.items() if name != "rope_interleave"}
_V32 |= {"index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
_GLM = _V32 | {
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "n_group": 1,
    "topk_group": 1,
    "index_n_heads": 32,
    "rms_norm_eps": 1e-5,
}
# the MLPs have no bias whatever mlp_bias says; of the modules for further tokens, how they share an index
_HARMLESS = frozenset({"mlp_bias", "moe_router_dtype", "index_share_for_mtp_iteration"})

FAMILIES = {
    "deepseek_v32": Family(_deepseek_v32, _ALIASES, _V32, _HARMLESS),
    "glm_moe_dsa": Family(_glm_moe_dsa, _ALIASES, _GLM, _HARMLESS),
}
