"""What the caching allocator deals in: blocks, the segments they lie in, the pools of free ones, and the GPU itself."""

import bisect

ADDRESS_UNIT = 2 * 2**20  # a new segment starts at a multiple of it


class Segment:
    """What the GPU gave in one piece, or, expandable, address space that is filled page by page.

    `first` is the block at its lowest address.
    """

    def __init__(self, address, size, pool, mapped):
        self.first = Block(address, size, pool, self, mapped)

    def blocks(self):
        """Its blocks that have memory behind them, from the lowest address up."""
        block = self.first
        while block is not None:
            if block.mapped:
                yield block
            block = block.next


class Block:
    """`size` bytes at `address`, between the neighbours `prev` and `next` of the same segment.

    used: holds a tensor of `requested` bytes, described by `label`. mapped: has memory behind it, as all blocks have
    but the part of an expandable segment that is not filled yet.
    """

    __slots__ = ("address", "size", "pool", "segment", "prev", "next", "used", "mapped", "requested", "label")

    def __init__(self, address, size, pool, segment, mapped):
        self.address, self.size, self.pool, self.segment, self.mapped = address, size, pool, segment, mapped
        self.prev = self.next = None
        self.used, self.requested, self.label = False, 0, ""

    @property
    def whole(self):
        """Is it all of its segment?"""
        return self.prev is None and self.next is None

    @property
    def room(self):
        """Bytes that it can grow to: with the unfilled part of an expandable segment right behind it."""
        return self.size + (self.next.size if self.next is not None and not self.next.mapped else 0)

    def cut(self, size):
        """Keep the lowest `size` bytes; returns the rest as a new free block right behind, in no pool yet."""
        rest = Block(self.address + size, self.size - size, self.pool, self.segment, self.mapped)
        rest.prev, rest.next, self.next, self.size = self, self.next, rest, size
        if rest.next is not None:
            rest.next.prev = rest
        return rest

    def merged(self):
        """The block with its neighbours of the same kind swallowed; it and they are in no pool then."""
        block = self
        if self.joins(self.prev):
            block = self.prev
            self.pool.remove(block)
            block._swallow_next()
        if block.joins(block.next):
            self.pool.remove(block.next)
            block._swallow_next()
        return block

    def joins(self, other):
        """Is the neighbour `other` free and, like this block, with memory or without?"""
        return other is not None and not other.used and other.mapped == self.mapped

    def _swallow_next(self):
        self.size += self.next.size
        self.next = self.next.next
        if self.next is not None:
            self.next.prev = self


class Pool:
    """The free blocks of one stream and kind, by size and then address: the first that is large enough fits best.

    segment_bytes: what the GPU is asked for at a time. unmapped: the blocks without memory, by address.
    """

    def __init__(self, small, segment_bytes, stream=0):
        self.small, self.segment_bytes, self.stream = small, segment_bytes, stream
        self.unmapped = []
        self._free = []  # (bytes, address, block), sorted

    def add(self, block):
        """Take in a free block, with memory or without."""
        if block.mapped:
            bisect.insort(self._free, (block.size, block.address, block))
        else:
            bisect.insort(self.unmapped, block, key=_address)

    def remove(self, block):
        """Let go of a block; its size must still be the one that it came with."""
        if block.mapped:
            del self._free[self._place(block.size, block.address)]
        else:
            self.unmapped.remove(block)

    def at_least(self, size):
        """The free blocks of at least `size` bytes, smallest first; the pool may not change meanwhile."""
        for place in range(self._place(size), len(self._free)):
            yield self._free[place][2]

    @property
    def largest_bytes(self):
        """Bytes of the largest free block; 0 if there is none."""
        return self._free[-1][0] if self._free else 0

    def _place(self, *key):
        return bisect.bisect_left(self._free, key)


class GPU:
    """Gives memory as long as it fits into `capacity` bytes (None: without end), at addresses that only ever grow.

    taken: bytes that it has given and not got back. A trace's GPU (`memory.traces`) answers as the real one did.
    """

    def __init__(self, capacity=None):
        self.capacity = float("inf") if capacity is None else capacity
        # addresses of one expandable segment: they run out before the GPU does when pages in the middle stay empty
        self.address_bytes = 2**50 if capacity is None else capacity + capacity // 8
        self.taken = self._next_address = 0

    def give(self, nbytes, stream):
        """Address of a new segment of `nbytes` (cudaMalloc), or None where the GPU is full."""
        if self.taken + nbytes > self.capacity:
            return None
        self.taken += nbytes
        return self.addresses(nbytes, stream)

    def addresses(self, nbytes, stream):
        """The lowest of `nbytes` addresses that have no memory behind them yet, for an expandable segment."""
        address = self._next_address
        self._next_address += -(-nbytes // ADDRESS_UNIT) * ADDRESS_UNIT
        return address

    def fill(self, address, nbytes, stream):
        """Put memory behind pages of an expandable segment; False where the GPU is full."""
        if self.taken + nbytes > self.capacity:
            return False
        self.taken += nbytes
        return True

    def take_back(self, address, nbytes, stream):
        """A segment, or pages of an expandable one, that the allocator gives back."""
        self.taken -= nbytes


def _address(block):
    return block.address
