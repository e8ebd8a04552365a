"""What follows from the fields that GPT blocks have, and which of them go together."""

from typing import Any

import numpy as np

from dsmem.units import one_of, whole_number

GPT_ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu", "relu")
"""What may stand in the MLP of a GPT block, `Architecture.hidden_act`."""

_ALONE = {  # what only GPT blocks have, and its value elsewhere
    "hidden_act": "silu",
    "learned_positions": 0,
    "position_offset": 0,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}
_WITHOUT = {  # what they have not
    "kv_lora_rank": None,
    "n_routed_experts": 0,
    "qk_norm": False,
    "sliding_window": None,
    "joined_gate_up": False,
    "attention_sinks": False,
}


class GPTShapes:
    """The part of `Shapes` that is about GPT blocks: LayerNorm, learned positions, an MLP without a gate."""

    @property
    def gpt_block(self) -> bool:
        """Whether the layers are GPT-2's: LayerNorm, learned positions, no gate in the MLP."""
        return self.layer_norm_epsilon is not None

    def scales_queries(self, index: int) -> bool:
        """Whether layer `index` (from 0) of a GPT block multiplies its queries by a number other than 1."""
        factor = 1.0 if self.scale_attn_weights else self.head_dim**0.5
        return factor / (index + 1 if self.scale_attn_by_inverse_layer_idx else 1) != 1

    @property
    def norm_params(self) -> int:
        """Parameters of one norm as wide as the model: a weight, and in a GPT block a bias."""
        return self.hidden_size * (2 if self.gpt_block else 1)

    def check_gpt_block(self) -> None:
        """Raise ValueError for fields that do not go together with GPT blocks, or without them."""
        if not self.gpt_block:
            act = {"hidden_act": "gelu_pytorch_tanh"} if self.gemma_block else {}
            return self.check_fields(_ALONE | act, "goes with layer_norm_epsilon, which {name} has not")
        whole_number("learned_positions", self.learned_positions, what="a size")
        one_of("hidden_act", self.hidden_act, GPT_ACTIVATIONS, "an activation of GPT blocks")
        self.check_fields(_WITHOUT, "is not known beside layer_norm_epsilon of {name}")
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(
                f"num_key_value_heads={self.num_key_value_heads} goes with grouped heads; with layer_norm_epsilon it "
                f"must be num_attention_heads={self.num_attention_heads}"
            )

    def check_fields(self, fields: dict[str, Any], why: str) -> None:
        """Raise ValueError, with `why` and the name in it, for the first of `fields` that has another value."""
        for field, value in fields.items():
            if (own := getattr(self, field)) != value:
                raise ValueError(f"{field}={own!r} {why.format(name=self.name)}; allowed: {value!r}")

    def check_positions(self, tokens: Any) -> None:
        """Raise ValueError where `tokens`, a number or an array, are more than the table of learned positions has."""
        if self.learned_positions and np.any(tokens > self.learned_positions):
            raise ValueError(
                f"seq_len={np.max(tokens)} is past learned_positions={self.learned_positions} of {self.name}; "
                "allowed: no more than those"
            )
