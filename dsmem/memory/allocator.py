"""A model of PyTorch's CUDA caching allocator, to replay allocations on without a GPU.

The rules are those of torch 2.13 (`c10/core/AllocatorConfig.h`, `c10/cuda/CUDACachingAllocator.cpp`): blocks of whole
512 bytes; per stream a pool for blocks up to 1 MiB and one for larger; segments of 2 MiB, 20 MiB or whole 2 MiB; best
fit, splitting, merging, and giving cached segments back to the GPU when it is full.
Left out: private pools of CUDA graphs, tensors that several streams share, garbage collection by threshold, rounding to
powers of two. A `GPU`'s addresses only ever grow; a real one may hand them out again and so decide otherwise between
equal blocks: `memory.traces` replays with the real one's addresses.
"""

from typing import Any

from dsmem.memory.blocks import GPU, Block, Pool, Segment
from dsmem.units import whole_number

MIB = 2**20
BLOCK_BYTES = 512  # kMinBlockSize
SMALL_BYTES = MIB  # kSmallSize: the largest block of the small pool
SMALL_SEGMENT_BYTES = 2 * MIB  # kSmallBuffer
LARGE_ALLOC_BYTES = 10 * MIB  # kMinLargeAlloc: from here on a block gets a segment of its own
ROUND_LARGE_BYTES = 2 * MIB  # kRoundLarge


def rounded_bytes(nbytes):
    """Bytes of the block that holds `nbytes`: the next multiple of 512; a tensor of 0 bytes takes no block.

    >>> rounded_bytes(1), rounded_bytes(512), rounded_bytes(513), rounded_bytes(0)
    (512, 512, 1024, 0)
    """
    return _round_up(nbytes, BLOCK_BYTES)


def segment_bytes(nbytes, large_segment_bytes=20 * MIB):
    """Bytes of the segment that the GPU gives for a tensor of `nbytes` when no free block fits.

    2 MiB up to 1 MiB, `large_segment_bytes` below 10 MiB, whole 2 MiB from there on, each by the size of the block.

    >>> segment_bytes(1000) // MIB, segment_bytes(MIB + 1) // MIB, segment_bytes(11 * MIB) // MIB
    (2, 20, 12)
    """
    size = rounded_bytes(nbytes)
    if size <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    return large_segment_bytes if size < LARGE_ALLOC_BYTES else _round_up(size, ROUND_LARGE_BYTES)


class ReplayedOutOfMemory(RuntimeError):
    """The replayed GPU is full, also after giving back all that was cached."""


class CachingAllocator:
    """`malloc` and `free` as the process on a GPU would call them; `allocated`, `requested`, `reserved` bytes so far.

    capacity: bytes that all segments together may take; None: no limit. gpu: what gives the memory, in place of a `GPU`
    of that capacity: a trace's GPU hands out the addresses of the real one. The other settings are those of
    PYTORCH_ALLOC_CONF: max_split_size_mb (None: no limit), expandable_segments, large_segment_size_mb.
    Raises ValueError for settings that torch refuses, too.

    >>> allocator = CachingAllocator()
    >>> block = allocator.malloc(1000)
    >>> allocator.requested, allocator.allocated, allocator.reserved
    (1000, 1024, 2097152)
    """

    def __init__(
        self,
        capacity: int | None = None,
        max_split_size_mb: int | None = None,
        expandable_segments: bool = False,
        large_segment_size_mb: int = 20,
        gpu: Any = None,
    ):
        if capacity is not None:
            whole_number("capacity", capacity, what="bytes")
        if large_segment_size_mb <= 10:
            raise ValueError(f"large_segment_size_mb={large_segment_size_mb} is too small; it must be more than 10")
        if max_split_size_mb is not None and max_split_size_mb < large_segment_size_mb:
            allowed = f"at least large_segment_size_mb={large_segment_size_mb}, or None for no limit"
            raise ValueError(f"max_split_size_mb={max_split_size_mb} is too small; it must be {allowed}")
        self.gpu = GPU(capacity) if gpu is None else gpu
        self.max_split_bytes = float("inf") if max_split_size_mb is None else max_split_size_mb * MIB
        self.expandable = expandable_segments
        self.large_segment_bytes = large_segment_size_mb * MIB
        self.allocated = self.requested = 0
        self.segments = {}  # as a set that keeps its order
        self._pools = {}

    @property
    def reserved(self) -> int:
        """Bytes of all segments: what the GPU has given and not got back."""
        return self.gpu.taken

    def malloc(self, nbytes: int, label: str = "", stream: int = 0) -> Block:
        """A used `Block` for `nbytes` (at least 1); raises ReplayedOutOfMemory where the GPU is full."""
        size = _round_up(whole_number("nbytes", nbytes, what="the bytes of a block"), BLOCK_BYTES)
        pool = self._pool(stream, size <= SMALL_BYTES)
        block = self._cached(pool, size) or self._fresh(pool, size)
        pool.remove(block)
        if self._splits(block, size):
            pool.add(block.cut(size))
        block.used, block.requested, block.label = True, nbytes, label
        self.allocated += block.size
        self.requested += nbytes
        return block

    def free(self, block: Block) -> None:
        """Give a used block back to its pool, merged with its free neighbours; the segment stays reserved."""
        if not block.used:
            raise ValueError(f"block at address {block.address} is free; it must be one that malloc gave, freed once")
        self.allocated -= block.size
        self.requested -= block.requested
        block.used, block.requested, block.label = False, 0, ""
        block.pool.add(block.merged())

    def empty_cache(self) -> None:
        """Give back to the GPU every segment without a tensor, and of expandable ones every page without."""
        for pool in self._pools.values():
            for block in list(pool.at_least(0)):
                if self.expandable:
                    self._unfill(block)
                elif block.whole:
                    self._release(block)

    @property
    def largest_free_bytes(self) -> int:
        """The largest free block: no larger tensor fits without more memory from the GPU."""
        return max([pool.largest_bytes for pool in self._pools.values()], default=0)

    def _pool(self, stream, small):
        if (stream, small) not in self._pools:
            self._pools[stream, small] = Pool(small, SMALL_SEGMENT_BYTES if small else self.large_segment_bytes, stream)
        return self._pools[stream, small]

    def _cached(self, pool, size):
        """The free block that fits best, or None."""
        block = next(pool.at_least(size), None)
        if block is None:
            return None
        if self.expandable:
            block = _least_room(pool.at_least(size))
        if block.size >= self.max_split_bytes > size:
            return None  # an oversize block is kept for an oversize request
        if size >= self.max_split_bytes and block.size >= size + self.large_segment_bytes:
            return None  # which may waste less than one segment
        return block

    def _splits(self, block, size):
        """Is what the block has beyond `size` cut off? Where not, it counts as allocated with the rest."""
        rest = block.size - size
        if block.pool.small or self.expandable:
            return rest >= BLOCK_BYTES
        return size < self.max_split_bytes and rest > SMALL_BYTES

    def _fresh(self, pool, size):
        """A free block of new memory: at once, or after giving back oversize blocks, or after all that is cached."""
        grow = self._grow if self.expandable else self._new_segment
        block = grow(pool, size)
        if block is None and self._release_oversize(pool, size):
            block = grow(pool, size)
        if block is None:
            self.empty_cache()
            block = grow(pool, size)
        if block is None:
            full = f"{self.reserved:,} of {self.gpu.capacity:,} are reserved, {self.allocated:,} of them allocated"
            raise ReplayedOutOfMemory(f"no room for {size:,} bytes: {full}")
        return block

    def _new_segment(self, pool, size):
        size = segment_bytes(size, self.large_segment_bytes)
        address = self.gpu.give(size, pool.stream)
        return None if address is None else self._segment(pool, address, size, mapped=True)

    def _segment(self, pool, address, size, mapped):
        """The one block of a new segment."""
        segment = Segment(address, size, pool, mapped)
        self.segments[segment] = None
        pool.add(segment.first)
        return segment.first

    def _grow(self, pool, size):
        """Fill pages of an expandable segment, at the lowest address that has room."""
        block = next((start for start in map(_run_start, pool.unmapped) if _has_room(start, size)), None)
        if block is None:
            size_of_all = _round_up(self.gpu.address_bytes, pool.segment_bytes)
            block = self._segment(pool, self.gpu.addresses(size_of_all, pool.stream), size_of_all, mapped=False)
        while block is not None and not (block.mapped and block.size >= size):
            missing = size - block.size if block.mapped else size
            block = self._fill(block.next if block.mapped else block, missing)
        return block

    def _fill(self, block, wanted):
        """Put memory behind the first `wanted` bytes of an unmapped block, in whole pages; the merged block or None."""
        pool = block.pool
        filled = min(_round_up(wanted, pool.segment_bytes), block.size)
        if not self.gpu.fill(block.address, filled, pool.stream):
            return None
        pool.remove(block)
        if filled < block.size:
            pool.add(block.cut(filled))
        block.mapped = True
        block = block.merged()
        pool.add(block)
        return block

    def _release_oversize(self, pool, size):
        """With a split limit: give back one oversize block that is large enough, else the largest until they are.

        False where that frees too little, and of an expandable segment, which knows no such blocks.
        """
        if self.expandable:
            return False
        enough = next(pool.at_least(size), None)  # oversize, for else it would have been lent
        freed = 0
        for block in [enough] if enough else reversed(list(pool.at_least(self.max_split_bytes))):
            if freed < size:
                freed += block.size
                self._release(block)
        return freed >= size

    def _release(self, block):
        block.pool.remove(block)
        del self.segments[block.segment]
        self.gpu.take_back(block.address, block.size, block.pool.stream)

    def _unfill(self, block):
        """Take the memory from behind the whole pages of a free block of an expandable segment."""
        pool, base = block.pool, block.segment.first.address
        start = base + _round_up(block.address - base, pool.segment_bytes)
        end = base + (block.address + block.size - base) // pool.segment_bytes * pool.segment_bytes
        if start >= end:
            return
        pool.remove(block)
        if block.address < start:
            front, block = block, block.cut(start - block.address)
            pool.add(front)
        if block.size > end - start:
            pool.add(block.cut(end - start))
        self.gpu.take_back(block.address, block.size, pool.stream)
        block.mapped = False
        block = block.merged()
        if block.whole:
            del self.segments[block.segment]
        else:
            pool.add(block)


def _round_up(nbytes, unit):
    return -(-nbytes // unit) * unit


def _run_start(unmapped):
    """Where filling an unmapped block would begin: at the free block right before it, if there is one."""
    return unmapped if unmapped.prev is None or unmapped.prev.used else unmapped.prev


def _least_room(blocks):
    """Of the blocks of an expandable segment the first, then the next as long as that one can grow to less."""
    best = next(blocks)
    for block in blocks:
        if block.room >= best.room:
            break
        best = block
    return best


def _has_room(block, size):
    """Do the blocks in a row from `block` on that hold no tensor, with memory or without, make up `size`?"""
    while block is not None and not block.used and size > 0:
        size -= block.size
        block = block.next
    return size <= 0
