"""Equal layers of other people's models: found by what they are made of, and left out of a pass but for a few."""

from typing import Any

import torch
from torch import nn

_PLAIN = (bool, int, float, str, tuple, type(None))
_NUMBERS = ("layer_idx", "layer_id", "layer_index", "idx", "block_idx", "layer_number")


def decoder_layers(module: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """The name and the list of a language model's layers, those that are left; None where there is no such list.

    module: a model of transformers, whose config says how many layers there are: no list is longer.
    """
    count = getattr(module.config.get_text_config(), "num_hidden_layers", 0)
    inside = set(map(id, _decoder(module).modules()))
    lists = {name: part for name, part in module.named_modules() if isinstance(part, nn.ModuleList)}
    found = [(name, part) for name, part in lists.items() if 0 < len(part) <= count and id(part) in inside]
    return max(found, key=lambda each: len(each[1]), default=None)


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The decoder layers of our model or of transformers', in order; none where there is no list of them."""
    return list(module.layers if hasattr(module, "arch") else (decoder_layers(module) or ("", ()))[1])


def repetition(module: nn.Module, layers: nn.ModuleList) -> tuple[int, int] | None:
    """(first, period): from layer `first` on every `period` layers are the same again; None where nothing repeats.

    The same are layers of the same classes, with parameters of the same shapes, plain attributes of the same values
    and, in lists of the config that are as long as there are layers, the same entries. Of several answers it is the one
    with which the fewest layers have to run, three repetitions being wanted. Where layers share a cache nothing does.
    """
    config = module.config.get_text_config()
    if getattr(config, "num_kv_shared_layers", None):
        return None
    looks = [look(layer, index, config) for index, layer in enumerate(layers)]
    count, best = len(looks), None
    for period in range(1, count // 4 + 1):
        first = max((i + 1 for i in range(count - period) if looks[i] != looks[i + period]), default=0)
        kept = first + 3 * period + (count - first) % period
        if kept < count and (best is None or kept < best[0]):
            best = kept, first, period
    return best and best[1:]


def look(layer: nn.Module, index: int, config: Any) -> tuple:
    """What a layer is made of, as something that can be compared."""
    parts = []
    for name, part in layer.named_modules():
        plain = {k: v for k, v in vars(part).items() if isinstance(v, _PLAIN) and k not in _NUMBERS}
        tensors = [(k, tuple(v.shape), v.dtype) for k, v in _own(part)]
        parts.append((name, type(part).__name__, sorted(plain.items()), tensors))
    return repr(parts), repr({key: value[index] for key, value in per_layer(config).items()})


def _own(part):
    yield from part.named_parameters(recurse=False)
    yield from part.named_buffers(recurse=False)


def per_layer(config: Any) -> dict[str, Any]:
    """The lists (and patterns, a letter a layer) of a config that have an entry for every layer."""
    count = config.num_hidden_layers
    lists = {k: v for k, v in vars(config).items() if isinstance(v, list | tuple) or (k.endswith("pattern") and v)}
    found = {k: v for k, v in lists.items() if not isinstance(v, int) and len(v) == count}
    return {k: v for k, v in found.items() if list(v) != list(range(count))}  # that one names layers by number


def _decoder(module):
    """The language model inside, as transformers finds it; the whole where it does not."""
    found = module.get_decoder() if hasattr(module, "get_decoder") else None
    return found if isinstance(found, nn.Module) else module


def cut(module: nn.Module, path: str, kept: int) -> None:
    """Leave the first `kept` of the layers at `path` in the model; its config still speaks of all of them."""
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    setattr(owner, name, nn.ModuleList(list(getattr(owner, name))[:kept]))


def layer_tensors(module: nn.Module, path: str) -> dict[torch.Tensor, int]:
    """{parameter or buffer: number of its layer} of all layers at `path`."""
    found = {}
    for index, layer in enumerate(module.get_submodule(path)):
        found |= dict.fromkeys([*layer.parameters(), *layer.buffers()], index)
    return found
