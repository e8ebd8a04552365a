"""A GPU that writes down what torch would of an allocator at work on it: events, segments, out-of-memory errors."""

import random

from dsmem.memory.allocator import MIB, CachingAllocator, ReplayedOutOfMemory, rounded_bytes
from dsmem.memory.blocks import GPU


class RecordingGPU(GPU):
    """`malloc`, `free` and `snapshot` as in a process whose history is recorded; settings as for `CachingAllocator`."""

    def __init__(self, capacity, **settings):
        super().__init__(capacity)
        self.allocator = CachingAllocator(gpu=self, **settings)
        self.events, self.live = [], []
        self.names = (
            ("segment_map", "segment_unmap") if self.allocator.expandable else ("segment_alloc", "segment_free")
        )

    def give(self, nbytes, stream):
        address = super().give(nbytes, stream)
        if address is not None:
            self._note(self.names[0], address, nbytes, stream)
        return address

    def fill(self, address, nbytes, stream):
        filled = super().fill(address, nbytes, stream)
        if filled:
            self._note(self.names[0], address, nbytes, stream)
        return filled

    def take_back(self, address, nbytes, stream):
        super().take_back(address, nbytes, stream)
        self._note(self.names[1], address, nbytes, stream)

    def malloc(self, nbytes, stream=0):
        try:
            block = self.allocator.malloc(nbytes, stream=stream)
        except ReplayedOutOfMemory:
            free = self.capacity - self.taken
            return self.events.append(
                {"action": "oom", "device_free": free, "size": rounded_bytes(nbytes), "stream": stream}
            )
        self._note("alloc", block.address, nbytes, stream)
        self.live.append(block)

    def free(self, block):
        self.live.remove(block)
        for action in ("free_requested", "free_completed"):
            self._note(action, block.address, block.requested, block.pool.stream)
        self.allocator.free(block)

    def work(self, seed, count=400):
        """Random requests of 32 bytes to 64 MiB on two streams, and now and then an emptied cache."""
        rng = random.Random(seed)
        for _ in range(count):
            if rng.random() < 0.02:
                self.allocator.empty_cache()
            elif rng.random() < 0.5 or not self.live:
                self.malloc(int(2 ** rng.uniform(5, 26)), rng.choice([0, 0, 7 * MIB]))
            else:
                self.free(rng.choice(self.live))
        return self

    def snapshot(self, last=None):
        """The dict that torch would dump, with the `last` events (None: all)."""
        segments = []
        for segment in self.allocator.segments:
            before = None
            block = segment.first
            while block is not None:
                if block.mapped and (before is None or not before.mapped):
                    segments.append(self._segment(block))
                if block.mapped:
                    state = "active_allocated" if block.used else "inactive"
                    row = {"address": block.address, "size": block.size, "requested_size": block.requested}
                    segments[-1]["blocks"].append(row | {"state": state})
                    segments[-1]["total_size"] += block.size
                block, before = block.next, block
        return {"segments": segments, "device_traces": [self.events[-last:] if last else self.events]}

    def _segment(self, block):
        kind = "small" if block.pool.small else "large"
        row = {"device": 0, "address": block.address, "total_size": 0, "stream": block.pool.stream, "blocks": []}
        return row | {"segment_type": kind, "segment_pool_id": (0, 0), "is_expandable": self.allocator.expandable}

    def _note(self, action, address, nbytes, stream):
        self.events.append({"action": action, "addr": address, "size": nbytes, "stream": stream})
