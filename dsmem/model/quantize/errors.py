"""Outliers: a few large numbers spoil the rounding of all numbers that share a scale with them.

Large decoders develop a few feature columns that are tens of times larger than the rest (LLM.int8(), arXiv 2208.07339,
section 4). Here they are planted in random data, so the exact product is known. An error is the norm of the difference
from the float64 result, divided by the norm of that result. Rounding is symmetric, as in `quantize.int8`. The products
run in float64, so that only the rounding shows.
"""

import contextlib

import torch

from dsmem.model.quantize.base import tiles

THRESHOLD = 6.0  # from LLM.int8(), section 3.2: columns with a number this large stay in 16 bit
PER = ("tensor", "row", "group")


def plant_columns(x: torch.Tensor, columns: int = 6, factor: float = 40.0, seed: int = 0) -> torch.Tensor:
    """A copy of `x` (tokens, width) with `columns` of its features, chosen at random, multiplied by `factor`.

    Raises ValueError if `columns` is not from 0 to width.

    >>> spoiled = plant_columns(torch.ones(2, 8), columns=3, factor=20)
    >>> (spoiled == 20).sum().item(), spoiled.shape
    (6, torch.Size([2, 8]))
    """
    _check_share("columns", columns, x.shape[1])
    planted = x.clone()
    planted[:, _places(x.shape[1], columns, seed)] *= factor
    return planted


def plant_numbers(weight: torch.Tensor, count: int = 6, factor: float = 40.0, seed: int = 0) -> torch.Tensor:
    """A copy of `weight` (outputs, width) with `count` single numbers, chosen at random, multiplied by `factor`.

    Raises ValueError if `count` is not from 0 to the size of the weight.

    >>> (plant_numbers(torch.ones(2, 8), count=3, factor=20) == 20).sum().item()
    3
    """
    _check_share("count", count, weight.numel())
    planted = weight.clone()
    planted.view(-1)[_places(weight.numel(), count, seed)] *= factor
    return planted


def round_trip(x: torch.Tensor, per: str = "row", bits: int = 8, group_size: int = 128) -> torch.Tensor:
    """`x` (rows, width) rounded to whole steps and multiplied back, in float64.

    per: which numbers share a scale: the whole "tensor", a "row" (a token, or an output channel of a weight), or a
    "group" of `group_size` numbers of a row. bits: 2 to 8. Raises ValueError for anything else.

    >>> x = torch.tensor([[127.0, 0.4], [31.75, 0.5]])
    >>> round_trip(x, per="tensor").tolist(), round_trip(x, per="row").tolist()
    ([[127.0, 0.0], [32.0, 0.0]], [[127.0, 0.0], [31.75, 0.5]])
    """
    if per not in PER:
        raise ValueError(f"per={per!r} is unknown; allowed: {', '.join(PER)}")
    if bits not in range(2, 9):
        raise ValueError(f"bits={bits!r} is not a width that can be rounded to; it must be a whole number from 2 to 8")
    levels, rounded = 2 ** (bits - 1) - 1, x.double().clone()
    shape = {"tensor": tuple(x.shape), "row": (1, x.shape[1]), "group": (1, group_size)}[per]
    for tile, _ in tiles(rounded, *shape):
        scale = tile.abs().amax((1, 3), keepdim=True).div_(levels).clamp_min_(torch.finfo(torch.float64).tiny)
        tile.div_(scale).round_().mul_(scale)
    return rounded


def mixed(x: torch.Tensor, weight: torch.Tensor, bits: int = 8, threshold: float = THRESHOLD) -> torch.Tensor:
    """`x @ weight.T` in float64, as in LLM.int8(): columns of `x` that reach `threshold` stay in 16 bit.

    x: (tokens, width). weight: (outputs, width). All other columns of `x` are rounded to `bits`, and so is the whole
    weight. The large columns are found again in every batch.

    >>> mixed(torch.tensor([[100.0, 0.5]]), torch.eye(2)).tolist()
    [[100.0, 0.5]]
    """
    large = (x.abs() >= threshold).any(dim=0)
    rounded = round_trip(x.masked_fill(large, 0), "row", bits)  # without its outliers, so that its scales are fine
    kept = x.masked_fill(~large, 0).half().double()
    return (rounded + kept) @ round_trip(weight, "row", bits).T


def weight_errors(weight: torch.Tensor, bits: int = 8, group_size: int = 128) -> dict[str, float]:
    """{scale: error} of a rounded `weight` (outputs, width), from coarse to fine scales.

    bits, group_size: as in `round_trip`.

    >>> list(weight_errors(torch.ones(2, 8)))
    ['per tensor', 'per channel', 'groups of 128']
    """
    names = {"per tensor": "tensor", "per channel": "row", f"groups of {group_size}": "group"}
    return {name: error(round_trip(weight, per, bits, group_size), weight) for name, per in names.items()}


def product_errors(x: torch.Tensor, weight: torch.Tensor, bits: int = 8, group_size: int = 128) -> dict[str, float]:
    """{scale: error} of `x @ weight.T` with both factors rounded, from coarse to fine scales.

    x: (tokens, width). weight: (outputs, width). bits, group_size: as in `round_trip`.

    >>> list(product_errors(torch.ones(2, 8), torch.ones(3, 8)))
    ['per tensor', 'per channel', 'per token', 'groups of 128', 'mixed']
    """
    exact = x.double() @ weight.double().T

    def both(per_x, per_weight):
        a, b = (round_trip(t, per, bits, group_size) for t, per in ((x, per_x), (weight, per_weight)))
        return error(a @ b.T, exact)

    return {
        "per tensor": both("tensor", "tensor"),
        "per channel": both("tensor", "row"),
        "per token": both("row", "row"),
        f"groups of {group_size}": both("group", "group"),
        "mixed": error(mixed(x, weight, bits), exact),
    }


def layer_errors(
    model: torch.nn.Module, tokens: torch.Tensor, bits: int = 8
) -> dict[str, tuple[float, dict[str, float]]]:
    """{name: (outlier, errors)} of the linear layers of `model`, which is in a float format.

    tokens: (batch, length), what the model reads. outlier: the largest number of the layer's input divided by its root
    mean square. errors: `product_errors` of that input and the layer's weight. Stacks of routed experts are not
    included, because they are not linear layers.
    """
    found = {}

    def note(name, module, inputs):
        x = inputs[0].flatten(0, -2).double()
        largest = float(x.abs().max() / x.square().mean().sqrt())
        found[name] = largest, product_errors(x, module.weight, bits)

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for name, layer in layers:
            hook = layer.register_forward_pre_hook(lambda layer, inputs, name=name: note(name, layer, inputs))
            hooks.callback(hook.remove)
        model(tokens)
    return found


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Norm of the difference, divided by the norm of the exact result (same shape).

    >>> error(torch.tensor([3.0, 0.0]), torch.tensor([3.0, 4.0]))
    0.8
    """
    exact = exact.double()
    return float((got.double() - exact).norm() / exact.norm())


def _places(room, count, seed):
    return torch.randperm(room, generator=torch.Generator().manual_seed(seed))[:count]


def _check_share(name, count, room):
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= room:
        raise ValueError(f"{name}={count!r} does not fit; it must be a whole number from 0 to {room}")
