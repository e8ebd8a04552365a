"""A pass in which equal layers are folded: a few run, the ledger is written out for all; and how far a pass is."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from tqdm.auto import tqdm

from dsmem.memory.ledger import Ledger
from dsmem.memory.records import BEFORE, tensors_in
from dsmem.memory.unfold import Repeats, unfolded
from dsmem.model.folding import cut, decoder_layers, layer_tensors, repetition

PATIENCE = 2
"""Seconds after which a pass shows how far it has come."""


def fold(module: torch.nn.Module) -> Repeats | None:
    """Leave out of a model of transformers all layers that only repeat; None where too few do, and nothing is left out.

    Layers that alternate repeat by their pattern. More than three in four layers to run would save too little.
    """
    path, layers = decoder_layers(module) or (None, ())
    found = repetition(module, layers) if path else None
    repeats = found and Repeats(path, len(layers), *found)
    if not repeats or 4 * repeats.kept > 3 * repeats.layers:
        return None
    cut(module, path, repeats.kept)
    return repeats


class Folded:
    """What a ledger must be told to write out a folded pass: where each layer began, and whose tensors there were.

    module: from which `fold` has left layers out, with these `repeats`. cache: transformers' cache of earlier tokens;
    what it has for layers that were left out is let go.
    """

    def __init__(self, module: torch.nn.Module, repeats: Repeats, cache: Any = None):
        self.module, self.repeats, self.cache = module, repeats, cache
        self.starts, self.owners = [], {}
        if cache is not None:
            del cache.layers[repeats.kept :]

    def __str__(self) -> str:
        alike = "all are alike" if self.repeats.period == 1 else f"they repeat in groups of {self.repeats.period}"
        start = f" from number {self.repeats.first} on" if self.repeats.first else ""
        return (
            f"{self.repeats.kept} of {self.repeats.layers} layers ran, for{start} {alike}; the ledger is written out "
            "for all"
        )

    @contextlib.contextmanager
    def watching(self, ledger: Ledger) -> Iterator[None]:
        """Inside a ledger's block: notes what `unfold` needs while the pass runs."""
        layers = self.module.get_submodule(self.repeats.path)
        inside = {id(part) for part in layers.modules()}
        others = [part for part in self.module.modules() if id(part) not in inside]
        calls = [(layers[0], self._own), *((layer, self._start) for layer in layers)]
        calls += [(other, self._follow) for other in others]
        with contextlib.ExitStack() as hooks:
            for part, call in calls:
                hooks.callback(part.register_forward_pre_hook(lambda *_, call=call: call(ledger)).remove)
            yield
            self._follow(ledger)

    def unfold(self, ledger: Ledger) -> Ledger:
        """The ledger of all layers. Raises NotEqualError where the repetitions differ."""
        return unfolded(ledger, self.repeats, self.starts, self.owners)

    def kinds(self, layers: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """What each layer caches, (class, bytes), for all layers, from what those that ran do."""
        ran, start = layers[: self.repeats.kept], self.repeats.first + self.repeats.period
        return ran + ran[start : start + self.repeats.period] * self.repeats.copies

    def _start(self, ledger):
        self.starts.append(sum(not (sign > 0 and record.op == BEFORE) for record, sign in ledger.events))

    def _follow(self, ledger):
        """What comes after the last layer begins, if it has not begun."""
        if len(self.starts) == self.repeats.kept:
            self._start(ledger)

    def _own(self, ledger):
        """Before the first layer: weights and cached tokens are booked, and nothing of the pass belongs to a layer."""
        found = [(tensor, index) for tensor, index in layer_tensors(self.module, self.repeats.path).items()]
        for index, layer in enumerate(getattr(self.cache, "layers", ())):
            found += [(tensor, index) for tensor in tensors_in(layer, inside=True)]
        records = ((ledger.record_of(tensor), index) for tensor, index in found)
        self.owners = {record: index for record, index in records if record is not None}


@contextlib.contextmanager
def progress(module: torch.nn.Module, words: str, passes: int = 1) -> Iterator[None]:
    """A bar that counts the layers of all `passes` inside, once it lasts; `words` stand before it."""
    path, layers = decoder_layers(module) or (None, ())
    bar = tqdm(total=passes * len(layers), desc=words, unit="layer", delay=PATIENCE, leave=False)
    with bar, contextlib.ExitStack() as hooks:

        def passed(*_):
            bar.update()  # what a hook returns would stand for the layer's output

        for layer in layers:
            hooks.callback(layer.register_forward_hook(passed).remove)
        yield
