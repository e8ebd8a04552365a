"""AdamW with moments narrower than what it steps, which torch's own has no choice for."""

from collections.abc import Callable, Iterable

import torch

BETAS, EPSILON = (0.9, 0.999), 1e-8


class NarrowAdamW(torch.optim.Optimizer):
    """AdamW of FP32 parameters whose two moments are kept in 16 bit, as DeepSeek-V3's (arXiv 2412.19437, section 3.3).

    Tensor by tensor: the moments are widened, moved and narrowed again. moments: their format.
    """

    def __init__(self, params: Iterable, moments: torch.dtype, lr: float = 1e-3, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "moments": moments})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_tensor(parameter, group)

    def _step_tensor(self, parameter, group):
        state = self.state[parameter]
        if not state:
            state.update(
                {name: torch.zeros_like(parameter, dtype=group["moments"]) for name in ("exp_avg", "exp_avg_sq")}
            )
        state["count"] = state.get("count", 0) + 1  # an int, no tensor
        slow, fast = (1 - beta ** state["count"] for beta in BETAS)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        mean = state["exp_avg"].float().lerp_(parameter.grad, 1 - BETAS[0])
        state["exp_avg"].copy_(mean)
        square = state["exp_avg_sq"].float().mul_(BETAS[1]).addcmul_(parameter.grad, parameter.grad, value=1 - BETAS[1])
        state["exp_avg_sq"].copy_(square)
        parameter.addcdiv_(mean, square.div_(fast).sqrt_().add_(EPSILON), value=-group["lr"] / slow)
