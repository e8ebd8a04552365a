"""What rounding costs on real weights: the error of each layer with the numbers that reach it, and pictures of that.

`outliers` plants large numbers in random data; here the data is what a trained model makes of a text.
"""

import numpy as np
from matplotlib import ticker

from dsmem.looks import INK, MARKERS
from dsmem.plots import GRID, drawing

COLORS = ("#bd1f01", "#3f90da", "#ffa90e", "#832db6", "#a96b59")


def layer_errors(model, tokens, bits=8):
    """{name: (outlier, errors)} of the linear layers of `model` in a float format, on `tokens` (batch, length).

    outlier: the largest number of the layer's input over its root mean square. errors: `outliers.product_errors` of
    that input and the layer's weight. The stacks of routed experts, which are no linear layers, are left out.
    """
    import torch

    from dsmem.outliers import product_errors

    found = {}

    def note(name, module, inputs):
        x = inputs[0].flatten(0, -2).double()
        largest = float(x.abs().max() / x.square().mean().sqrt())
        found[name] = largest, product_errors(x, module.weight, bits)

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    hooks = [m.register_forward_pre_hook(lambda m, inputs, name=name: note(name, m, inputs)) for name, m in layers]
    try:
        with torch.inference_mode():
            model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def plot_layer_errors(errors, *, ways=("per tensor", "per token", "mixed"), ax=None, title=None):
    """One column of markers for each layer of `layer_errors`: its outlier to the right, the error in per cent upwards.

    ways: which of the ways to share scales to show. Both axes are logarithmic.
    """
    with drawing(ax, title) as ax:
        outliers = [outlier for outlier, _ in errors.values()]
        for way, color, marker in zip(ways, COLORS, MARKERS, strict=False):
            percent = [100 * of_layer[way] for _, of_layer in errors.values()]
            ax.scatter(outliers, percent, 28, color, marker=marker, label=way, edgecolors=INK, linewidths=0.5)
            ax.dsmem_data += [(way, *row) for row in zip(outliers, percent, strict=True)]
        ax.set(xscale="log", yscale="log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(ticker.NullLocator())
        ax.set_xlabel("largest number of the layer's input, in multiples of its root mean square")
        ax.set_ylabel("error of the product (%)")
        ax.grid(**GRID)
        ax.legend()
    return ax


def plot_dots(groups, *, xlabel, ax=None, title=None):
    """One row for each of `groups`, {label: numbers}: a dot for each number, and a stroke and its value at their mean.

    ValueError: no groups, or a group without numbers.
    """
    if not groups or not all(np.size(numbers) for numbers in groups.values()):
        raise ValueError(f"groups={groups!r} has nothing to show; it must hold at least one number for each label")
    with drawing(ax, title, height=1.4 + 0.42 * len(groups)) as ax:
        for row, (label, numbers) in enumerate(groups.items()):
            numbers, mean = np.atleast_1d(numbers), np.mean(numbers)
            ax.plot(numbers, np.full(len(numbers), row), "o", color=COLORS[1], markeredgecolor=INK, alpha=0.8)
            ax.plot([mean, mean], [row - 0.3, row + 0.3], color=INK, linewidth=2)
            text = f"{round(mean, 2) + 0.0:.2f}"  # never -0.00
            ax.annotate(text, (max(numbers), row), (10, 0), textcoords="offset points", va="center")
            ax.dsmem_data += [(label, row, float(number)) for number in numbers]
        ax.set_yticks(range(len(groups)), list(groups))
        ax.set_ylim(len(groups) - 0.5, -0.5)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.margins(x=0.12)
        ax.set_xlabel(xlabel)
        ax.grid(axis="x", **GRID)
    return ax
