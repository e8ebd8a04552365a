"""A mixture of experts: every token passes through a few of many MLPs, and through those that all share."""

import torch
import torch.nn.functional as F
from torch import nn

from dsmem.model import operators
from dsmem.model.layers import MLP


class ExpertStack(nn.Module):
    """One matrix per expert, in one tensor (experts, out_features, in_features)."""

    def __init__(self, experts, out_features, in_features, dtype, device):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, out_features, in_features, dtype=dtype, device=device))

    def forward(self, x, ends):
        """Rows of `x` (rows, in_features), sorted by expert up to `ends`, each times its expert's matrix."""
        return operators.grouped_linear(x, self.weight, ends)


class Experts(nn.Module):
    """The routed experts: SwiGLU each, gate and up projection in one stack."""

    def __init__(self, make_stack):
        super().__init__()
        self.gate_up_proj, self.down_proj = make_stack("experts.gate_up_proj"), make_stack("experts.down_proj")

    def forward(self, x, weights, token, slot, ends):
        """(tokens, hidden_size): for every token of `x` the weighted sum over its experts; see `operators.route`."""
        rows = self.down_proj(self.inner(x, token, ends), ends)
        out = torch.zeros_like(x)
        for choice in range(slot.shape[1]):
            out.addcmul_(rows[slot[:, choice]], weights[:, choice, None])
        return out

    def inner(self, x, token, ends):
        """(choices, moe_intermediate_size): what goes into `down_proj`, sorted by expert."""
        gate, up = self.gate_up_proj(x[token], ends).chunk(2, dim=-1)
        return F.silu(gate) * up


class Router(nn.Module):
    """Scores of all experts for every token, in float32 whatever the model computes in."""

    def __init__(self, arch, **like):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(arch.n_routed_experts, arch.hidden_size, **like))
        bias = torch.zeros(arch.n_routed_experts, device=like["device"]) if arch.scoring_func == "sigmoid" else None
        self.register_buffer("e_score_correction_bias", bias)
        names = ("top_k", "n_group", "topk_group", "scoring_func", "norm_topk_prob", "scale")
        fields = ("num_experts_per_tok", *names[1:-1], "routed_scaling_factor")
        self.rules = {name: getattr(arch, field) for name, field in zip(names, fields, strict=True)}

    def forward(self, x):
        """`operators.route` of `x` (tokens, hidden_size); the weights in the format of `x`."""
        logits = F.linear(x.float(), self.weight.float())
        weights, *places = operators.route(logits, self.e_score_correction_bias, **self.rules)
        return weights.to(x.dtype), *places


class MoE(nn.Module):
    """Routed experts, and the shared ones beside them (arXiv 2401.06066)."""

    def __init__(self, arch, make_linear, make_stack, **like):
        super().__init__()
        self.experts, self.gate = Experts(make_stack), Router(arch, **like)
        self.shared_experts = MLP(make_linear, "shared_experts.") if arch.n_shared_experts else None

    def forward(self, x):
        tokens = x.flatten(0, 1)
        out = self.experts(tokens, *self.gate(tokens)).view_as(x)
        return out if self.shared_experts is None else out + self.shared_experts(x)
