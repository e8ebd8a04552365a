"""What follows from the fields that a mixture of experts has, and which of them go together."""

import math

from dsmem.units import whole_number

_SIZES = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_group", "topk_group")
_ALONE = {"expert_bias": False, "swiglu_limit": None, "swiglu_alpha": 1.702}  # and their values without experts


class MixtureShapes:
    """The part of `Shapes` that is about mixtures of experts."""

    def has_experts(self, index: int) -> bool:
        """Whether layer `index` (from 0) is a mixture of experts."""
        sparse = self.n_routed_experts > 0 and index >= self.first_k_dense_replace
        return sparse and index not in self.mlp_only_layers

    @property
    def expert_layers(self) -> list[int]:
        """Indices of the layers that are mixtures of experts; empty in a dense model."""
        return [index for index in range(self.num_hidden_layers) if self.has_experts(index)]

    def shared_linears(self) -> dict[str, tuple[int, int, bool]]:
        """The linear layers of the experts that every token passes through: one MLP as wide as all of them."""
        # a family spells the width in one way or the other
        width = self.n_shared_experts * self.moe_intermediate_size + self.shared_expert_intermediate_size
        return swiglu("shared_experts.", self.hidden_size, width, self.mlp_bias) if width else {}

    def expert_stacks(self) -> dict[str, tuple[int, int, int]]:
        """The routed experts' matrices, one stack for all of a layer: {name: (experts, out_features, in_features)}."""
        if not self.n_routed_experts:
            return {}
        experts, hidden, width = self.n_routed_experts, self.hidden_size, self.moe_intermediate_size
        return {"experts.gate_up_proj": (experts, 2 * width, hidden), "experts.down_proj": (experts, hidden, width)}

    def expert_biases(self) -> dict[str, tuple[int, int]]:
        """The routed experts' biases, where they have them: {name of the stack: (experts, out_features)}."""
        return {name: shape[:2] for name, shape in self.expert_stacks().items()} if self.expert_bias else {}

    def expert_census(self) -> dict[str, int]:
        """Parameters of a mixture's router and its routed experts, by named part, biases with their matrices."""
        biases, router = self.expert_biases(), {"router": self.n_routed_experts * (self.hidden_size + self.expert_bias)}
        if self.shared_expert_intermediate_size:
            router["shared_expert_gate"] = self.hidden_size
        stacks = self.expert_stacks().items()
        return router | {name: math.prod(shape) + math.prod(biases.get(name, (0,))) for name, shape in stacks}

    @property
    def n_active_params(self) -> int:
        """Parameters that one token passes through, the embedding included: all but the experts not chosen.

        >>> import dsmem
        >>> dsmem.Architecture.from_config("deepseek-r1").n_active_params
        37552282624
        """
        idle = self.n_routed_experts - self.num_experts_per_tok
        one = sum(math.prod(shape[1:]) + self.expert_bias * shape[1] for shape in self.expert_stacks().values())
        return self.n_params - len(self.expert_layers) * idle * one

    def check_experts(self) -> None:
        """Raise ValueError for fields that no mixture has, or that only a mixture has."""
        if not self.n_routed_experts:
            return self.check_fields(_ALONE, "goes with n_routed_experts, which {name} has not")
        for field in _SIZES:
            whole_number(field, getattr(self, field), what="a size")
        if self.expert_bias == (self.swiglu_limit is None):
            raise ValueError(
                f"swiglu_limit={self.swiglu_limit!r} does not go with expert_bias={self.expert_bias!r}; it must be a "
                "number where that is True, None where it is False"
            )
        if self.n_shared_experts and self.shared_expert_intermediate_size:
            raise ValueError(
                f"n_shared_experts={self.n_shared_experts} says the same as shared_expert_intermediate_size="
                f"{self.shared_expert_intermediate_size}; one of them must be 0"
            )
        if self.n_routed_experts % self.n_group:
            raise ValueError(
                f"n_group={self.n_group} does not divide n_routed_experts={self.n_routed_experts}; it must"
            )
        reach = self.n_routed_experts // self.n_group * min(self.topk_group, self.n_group)
        if self.num_experts_per_tok > reach:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok} is more than the experts a token may choose from; "
                f"allowed: at most {reach}"
            )


def swiglu(prefix: str, hidden: int, width: int, bias: bool) -> dict[str, tuple[int, int, bool]]:
    """The three linear layers of a gated MLP, each name after `prefix`: (in_features, out_features, has a bias)."""
    shapes = {"gate_proj": (hidden, width), "up_proj": (hidden, width), "down_proj": (width, hidden)}
    return {prefix + name: (*shape, bias) for name, shape in shapes.items()}
