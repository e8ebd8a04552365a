"""The allocator's memory as plain lists: the segments and blocks it starts from, and the map it ends with."""

import bisect
from collections import defaultdict
from collections.abc import Iterable

from dsmem.memory.allocator import SMALL_BYTES, SMALL_SEGMENT_BYTES, CachingAllocator, rounded_bytes
from dsmem.memory.blocks import Block


def set_state(
    allocator: CachingAllocator,
    segments: Iterable[tuple],
    blocks: Iterable[tuple],
    lowest: dict[tuple[int, bool], int] | None = None,
) -> dict[int, Block]:
    """Fill a new `CachingAllocator` with `segments` and used `blocks`; returns {address: block} of the used ones.

    segments: (address, bytes, "small", "large" or None, stream); None is read from the size: 2 MiB is small.
    blocks: (address, requested bytes, bytes or None, ...); None follows from the rules: rounded, and in a large segment
    a rest of at most 1 MiB stays with the block.
    lowest: with expandable segments, {(stream, small): lowest address known}. A pool has one such segment, as on a GPU.
    Raises ValueError for a block that overlaps another or lies in no segment.
    """
    blocks = sorted(blocks)
    place = _Placing(allocator, blocks)
    pools = defaultdict(list)
    for address, nbytes, kind, stream in sorted(segments, key=lambda segment: segment[0]):
        small = nbytes == SMALL_SEGMENT_BYTES if kind is None else kind == "small"
        pools[stream, small].append((address, nbytes))
    for key in sorted(pools) if not allocator.expandable else sorted({*pools, *(lowest or {})}):
        if allocator.expandable:
            place.expandable(allocator._pool(*key), pools[key], (lowest or {}).get(key))
        else:
            for address, nbytes in pools[key]:
                place.segment(allocator._pool(*key), address, nbytes)
    if len(place.live) != len(blocks):
        lost = next(block[0] for block in blocks if block[0] not in place.live)
        raise ValueError(f"blocks has one at address {lost} that lies in no segment; each must lie in one")
    return place.live


def memory_map(allocator: CachingAllocator) -> list[list]:
    """[address, bytes, [[bytes, used] per block]] of every stretch of memory, by address.

    A segment is one stretch, an expandable one as many as it has runs of filled pages.
    """
    stretches = []
    for segment in allocator.segments:
        block, before = segment.first, None
        while block is not None:
            if block.mapped:
                if before is None or not before.mapped:
                    stretches.append([block.address, 0, []])
                stretches[-1][1] += block.size
                stretches[-1][2].append([block.size, block.used])
            block, before = block.next, block
    return sorted(stretches)


class _Placing:
    """Cuts segments into the blocks that lie in them; `live` is {address: block} of those placed so far."""

    def __init__(self, allocator, blocks):
        self.allocator, self.blocks, self.live = allocator, blocks, {}
        self.addresses = [block[0] for block in blocks]

    def segment(self, pool, address, nbytes):
        """A segment from cudaMalloc."""
        self._fill(self._new(pool, address, nbytes, mapped=True))

    def expandable(self, pool, stretches, lowest):
        """An expandable segment with memory behind `stretches` of its addresses."""
        base = min(address for address in [lowest, *(address for address, _ in stretches)] if address is not None)
        rest = self._new(pool, base, self.allocator.gpu.address_bytes // pool.segment_bytes * pool.segment_bytes, False)
        for address, nbytes in stretches:
            if address > rest.address:
                hole, rest = rest, rest.cut(address - rest.address)
                pool.add(hole)
            filled, rest = rest, rest.cut(nbytes)
            filled.mapped = True
            self._fill(filled)
        pool.add(rest)

    def _new(self, pool, address, nbytes, mapped):
        first = self.allocator._segment(pool, address, nbytes, mapped)
        pool.remove(first)
        return first

    def _fill(self, rest):
        """Cut the used blocks out of `rest`, which is in no pool yet; what lies between them goes to the pool."""
        pool, end = rest.pool, rest.address + rest.size
        self.allocator.gpu.taken += rest.size
        first, last = (bisect.bisect_left(self.addresses, address) for address in (rest.address, end))
        for number in range(first, last):
            address, requested, size = self.blocks[number][:3]
            if rest is None or address < rest.address:
                raise ValueError(
                    f"blocks has one at address {address} that overlaps another; each must have its own bytes"
                )
            if address > rest.address:
                free, rest = rest, rest.cut(address - rest.address)
                pool.add(free)
            room = (self.addresses[number + 1] if number + 1 < last else end) - address
            rest = self._use(rest, requested, self._size(pool, requested, room) if size is None else size)
        if rest is not None:
            pool.add(rest)

    def _size(self, pool, requested, room):
        size = rounded_bytes(requested)
        if pool.small or self.allocator.expandable:
            return size
        whole = size >= self.allocator.max_split_bytes or room - size <= SMALL_BYTES
        return max(room, size) if whole else size

    def _use(self, block, requested, size):
        """Make the lowest `size` bytes of `block` a used block; returns the rest or None."""
        if not 0 < size <= block.size:
            raise ValueError(f"blocks has one of {size} bytes at address {block.address}; {block.size} are left there")
        rest = block.cut(size) if size < block.size else None
        block.used, block.requested = True, requested
        self.live[block.address] = block
        self.allocator.allocated += size
        self.allocator.requested += requested
        return rest
