"""Whether the weights of a checkpoint fit, by its files' headers; of cache and activations nothing is claimed."""

from pathlib import Path
from typing import Any

from dsmem.config.devices import Devices
from dsmem.config.overhead import overhead
from dsmem.footprint.checkpoints.weigh import checkpoint
from dsmem.footprint.fit.verdict import Fit
from dsmem.footprint.segments import PASS
from dsmem.units import format_bytes

CLAIM = "Weights alone, by the files' headers: of cache, activations and copies of kernels nothing is claimed."


class _Stored:
    """What is asked of a checkpoint: its tensors, shared out evenly where there are several devices."""

    depth, training, sharding, work = "checkpoint", None, None, None

    def __init__(self, path, count):
        weighed = checkpoint(path)
        if not weighed.total_bytes:
            raise ValueError(f"model={str(path)!r} holds no bytes that its headers say; it must hold weights")
        self.name, self.weights_words = weighed.name, ", ".join(weighed.by_format)
        self.notes = (CLAIM, *weighed.notes)
        self._parts = {part: -(-nbytes // count) for part, nbytes in weighed.by_part.items()}
        if not self._parts:  # an index alone
            self._parts = {"weights": -(-weighed.total_bytes // count)}

    def parts(self):
        return self._parts

    def segment_bytes(self):
        return PASS


class FileFit(Fit):
    """A `Fit` of weights alone: the batch and the context that fit are not known, nor what would help.

    path: as `checkpoint` takes it. Raises ValueError for files that cannot be weighed.
    """

    largest_batch = longest_context = change = None
    close = False

    def __init__(self, path: str | Path, found: Devices):
        super().__init__(_Stored(path, found.count), found)

    def _overhead(self, asked):
        return overhead(self.devices, asked.segment_bytes())

    @property
    def grows(self) -> dict[str, int]:
        """Nothing that is known."""
        return {}

    @property
    def changes(self) -> list:
        """None that are known."""
        return []

    @property
    def context_limit(self) -> str:
        """Not known."""
        return "not known"

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        shared = f", an even share of 1 in {self.devices.count}," if self.devices.count > 1 else ""
        verdict = "fit" if self.fits else "do not fit"
        left = f"{format_bytes(abs(self.spare_bytes))} {'left for cache and activations' if self.fits else 'too much'}"
        beside = format_bytes(sum(most for _, most in self.overhead.values()))
        return (
            f"the weights of {self.asked.name} ({format_bytes(self.peak_bytes)}){shared} {verdict} {self.devices} "
            f"({format_bytes(self.usable_bytes)}): with up to {beside} beside them, {left}, of which nothing is claimed"
        )

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain numbers and texts, for JSON."""
        return self._weighed()
