"""Exercises of notebook 01: attention, FP8 and experts, counted."""

from dsmem import formulas
from dsmem.check.answers import call
from dsmem.check.cases import fields
from dsmem.check.exercise import Exercise, Mistake
from dsmem.config.architecture import Architecture

_ATTENTION = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")


def _attention(hidden_size, num_attention_heads, num_key_value_heads, head_dim):
    queries, keys = num_attention_heads * head_dim, num_key_value_heads * head_dim
    return hidden_size * (2 * queries + 2 * keys) + queries + 2 * keys


def _no_values(hidden_size, num_attention_heads, num_key_value_heads, head_dim):
    queries, keys = num_attention_heads * head_dim, num_key_value_heads * head_dim
    return hidden_size * (2 * queries + keys) + queries + keys


def _no_output(hidden_size, num_attention_heads, num_key_value_heads, head_dim):
    return (hidden_size + 1) * head_dim * (num_attention_heads + 2 * num_key_value_heads)


def _no_bias(hidden_size, num_attention_heads, num_key_value_heads, head_dim):
    return 2 * hidden_size * head_dim * (num_attention_heads + num_key_value_heads)


def _square(hidden_size, num_key_value_heads, head_dim):
    keys = num_key_value_heads * head_dim
    return hidden_size * (2 * hidden_size + 2 * keys) + hidden_size + 2 * keys


attention_params = Exercise(
    "attention_params",
    "Return the parameters of one layer's attention: q_proj, k_proj and v_proj, each with a bias, and o_proj without.",
    _attention,
    (
        *(fields(f"deepseek-r1-distill-qwen-{size}", *_ATTENTION) for size in ("7b", "1.5b", "32b")),
        fields("qwen2.5-0.5b", *_ATTENTION),  # another head_dim
        fields("qwen3-30b-a3b", *_ATTENTION),  # its heads together are wider than hidden_size
    ),
    nudge="Four matrices lead from hidden_size to heads * head_dim or back; a bias has one number for each output.",
    mistakes=(
        Mistake("bias forgotten", "The outputs of q_proj, k_proj and v_proj each have one.", _no_bias),
        Mistake(
            "grouped heads ignored",
            "Keys and values have num_key_value_heads heads, so k_proj and v_proj are narrower.",
            {"num_key_value_heads": "num_attention_heads"},
        ),
        Mistake("output projection forgotten", "The heads' outputs go back to hidden_size through o_proj.", _no_output),
        Mistake(
            "bias on the output as well",
            "In this family o_proj has no bias.",
            lambda **inputs: _attention(**inputs) + inputs["hidden_size"],
        ),
        Mistake("keys without values", "The values have a matrix and a bias of their own.", _no_values),
        Mistake(
            "hidden_size in place of all heads",
            "All heads together are num_attention_heads * head_dim wide, which is not always hidden_size.",
            _square,
        ),
    ),
    unit="parameters",
    notebook="01",
)


fp8_linear_bytes = Exercise(
    "fp8_linear_bytes",
    "Return the bytes of a matrix in FP8, with one float32 scale for every tile of 128 x 128, partial tiles included.",
    formulas.fp8_linear_bytes,
    tuple(
        dict(in_features=n_in, out_features=n_out)
        for n_in, n_out in ((7168, 2048), (7168, 576), (1536, 24576), (100, 300))
    ),
    nudge="How many tiles are there along each side, if the last one may be partly empty?",
    mistakes=(
        Mistake(
            "scales forgotten",
            "Every tile has one, of 4 bytes.",
            lambda in_features, out_features: in_features * out_features,
        ),
        Mistake(
            "partial tiles not counted",
            "A tile that is not full needs its scale as well, so round up.",
            lambda in_features, out_features: (
                in_features * out_features + 4 * (in_features // 128) * (out_features // 128)
            ),
        ),
        Mistake(
            "rounded up only once",
            "Each side is cut into tiles by itself, so round up before you multiply.",
            lambda in_features, out_features: in_features * out_features + 4 * -(-in_features * out_features // 128**2),
        ),
        Mistake(
            "scales of one byte",
            "A float32 takes 4 bytes.",
            lambda in_features, out_features: (
                in_features * out_features + -(-in_features // 128) * -(-out_features // 128)
            ),
        ),
        Mistake(
            "a scale per row",
            "That is how INT8 does it, while FP8 has a scale per tile.",
            lambda in_features, out_features: in_features * out_features + 4 * out_features,
        ),
    ),
    notebook="01",
)


def _expert_case(model):
    """The fields of a model with experts, and in how many layers it has them."""
    names = ("hidden_size", "moe_intermediate_size", "n_routed_experts", "num_experts_per_tok", "n_params")
    expert_layers = len(Architecture.of(model).expert_layers)
    return fields(model, *names, "num_hidden_layers") | {"num_expert_layers": expert_layers}


def _active(n_params, num_expert_layers, n_routed_experts, num_experts_per_tok, hidden_size, moe_intermediate_size):
    idle = num_expert_layers * (n_routed_experts - num_experts_per_tok)
    return n_params - idle * 3 * hidden_size * moe_intermediate_size


active_params = Exercise(
    "active_params",
    "Return how many of n_params one token passes through: all but the routed experts that it does not choose.",
    _active,
    tuple(map(_expert_case, ("deepseek-r1", "deepseek-v2-lite", "qwen3-30b-a3b"))),
    nudge="Start from n_params and take away: how many experts rest in one layer, and how large is an expert?",
    mistakes=(
        Mistake(
            "all of them", "A token is sent to num_experts_per_tok of the n_routed_experts.", lambda n_params: n_params
        ),
        Mistake(
            "two matrices in an expert",
            "An expert is a gated MLP: gate, up and down.",
            lambda **inputs: inputs["n_params"] - (inputs["n_params"] - call(_active, inputs)) // 3 * 2,
        ),
        Mistake(
            "experts in every layer",
            "The first layers may be dense, so count num_expert_layers.",
            {"num_expert_layers": "num_hidden_layers"},
        ),
        Mistake("one layer only", "Experts rest in every layer that has them.", {"num_expert_layers": 1}),
        Mistake("no routed expert at all", "Those that are chosen work, so they count.", {"num_experts_per_tok": 0}),
        Mistake(
            "the experts' share of everything",
            "Attention, embedding and head work for every token.",
            lambda n_params, n_routed_experts, num_experts_per_tok: n_params * num_experts_per_tok // n_routed_experts,
        ),
    ),
    unit="parameters",
    notebook="01",
)
