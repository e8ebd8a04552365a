"""Experts spread over ranks: each holds some, whole, and tokens travel to them and back (arXiv 2006.16668, section 3).

What a rank's experts are given depends on the routing, so the bytes of its activations do, too.
"""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd

from dsmem.model.experts import Experts, MoE, _Spread, _Sum

if TYPE_CHECKING:
    from dsmem.model.decoder import Decoder


class SpreadExperts(nn.Module):
    """This rank's share of a layer's routed experts, called in the place of all of them.

    experts: all of them; their stacks are cut, the share of rank r being the r-th. group: the ranks.
    """

    def __init__(self, experts: Experts, group: dist.ProcessGroup):
        super().__init__()
        self.group, self.world = group, dist.get_world_size(group)
        rank = dist.get_rank(group)
        for name in ("gate_up_proj", "down_proj"):
            stack = getattr(experts, name)
            share = stack.weight.detach().chunk(self.world)[rank].clone()
            stack.weight = nn.Parameter(share, requires_grad=stack.weight.requires_grad)
            stack.weight.register_post_accumulate_grad_hook(self._mean)
            self.add_module(name, stack)
        self.arrived = 0

    def _mean(self, parameter: Tensor) -> None:
        # every rank's tokens come here, each from a loss that is a mean of its own
        parameter.grad.div_(self.world)

    def forward(self, x: Tensor, weights: Tensor, token: Tensor, slot: Tensor, ends: Tensor) -> Tensor:
        """As `Experts.forward`. arrived: rows that this rank's experts were given."""
        sent = ends.diff(prepend=ends.new_zeros(1)).view(self.world, -1)
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent, group=self.group)
        going, coming = sent.sum(1).tolist(), got.sum(1).tolist()
        self.arrived = sum(coming)
        rows = all_to_all_single_autograd(_Spread.apply(x, token, slot), coming, going, self.group)
        # they come rank by rank, each sorted by expert
        expert = torch.arange(got.shape[1], device=got.device).repeat(self.world).repeat_interleave(got.flatten())
        order = expert.argsort(stable=True)
        local = got.sum(0).cumsum(0).to(torch.int32)
        gate, up = self.gate_up_proj(rows[order], local).chunk(2, dim=-1)
        out = self.down_proj(F.silu(gate) * up, local)
        back = all_to_all_single_autograd(out[order.argsort()], going, coming, self.group)
        return _Sum.apply(back, weights.to(back.dtype), slot)


def spread_experts(model: "Decoder", group: dist.ProcessGroup) -> list[str]:
    """Leave each rank its share of the experts of every layer; returns the names of the parameters that are cut.

    Raises ValueError for experts with biases.
    """
    for module in list(model.modules()):
        if isinstance(module, MoE):
            if type(module.experts) is not Experts:
                raise ValueError(f"experts with biases, as those of {model.arch.name}, are not spread over ranks")
            module.experts = SpreadExperts(module.experts, group)
    return [name for name, _ in model.named_parameters() if ".experts." in name]
