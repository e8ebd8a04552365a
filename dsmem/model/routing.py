"""Which experts a router chooses, and how many of them a batch needs: by chance, and in a model that has learned.

A decode step reads an expert's weights once, however many tokens of the batch chose it, so the distinct ones count.
"""

import contextlib
from typing import Any

import numpy as np
import torch

from dsmem.model.experts import Router
from dsmem.units import whole_number


def simulated_experts(
    n_routed_experts: int, num_experts_per_tok: int, tokens: int, batches: int = 10_000, seed: int = 0
) -> np.ndarray:
    """Distinct experts in each of `batches` random batches: (batches,). Every choice is equally likely.

    Each of `tokens` chooses `num_experts_per_tok` different ones (Floyd's way to sample without repeats). Raises
    ValueError for a count below 1, or more choices than experts.

    >>> simulated_experts(8, 2, tokens=1, batches=3).tolist()
    [2, 2, 2]
    """
    experts, top_k = whole_number("n_routed_experts", n_routed_experts), num_experts_per_tok
    tokens, batches = whole_number("tokens", tokens), whole_number("batches", batches)
    if whole_number("num_experts_per_tok", top_k) > experts:
        raise ValueError(f"num_experts_per_tok={top_k} is above n_routed_experts={experts}; it must be at most that")
    generator = np.random.default_rng(seed)
    chosen = np.empty((batches, tokens, top_k), dtype=np.int32)
    for step, last in enumerate(range(experts - top_k, experts)):
        drawn = generator.integers(0, last, size=(batches, tokens), endpoint=True, dtype=np.int32)
        taken = (chosen[..., :step] == drawn[..., None]).any(-1)
        chosen[..., step] = np.where(taken, last, drawn)
    return _distinct(chosen.reshape(batches, -1), experts)


def chosen_experts(model: torch.nn.Module, tokens: torch.Tensor) -> dict[str, np.ndarray]:
    """{router: (batch * seq_len, top_k)}: what each router of a `Decoder` chooses while it reads `tokens`.

    tokens: ids, (batch, seq_len). Raises ValueError for a model without experts.
    """
    routers = {name: module for name, module in model.named_modules() if isinstance(module, Router)}
    if not routers:
        raise ValueError("model has no router, since its layers are dense; it must be a mixture of experts")
    found = {}

    def note(name, slot, ends):
        found[name] = torch.searchsorted(ends.long(), slot, right=True).numpy()

    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for name, router in routers.items():
            hook = router.register_forward_hook(lambda _, args, out, name=name: note(name, *out[2:]))
            hooks.callback(hook.remove)
        model(tokens)
    return found


def routed_experts(
    chosen: Any, n_routed_experts: int, tokens: int, batches: int = 10_000, seed: int = 0, consecutive: bool = False
) -> np.ndarray:
    """Distinct experts of one layer in each of `batches` batches of `tokens` that were seen: (batches,).

    chosen: (tokens seen, top_k), of one router of `chosen_experts`. The tokens of a batch are drawn from all that were
    seen, as if as many people wrote to the model at once; consecutive: they are neighbours, as in a prompt. Raises
    ValueError for a count below 1, or more neighbours than were seen.
    """
    chosen, tokens = np.asarray(chosen), whole_number("tokens", tokens)
    generator, shape = np.random.default_rng(seed), (whole_number("batches", batches), 1 if consecutive else tokens)
    if consecutive and tokens > len(chosen):
        raise ValueError(f"tokens={tokens} is more than the {len(chosen)} that were seen; it must be at most that")
    last = len(chosen) - tokens + 1 if consecutive else len(chosen)
    places = generator.integers(0, last, size=shape) + (np.arange(tokens) if consecutive else 0)
    return _distinct(chosen[places].reshape(batches, -1), whole_number("n_routed_experts", n_routed_experts))


def mean_experts(
    chosen: dict[str, Any], n_routed_experts: int, sizes: list[int], consecutive: bool = False
) -> list[float]:
    """Distinct experts that a batch touches, for each size in `sizes`: the mean of `routed_experts` over all routers.

    chosen: as `chosen_experts` returns it. The others as in `routed_experts`, whose errors these are.

    >>> mean_experts({"a router": [[0, 1], [0, 1]]}, n_routed_experts=8, sizes=[1, 2])
    [2.0, 2.0]
    """
    return [
        float(np.mean([routed_experts(each, n_routed_experts, n, consecutive=consecutive) for each in chosen.values()]))
        for n in sizes
    ]


def _distinct(chosen, experts):
    """How many different numbers below `experts` there are in each row."""
    seen = np.zeros((len(chosen), experts), dtype=bool)
    seen[np.arange(len(chosen))[:, None], chosen] = True
    return seen.sum(1)
