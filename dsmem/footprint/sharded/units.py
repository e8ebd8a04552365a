"""ZeRO's stage 3 as FSDP2 runs it: each layer is gathered when it runs, and its gradients are shared out after it.

An all-gather fills one tensor ("gather_buffer"), from which parameters are copied ("gathered_weights"). In forward that
tensor goes when the next layer has been copied out; in backward the next layer is gathered while one runs. A
layer's gradients are copied into one tensor ("reduce_buffer"), which stays until those of the next layer are ready, and
each rank keeps its part of the sums. What is in no layer (embedding, norm, head) is one unit more, the root: gathered
first, kept until the end of backward, and shared out last. Source: torch/distributed/fsdp/_fully_shard of torch 2.13.
"""

import math
import re
from typing import Any

import numpy as np

from dsmem.config.ranks import RankArchitecture
from dsmem.footprint.parameters import tensors
from dsmem.footprint.sharded.shares import replicas

ROOT = "root"
LOSS = ("float32", "log_softmax", "nll_loss", "end of forward")  # outside the model, and so after its forward


class Units:
    """The units of a rank's share.

    filled: {unit: bytes of its tensors, filled up to whole shares}; own: {unit: bytes of them}; shared: {unit: bytes of
    a share}. last: number of the last layer. bits: of an element.
    """

    def __init__(self, share: RankArchitecture, bits: int):
        self.filled, self.own, self.last = {}, {}, share.num_hidden_layers - 1
        for name, held in tensors(share).items():
            unit = int(name.split(".")[1]) if name.startswith("layers.") else ROOT
            rows, ranks = held.shape[0], replicas(share, name)[0]
            row = math.prod(held.shape[1:]) * bits // 8
            self.filled[unit] = self.filled.get(unit, 0) + -(-rows // ranks) * ranks * row
            self.own[unit] = self.own.get(unit, 0) + rows * row
        self.shared = {unit: nbytes // ranks for unit, nbytes in self.filled.items()}

    def gradients(self, parts: dict[str, Any], first: int) -> Any:
        """Bytes of gradients where the layers from `first` on have shared theirs out."""
        done = range(first, self.last + 1)
        return parts.get("gradients", 0) - sum(self.own[layer] - self.shared[layer] for layer in done)


def units(share: RankArchitecture, bits: int, instants: dict[str, dict]) -> dict[str, dict[str, Any]]:
    """`instants` of a step on one device, told as a rank goes through them, and those of gathering and sharing out."""
    u, found = Units(share, bits), {}
    names = list(instants)
    end = names.index("end of forward") + 1
    found |= _forward(u, {name: instants[name] for name in names[:end]})
    return found | _backward(u, {name: instants[name] for name in names[end:]}, instants["end of forward"])


def _forward(u, instants):
    root, found, at, before = u.filled[ROOT], {}, None, None
    for name, parts in instants.items():
        layer = _layer(name)
        if layer is not None and layer != at:
            waiting = root if layer == 0 else u.filled[layer - 1]
            found[f"gather layers.{layer}"] = _alive(
                before or parts,
                parts,
                gathered_weights=root + u.filled[layer],
                gather_buffer=waiting + u.filled[layer],
            )
        buffer = root if layer is None and at is None else u.filled[u.last if layer is None else layer]
        at = layer if layer is not None else at
        gathered = root + (u.filled[layer] if layer is not None else 0)
        found[name] = parts | {"gathered_weights": gathered, "gather_buffer": 0 if name in LOSS else buffer}
        before = parts
    return found


def _backward(u, instants, before):
    root, found, at, done = u.filled[ROOT], {}, None, u.last + 1
    for name, parts in instants.items():
        layer = _layer(name)
        if layer != at and at is not None:
            found[f"reduce layers.{at}"] = _alive(
                before,
                parts,
                gradients=u.gradients(before, at + 1),
                gathered_weights=root,
                gather_buffer=u.filled.get(at - 1, 0),
                reduce_buffer=u.filled[at],
            )
            done = at
        waiting = {"reduce_buffer": u.filled[done]} if done <= u.last else {}
        if layer is not None and layer != at:
            both = u.filled[layer]
            found[f"gather layers.{layer} again"] = _alive(
                before,
                parts,
                gradients=u.gradients(before, layer + 1),
                gathered_weights=root + both,
                gather_buffer=both,
                **(waiting if layer < u.last else {}),
            )
        ahead = {} if layer is None else {"gather_buffer": u.filled.get(layer - 1, 0)}
        gathered = root + (0 if layer is None else u.filled[layer])
        done = layer + 1 if layer is not None else done
        waiting = {"reduce_buffer": u.filled[done]} if done <= u.last else {}
        found[name] = parts | ahead | waiting | {"gathered_weights": gathered, "gradients": u.gradients(parts, done)}
        at, before = layer, parts
    return _end(u, found)


def _end(u, found):
    """The root's gradients are shared out, and nothing is gathered any more."""
    last = found.pop("end of backward")
    rest = {part: size for part, size in last.items() if part not in ("gathered_weights", "reduce_buffer")}
    found["reduce root"] = rest | {"reduce_buffer": u.filled[ROOT]}
    found["end of backward"] = rest | {"gradients": rest["gradients"] - u.own[ROOT] + u.shared[ROOT]}
    return found


def _layer(name):
    """The number of the layer that an instant is in, or None."""
    where = re.search(r"layers\.(\d+)\.", name)
    return int(where[1]) if where else None


def _alive(before, after, **parts):
    """{part: bytes} of what is alive both before and after, and `parts`."""
    return {part: _least(before[part], after[part]) for part in before if part in after} | parts


def _least(one, other):
    return min(one, other) if isinstance(one, int) and isinstance(other, int) else np.minimum(one, other)
