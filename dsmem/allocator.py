"""From tensor bytes to allocator bytes: the ledger's events replayed on PyTorch's CUDA caching allocator.

So far the first of its rules: every block is a multiple of 512 bytes (`kMinBlockSize` in
`c10/core/AllocatorConfig.h`). Segments, and with them reserved memory and fragmentation, are not modelled.
"""

import dataclasses

import numpy as np

BLOCK_BYTES = 512


def rounded_bytes(nbytes):
    """Bytes of the block that holds `nbytes`: the next multiple of 512; a tensor of 0 bytes takes no block.

    >>> rounded_bytes(1), rounded_bytes(512), rounded_bytes(513), rounded_bytes(0)
    (512, 512, 1024, 0)
    """
    return -(-nbytes // BLOCK_BYTES) * BLOCK_BYTES


@dataclasses.dataclass(frozen=True)
class Replay:
    """allocated_bytes: array, live block bytes after each event of the ledger; requested_bytes: the same unrounded."""

    allocated_bytes: np.ndarray
    requested_bytes: np.ndarray

    @property
    def peak_allocated_bytes(self):
        """The most block bytes at one instant: what `torch.cuda.max_memory_allocated` would say of these tensors."""
        return int(self.allocated_bytes.max(initial=0))

    @property
    def rounding_bytes(self):
        """Bytes that rounding adds at the allocated peak."""
        return self.peak_allocated_bytes - int(self.requested_bytes.max(initial=0))


def replay(ledger):
    """Replay a closed `Ledger`'s events, of its own device, on the allocator."""
    device = ledger.device
    changes = [(sign * r.nbytes, sign * rounded_bytes(r.nbytes)) for r, sign in ledger.events if r.device == device]
    requested, allocated = np.cumsum(np.array(changes, dtype=np.int64).reshape(-1, 2), axis=0).T
    return Replay(allocated, requested)
