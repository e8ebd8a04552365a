"""The memory at the first event of a trace, found by running the events backwards from the memory at its end."""

import bisect

from dsmem.memory.allocator import MIB, SMALL_BYTES, rounded_bytes
from dsmem.memory.follow import GIVEN_BACK, TAKEN


class Backwards:
    """The memory at the end of a trace, taken back event by event.

    segments: {address: (bytes, kind, stream)}; blocks: {address: (requested bytes, bytes or None)} of those in use.
    end: the map at the end, as `state.memory_map` returns it.
    """

    def __init__(self, segments, expandable):
        self.expandable = expandable
        self.segments, self.blocks, self.end = {}, {}, []
        for address, nbytes, kind, stream, blocks in sorted(segments):
            self.segments[address] = nbytes, kind, stream
            self.end.append([address, nbytes, [[size, requested is not None] for size, requested in blocks]])
            for size, requested in blocks:
                if requested is not None:
                    self.blocks[address] = requested, size
                address += size

    def undo(self, place, action, address, nbytes, stream):
        """Take back one event; ValueError where the memory after it is not as it says."""
        if action == "alloc":
            requested, _ = self.blocks.pop(address, (None, None))
            self._hold(place, action, requested == nbytes)
        elif action == "free_completed":
            self._hold(place, action, address not in self.blocks)
            self.blocks[address] = nbytes, None
        elif action in TAKEN:
            self._hold(place, action, self._without(address, nbytes, stream))
        elif action in GIVEN_BACK:
            self._hold(place, action, address not in self.segments)
            self.segments[address] = nbytes, None, stream

    def segments_now(self, events):
        """(address, bytes, kind, stream) of each segment, pages of an expandable one joined where they touch."""
        rows = [[address, *row] for address, row in sorted(self.segments.items())]
        return _joined(rows, events, self.blocks) if self.expandable else rows

    def blocks_now(self, events):
        """[address, requested bytes, bytes or None, inferred] of the blocks in use at the first event.

        The first block put between a used one and the next, or the segment's end, begins where the used one ends.
        """
        addresses = sorted(self.blocks)
        rows = {address: [address, *self.blocks[address], False] for address in addresses}
        limits = _limits(addresses, self.segments)
        unsure = {address for address, row in rows.items() if row[2] is None}
        for action, address, _, _ in events:
            if action == "free_completed":
                unsure.discard(address)
            elif action == "alloc":
                before = addresses[max(bisect.bisect_left(addresses, address) - 1, 0)] if addresses else None
                if before in unsure and before < address < limits[before]:
                    size = rounded_bytes(rows[before][1])
                    if size < address - before <= size + SMALL_BYTES:
                        rows[before][2:] = address - before, True
                    unsure.discard(before)
        return [rows[address] for address in addresses]

    def _without(self, address, nbytes, stream):
        """Remove a segment, or pages within a run of pages; False where they are not there."""
        if not self.expandable:
            return self.segments.pop(address, (None,))[0] == nbytes
        rows = _joined([[start, *row] for start, row in sorted(self.segments.items())], [], {})
        place = bisect.bisect_right(rows, address, key=lambda row: row[0]) - 1
        if place < 0 or address + nbytes > rows[place][0] + rows[place][1] or rows[place][3] != stream:
            return False
        start, size, kind, _ = rows.pop(place)
        for begin, end in ((start, address), (address + nbytes, start + size)):
            if end > begin:
                rows.append([begin, end - begin, kind, stream])
        self.segments = {row[0]: tuple(row[1:]) for row in rows}
        return True

    def _hold(self, place, action, holds):
        if not holds:
            raise ValueError(f"snapshot has event {place} {action!r} that its segments contradict; the two must agree")


def _joined(rows, events, blocks):
    """Runs of pages, (address, bytes, kind, stream) by address; a kind not known follows from what lies in the run."""
    runs = []
    for address, nbytes, kind, stream in rows:
        if runs and sum(runs[-1][:2]) == address and runs[-1][3] == stream:
            runs[-1][1] += nbytes
            runs[-1][2] = runs[-1][2] or kind
        else:
            runs.append([address, nbytes, kind, stream])
    inside = [(address, requested) for address, (requested, _) in blocks.items()]
    inside = sorted(inside + [(address, nbytes) for action, address, nbytes, _ in events if action == "alloc"])
    for run in runs:
        place = bisect.bisect_left(inside, (run[0],))
        if run[2] is None and place < len(inside) and inside[place][0] < sum(run[:2]):
            run[2] = "small" if rounded_bytes(inside[place][1]) <= SMALL_BYTES else "large"
        elif run[2] is None and events:
            run[2] = "large" if run[1] % (20 * MIB) == 0 else "small"
    return runs


def _limits(addresses, segments):
    """{address of a used block: where the next used block of its segment begins, or the segment ends}."""
    starts, limits = sorted(segments), {}
    for address, following in zip(addresses, [*addresses[1:], None], strict=False):
        place = bisect.bisect_right(starts, address) - 1
        if place < 0:
            raise ValueError(f"snapshot has a block at address {address} in no segment; each must lie in one")
        end = starts[place] + segments[starts[place]][0]
        limits[address] = end if following is None else min(end, following)
    return limits
