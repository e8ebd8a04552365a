"""The GPU of a trace: it answers our allocator as the real one did, and compares all that the two do."""

from typing import Any

from dsmem.memory.allocator import SMALL_BYTES, CachingAllocator, ReplayedOutOfMemory, rounded_bytes
from dsmem.memory.blocks import GPU
from dsmem.memory.state import memory_map, set_state

GIVEN_BACK = ("segment_free", "segment_unmap")
TAKEN = ("segment_alloc", "segment_map")
ACTIONS = ("alloc", "free_completed", *TAKEN, *GIVEN_BACK, "oom")


class Difference(str):
    """Where a trace and the model part, as a sentence: `event` (its number from 0), `trace` and `model` say what.

    `event` is the number of events where all of them agree, and the memory at the end does not.
    """

    def __new__(cls, event: int, trace: str, model: str) -> "Difference":
        self = super().__new__(cls, f"event {event}: the trace {trace}; the model {model}")
        self.event, self.trace, self.model = event, trace, model
        return self


class Differs(Exception):
    """Carries the first `Difference` out of the model."""


class ReplayedGPU(GPU):
    """Stands for the GPU below the model, and drives it: it answers as the trace says, and compares what is asked.

    at: the number of the next event. rows: (requested, allocated, reserved) bytes after each event before it.
    """

    def __init__(self, trace: dict[str, Any]):
        super().__init__()
        self.address_bytes = GPU(trace.get("total_bytes")).address_bytes
        self.trace, self.events, self.at = trace, trace["events"], 0
        self.rows, self.given_back = [], []
        self.allocator = CachingAllocator(gpu=self, **trace.get("settings", {}))
        lowest = self._lowest() if self.allocator.expandable else None
        self.live = set_state(self.allocator, trace["start_segments"], trace["start_blocks"], lowest)
        self.start = self.allocator.requested, self.allocator.allocated, self.taken

    def run(self) -> None:
        """All events, then the memory at the end."""
        while self.at < len(self.events):
            action, address, nbytes, stream = self.events[self.at]
            if action == "free_completed":
                self._free(address, nbytes, stream)
            elif action in GIVEN_BACK and not self._is_retry():
                self._empty_cache()
            else:
                self._malloc()
        self._end()

    # ---- what the model asks of the GPU ----

    def give(self, nbytes, stream):
        self._settle()
        if self._refused():
            return None
        action, address, size, of_stream = self._next()
        if (action, size, of_stream) != ("segment_alloc", nbytes, stream):
            self._differs(f"takes a segment of {nbytes:,} bytes for stream {stream}")
        self.taken += nbytes
        self._agree()
        return address

    def addresses(self, nbytes, stream):
        """Where the trace fills the new segment's first page: of a GPU that is full now this comes later, or never."""
        small = rounded_bytes(self.asked) <= SMALL_BYTES
        ours = [
            s.first for s in self.allocator.segments if (s.first.pool.stream, s.first.pool.small) == (stream, small)
        ]
        spans = [(first.address, first.address + self.address_bytes) for first in ours]
        for key, address in self._filled(self.at):
            if key == (stream, small) and not any(start <= address < end for start, end in spans):
                return address
        return 0

    def fill(self, address, nbytes, stream):
        self._settle()
        if self._refused():
            return False
        if tuple(self._next()) != ("segment_map", address, nbytes, stream):
            self._differs(f"fills {nbytes:,} bytes of pages at {address} for stream {stream}")
        self.taken += nbytes
        self._agree()
        return True

    def take_back(self, address, nbytes, stream):
        self.given_back.append((address, nbytes, stream))

    # ---- the trace's events ----

    def _free(self, address, nbytes, stream):
        block = self.live.get(address)
        if block is None:
            self._differs("has no block there")
        if (block.requested, block.pool.stream) != (nbytes, stream):
            self._differs(f"has a block of {block.requested:,} bytes for stream {block.pool.stream} there")
        self.allocator.free(self.live.pop(address))
        self._agree()

    def _empty_cache(self):
        self.allocator.empty_cache()
        if not self.given_back:
            self._differs("has nothing left to give back")
        self._settle()

    def _malloc(self):
        """The request that the next events belong to, asked of the model."""
        number = self.at
        while number < len(self.events) and self.events[number][0] in (*TAKEN, *GIVEN_BACK):
            number += 1
        if number == len(self.events) or self.events[number][0] == "free_completed":
            self._differs("takes memory for a request alone, and none follows")
        action, address, nbytes, stream = self.events[number]
        self.asked = nbytes
        try:
            block = self.allocator.malloc(nbytes, stream=stream)
        except ReplayedOutOfMemory:
            self._settle()
            if self._next()[0] != "oom":
                self._differs("has nothing left to give back")
            self._agree()
            return
        self._settle()
        if self.at < number or action == "oom" or block.address != address:
            self._differs(f"puts {nbytes:,} bytes at {block.address}")
        self.live[address] = block
        self._agree()

    def _settle(self):
        """Compare what the model has given back with the next events; their order among each other may differ."""
        while self.given_back:
            action, *place = self._next()
            if action not in GIVEN_BACK or tuple(place) not in self.given_back:
                address, nbytes, stream = self.given_back[0]
                keeps = "keeps that, and gives" if action in GIVEN_BACK else "gives"
                self._differs(f"{keeps} back {nbytes:,} bytes at {address} of stream {stream}")
            self.given_back.remove(tuple(place))
            self.taken -= place[1]
            self._agree()

    def _is_retry(self):
        """Do only some of the cached segments go back? Then a split limit is set, and a request could not be met."""
        if self.allocator.max_split_bytes == float("inf"):
            return False
        coming = self.events[self.at :]
        run = next((number for number, event in enumerate(coming) if event[0] not in GIVEN_BACK), len(coming))
        return run < sum(block.whole for pool in self.allocator._pools.values() for block in pool.at_least(0))

    def _end(self):
        if self.trace.get("end_segments") is not None:
            said = sorted(
                [address, size, list(map(list, blocks))] for address, size, blocks in self.trace["end_segments"]
            )
            for ours, theirs in zip(memory_map(self.allocator) + [None], said + [None], strict=False):
                if ours != theirs:
                    raise Differs(Difference(self.at, f"ends with {_stretch(theirs)}", f"with {_stretch(ours)}"))
        for name, column in (("peak_allocated_bytes", 1), ("peak_reserved_bytes", 2)):
            peak = max(row[column] for row in [self.start, *self.rows])
            if self.trace.get(name, peak) != peak:
                raise Differs(Difference(self.at, f"has {name} {self.trace[name]:,}", f"{peak:,}"))

    def _next(self):
        return self.events[self.at] if self.at < len(self.events) else ("end", None, 0, None)

    def _refused(self):
        return self._next()[0] in (*GIVEN_BACK, "oom")

    def _agree(self):
        self.at += 1
        self.rows.append((self.allocator.requested, self.allocator.allocated, self.taken))

    def _differs(self, model):
        raise Differs(Difference(self.at, _says(*self._next()), model))

    def _filled(self, start):
        """((stream, small), address) of all pages filled from event `start` on; small as the request they are for."""
        pages = []
        for action, address, nbytes, stream in self.events[start:]:
            if action == "segment_map":
                pages.append(address)
            elif action in ("alloc", "oom"):
                yield from (((stream, rounded_bytes(nbytes) <= SMALL_BYTES), page) for page in pages)
                pages = []

    def _lowest(self):
        """{(stream, small): lowest address that the trace fills pages at}: how far down an expandable segment goes."""
        lowest = {}
        for key, address in self._filled(0):
            lowest[key] = min(address, lowest.get(key, address))
        return lowest


def _says(action, address, nbytes, stream):
    """An event in words.

    >>> _says("alloc", 512, 1024, 0)
    'puts 1,024 bytes at 512 of stream 0'
    """
    place = f"{nbytes:,} bytes at {address} of stream {stream}"
    said = {"alloc": "puts", "free_completed": "frees", "segment_alloc": "takes a segment of", "segment_map": "fills"}
    said |= {"segment_free": "gives back a segment of", "segment_unmap": "gives back"}
    if action in said:
        return f"{said[action]} {place}"
    return "ends" if action == "end" else f"runs out of memory for {nbytes:,} bytes of stream {stream}"


def _stretch(stretch):
    return "nothing more" if stretch is None else f"{stretch[1]:,} bytes at {stretch[0]} in {len(stretch[2])} blocks"
