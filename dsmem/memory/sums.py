"""How autograd adds up the gradients that meet at one tensor: in place, wherever nobody watches.

Where a tensor was used twice, its two gradients are added. torch adds the second into the first, and makes a third
tensor only where somebody else holds the first one; but under a dispatch mode, such as a ledger, it always makes one
(torch/csrc/autograd/input_buffer.cpp, `isTensorSubclassLike`). A ledger that let it would count a tensor that no
unwatched run has.
"""

import functools
import sys
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ADD = torch.ops.aten.add.Tensor


def add_in_place(func: Any, args: tuple) -> bool:
    """Whether this call is autograd's sum of two gradients, which an unwatched run would do in the first of them.

    func, args: as a dispatch mode is given them.
    """
    return _is_sum(func, args) and _dense(args[0]) and _holders(args[0]) == holders_of_one()


def _is_sum(func, args):
    if func is not _ADD or torch._C._current_graph_task_id() == -1 or torch.is_grad_enabled() or len(args) != 2:
        return False
    first, second = args
    return isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor) and first.shape == second.shape


def _dense(tensor):
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes


def _holders(tensor):
    # torch's own references to the tensor and to its bytes, and Python's, which it does not count among them
    return tensor._use_count(), torch._C._storage_Use_Count(tensor.untyped_storage()._cdata), sys.getrefcount(tensor)


@functools.cache
def holders_of_one() -> tuple[int, int, int] | None:
    """What `_holders` gives of a gradient that waits for another and that nobody else holds, in this release.

    To be called first where no backward is on its way. None where a release adds in a way that is not seen.
    """
    seen = []

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if _is_sum(func, args):
                seen.append(_holders(args[0]))
            return func(*args, **(kwargs or {}))

    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(2, requires_grad=True)
        doubled = x * 2  # not a leaf: its gradients meet in a buffer
        out = (doubled.sin() + doubled.cos()).sum()
    with Look():
        out.backward()
    return seen[0] if seen else None
