"""A mixture of experts: every token passes through a few of many MLPs, and through those that all share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from dsmem.model import gpt_oss, operators
from dsmem.model.layers import MLP, Linear, autocasted

if TYPE_CHECKING:
    from dsmem.config.architecture import Architecture


class ExpertStack(nn.Module):
    """One matrix per expert, in one tensor (experts, out_features, in_features) that `build_model` fills."""

    def __init__(
        self, experts: int, out_features: int, in_features: int, dtype: torch.dtype, device: torch.device | str
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, out_features, in_features, dtype=dtype, device=device))

    def forward(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Rows of `x`, each times its expert's matrix: (rows, out_features).

        x: (rows, in_features), sorted by expert. ends: the first row after each expert's, (experts,), int32.
        """
        return operators.grouped_linear(*autocasted(x, self.weight), ends)


class Experts(nn.Module):
    """The routed experts: SwiGLU each, gate and up projection in one stack. make_stack: as in `Decoder`."""

    def __init__(self, make_stack: Callable):
        super().__init__()
        self.gate_up_proj, self.down_proj = make_stack("experts.gate_up_proj"), make_stack("experts.down_proj")

    def forward(
        self, x: torch.Tensor, weights: torch.Tensor, token: torch.Tensor, slot: torch.Tensor, ends: torch.Tensor
    ) -> torch.Tensor:
        """For every token of `x` the weighted sum over its experts: (tokens, hidden_size), as `x` is.

        The other arguments are what `operators.route` gives.
        """
        rows = self.outer(self.inner(x, token, slot, ends), ends)
        return _Sum.apply(rows, weights.to(rows.dtype), slot)

    def inner(self, x: torch.Tensor, token: torch.Tensor, slot: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """What goes into `down_proj`, sorted by expert: (tokens * top_k, moe_intermediate_size)."""
        gate, up = self.gate_up_proj(_Spread.apply(x, token, slot), ends).chunk(2, dim=-1)
        return F.silu(gate) * up

    def outer(self, inner: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """What comes out of `down_proj`, sorted by expert: (tokens * top_k, hidden_size)."""
        return self.down_proj(inner, ends)


class _Spread(torch.autograd.Function):
    """The rows of all choices, sorted by expert. Keeps `slot`; the gradient adds up choice by choice, never at once."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, token: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slot)
        return x[token]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        (slot,) = ctx.saved_tensors
        out = grad[slot[:, 0]]
        for choice in range(1, slot.shape[1]):
            out.add_(grad[slot[:, choice]])
        return out, None, None


class _Sum(torch.autograd.Function):
    """For each token the weighted sum of its choices' rows. Keeps weights and `slot`, and rows if weights learn."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weights: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weights, slot)
        out = rows.new_zeros(len(slot), rows.shape[1])
        for choice in range(slot.shape[1]):
            out.addcmul_(rows[slot[:, choice]], weights[:, choice, None])
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        rows, weights, slot = ctx.saved_tensors
        of_rows = grad.new_empty(slot.numel(), grad.shape[1])
        of_weights = None if rows is None else torch.empty_like(weights)
        for choice in range(slot.shape[1]):
            of_rows[slot[:, choice]] = grad * weights[:, choice, None]
            if rows is not None:
                of_weights[:, choice] = rows[slot[:, choice]].mul_(grad).sum(-1)
        return of_rows, of_weights, None


class ClampedExperts(Experts):
    """Experts of gpt-oss: with biases, gate and up in turn and clamped. Arguments as in `Decoder`."""

    def __init__(self, arch: "Architecture", make_stack: Callable, **like: Any):
        super().__init__(make_stack)
        self.limit, self.alpha = arch.swiglu_limit, arch.swiglu_alpha
        for name, shape in arch.expert_biases().items():
            bias = nn.Parameter(torch.zeros(shape, **like))
            self.register_parameter(f"{name.removeprefix('experts.')}_bias", bias)

    def inner(self, x: torch.Tensor, token: torch.Tensor, slot: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """What goes into `down_proj`, sorted by expert: (tokens * top_k, moe_intermediate_size)."""
        gate_up = self.gate_up_proj(_Spread.apply(x, token, slot), ends)
        gate_up = gpt_oss.AddByExpert.apply(gate_up, self.gate_up_proj_bias, ends)
        return gpt_oss.clamped_swiglu(gate_up, self.limit, self.alpha)

    def outer(self, inner: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """What comes out of `down_proj`, sorted by expert: (tokens * top_k, hidden_size)."""
        return gpt_oss.AddByExpert.apply(self.down_proj(inner, ends), self.down_proj_bias, ends)


class Router(nn.Module):
    """Scores of all experts for every token, in float32 whatever the model computes in."""

    def __init__(self, arch: "Architecture", **like: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(arch.n_routed_experts, arch.hidden_size, **like))
        self.bias = nn.Parameter(torch.zeros(arch.n_routed_experts, **like)) if arch.expert_bias else None
        bias = torch.zeros(arch.n_routed_experts, device=like["device"]) if arch.scoring_func == "sigmoid" else None
        self.register_buffer("e_score_correction_bias", bias)
        self.rules = {
            "top_k": arch.num_experts_per_tok,
            "n_group": arch.n_group,
            "topk_group": arch.topk_group,
            "scoring_func": arch.scoring_func,
            "norm_topk_prob": arch.norm_topk_prob,
            "scale": arch.routed_scaling_factor,
        }

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """`operators.route` of `x` (tokens, hidden_size): weights (in the format of `x`), token, slot, ends."""
        bias = None if self.bias is None else self.bias.float()
        logits = F.linear(x.float(), self.weight.float(), bias).float()  # under autocast the product is in its format
        del bias
        weights, *places = operators.route(logits, self.e_score_correction_bias, **self.rules)
        return weights.to(x.dtype), *places


class MoE(nn.Module):
    """Routed experts, and the shared ones beside them (arXiv 2401.06066). Arguments as in `Decoder`."""

    def __init__(self, arch: "Architecture", make_linear: Callable, make_stack: Callable, **like: Any):
        super().__init__()
        self.experts = ClampedExperts(arch, make_stack, **like) if arch.expert_bias else Experts(make_stack)
        self.gate = Router(arch, **like)
        self.shared_experts = MLP(make_linear, "shared_experts.") if arch.shared_linears() else None
        gated = arch.shared_expert_intermediate_size > 0
        self.shared_expert_gate = Linear(arch.hidden_size, 1, bias=False, **like) if gated else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden_size), from the same shape."""
        tokens = x.flatten(0, 1)
        out = self.experts(tokens, *self.gate(tokens)).view_as(x)
        return out if self.shared_experts is None else out + self.shared(x)

    def shared(self, x: torch.Tensor) -> torch.Tensor:
        """What all tokens pass through, (batch, seq_len, hidden_size); a gate may scale it token by token."""
        out = self.shared_experts(x)
        if self.shared_expert_gate is not None:
            out = out * self.shared_expert_gate(x).sigmoid()
        return out
