"""Random streams on the caching allocator: held against torch's own, and against what must hold of any; the replay."""

import functools
import hashlib
import itertools
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsmem
from dsmem.memory.allocator import CachingAllocator, ReplayedOutOfMemory, rounded_bytes
from dsmem.memory.replay import compare_settings, replay, smallest_capacity_bytes

KIB, MIB = 2**10, 2**20
# sizes on both sides of every threshold, and some between
SIZES = [1, 512, 513, 300 * KIB, MIB - 512, MIB, MIB + 1, 2 * MIB, 3 * MIB + 7, 7 * MIB, 10 * MIB - 512, 10 * MIB]
SIZES += [11 * MIB, 12 * MIB, 19 * MIB, 20 * MIB - 512, 20 * MIB, 21 * MIB + 5, 39 * MIB, 40 * MIB, 61 * MIB]
FLAGS, SPLITS, SEGMENTS, CAPACITIES = (False, True), (None, 40), (20, 11), (None, 150 * MIB + 12_345)
SETTINGS = [
    {"expandable_segments": a, "max_split_size_mb": b, "large_segment_size_mb": c, "capacity": d}
    for a, b, c, d in itertools.product(FLAGS, SPLITS, SEGMENTS, CAPACITIES)
]
UNLIMITED = [conf for conf in SETTINGS if conf["capacity"] is None]

# Recorded with the libc10_cuda.so of torch 2.13.0 (the CUDA 13 wheel on PyPI) without a GPU: under it lay a stand-in
# for the CUDA runtime and driver that hands out growing addresses and refuses what exceeds the capacity. Per line of
# SETTINGS the peaks of requested, allocated and reserved bytes, the failures, and a digest of all four after each step.
RECORDED = """
330838420 332938752 564133888 0 ff2fed60d24d451c
142734951 143784960 157286400 109 8a6d0039dc33908c
343136196 346339840 622854144 0 555cf0d9a6e4481b
144606659 147234304 157286400 116 aa4e361dd37a2c1f
391372255 398683648 748683264 0 7447ebd5fd15b822
146800298 149947904 157286400 108 6ae26836777a5658
355419174 361712640 651165696 0 fbe47211b50f22c6
145618027 148011520 157286400 94 fa0fc3f5fcde7600
408704808 408706560 528482304 0 7463e5fed4b58f5a
141043680 141046272 155189248 116 21ccf899b3819030
339599972 339602944 534773760 0 3296c8b56c4d5c5d
149716266 149716480 156237824 102 a39c8382e2833cbc
426037459 426038272 1388314624 0 e3369edc7e3ac17d
138240319 138242560 155189248 111 9d51e9084e2090a8
328560130 328562176 688914432 0 a8b3fc7db2d25af5
141784294 141786112 156237824 118 0d9fc36b2a234c9c
"""


def churn(number, count=1_500):
    """A stream of ("malloc", key, bytes, stream), ("free", key, 0, 0) and ("empty", 0, 0, 0), the same everywhere."""
    draw, live = random.Random(number).random, []
    for key in range(count):
        chance = draw()
        if chance < 0.02:
            yield "empty", 0, 0, 0
        elif live and chance < 0.02 + 0.04 * len(live):
            yield "free", live.pop(int(draw() * len(live))), 0, 0
        else:
            live.append(key)
            nbytes = SIZES[int(draw() * len(SIZES))]
            nbytes = nbytes if draw() < 0.7 else int(draw() * nbytes) + 1
            yield "malloc", key, nbytes, int(draw() * 2)


def play(allocator, steps, held):
    """Take the steps; yields whether the GPU was too full after each. `held`: the blocks by key."""
    for action, key, nbytes, stream in steps:
        full = False
        if action == "malloc":
            try:
                held[key] = allocator.malloc(nbytes, f"tensor {key}", stream)
            except ReplayedOutOfMemory:
                full = True
        elif action == "empty":
            allocator.empty_cache()
        elif key in held:  # else its malloc failed
            allocator.free(held.pop(key))
        yield full


def summary(rows):
    """Peaks, failures and digest, as in RECORDED."""
    digest = hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
    return [*(str(max(row[i] for row in rows)) for i in range(3)), str(sum(row[3] for row in rows)), digest]


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_every_count_is_that_of_torchs_own_allocator(number):
    allocator = CachingAllocator(**SETTINGS[number])
    rows = [
        (allocator.requested, allocator.allocated, allocator.reserved, int(full))
        for full in play(allocator, churn(number), {})
    ]
    assert summary(rows) == RECORDED.split("\n")[1:-1][number].split()


# ---- what must hold of any stream ----


@st.composite
def streams(draw, pairs=24):
    """Steps as `churn` yields them; two bytes decide on each, so that 10,000 streams are cheap to draw and shrink."""
    data = draw(st.binary(max_size=2 * pairs))
    steps, live = [], []
    for key, (what, which) in enumerate(zip(data[::2], data[1::2], strict=False)):
        if what < 8:
            steps.append(("empty", 0, 0, 0))
        elif what < 110 and live:
            steps.append(("free", live.pop(which % len(live)), 0, 0))
        else:
            live.append(key)
            nbytes = SIZES[which % len(SIZES)]
            steps.append(("malloc", key, nbytes if what % 2 else nbytes * what // 256 + 1, int(what > 240)))
    return steps


def chain(segment):
    """All blocks of a segment, with memory or without."""
    block = segment.first
    while block is not None:
        yield block
        block = block.next


def check(allocator, held):
    """What holds after every step."""
    assert allocator.requested <= allocator.allocated <= allocator.reserved <= allocator.gpu.capacity
    assert allocator.requested == sum(block.requested for block in held.values())
    assert allocator.allocated == sum(block.size for block in held.values())
    assert all(rounded_bytes(block.requested) <= block.size for block in held.values())
    live = sorted((block.address, block.size) for block in held.values())
    assert all(address + size <= after for (address, size), (after, _) in itertools.pairwise(live))
    backed = [block for segment in allocator.segments for block in segment.blocks()]
    assert allocator.reserved == sum(block.size for block in backed)
    assert {id(block) for block in backed if block.used} == {id(block) for block in held.values()}
    free = [block for block in backed if not block.used]
    assert allocator.largest_free_bytes == max((block.size for block in free), default=0)
    pooled = [block for pool in allocator._pools.values() for block in pool.at_least(0)]
    assert {id(block) for block in free} == {id(block) for block in pooled}
    for segment in allocator.segments:
        for left, right in itertools.pairwise(chain(segment)):
            assert left.address + left.size == right.address
            assert right.prev is left
            assert left.used or right.used or left.mapped != right.mapped  # else they would be merged


@given(streams(), st.sampled_from(SETTINGS))
@settings(max_examples=6_000)
def test_the_state_stays_sound_after_every_step_and_all_goes_back_in_the_end(steps, conf):
    allocator, held = CachingAllocator(**conf), {}
    for _ in play(allocator, steps, held):
        check(allocator, held)
    for key in list(held):
        allocator.free(held.pop(key))
    check(allocator, held)
    if not conf["expandable_segments"]:
        assert all(segment.first.whole for segment in allocator.segments)
    allocator.empty_cache()
    check(allocator, held)
    assert allocator.reserved == 0


# ---- the replay ----


def as_events(steps):
    """The steps as events for `replay`, which knows one stream and never empties the cache."""
    sizes = {key: nbytes for action, key, nbytes, _ in steps if action == "malloc"}
    signs = {"malloc": 1, "free": -1}
    return [(key, signs[action] * sizes[key], f"tensor {key}") for action, key, *_ in steps if action in signs]


@given(streams(), st.sampled_from(UNLIMITED), st.integers(0, 99))
@settings(max_examples=4_000)
def test_a_replay_is_sound_repeatable_and_its_map_sums_to_its_counts(steps, conf, step):
    events = as_events(steps)
    first, second = replay(events, **conf), replay(events, **conf)
    for name in ("requested_bytes", "allocated_bytes", "reserved_bytes", "largest_free_bytes", "fragmentation"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
        assert len(getattr(first, name)) == len(events)
    assert (first.requested_bytes <= first.allocated_bytes).all()
    assert (first.allocated_bytes <= first.reserved_bytes).all()
    assert ((0 <= first.fragmentation) & (first.fragmentation <= 1)).all()
    if events:
        step %= len(events)
        blocks = [block for segment in first.segments(step) for block in segment]
        assert sum(nbytes for nbytes, _ in blocks) == first.reserved_bytes[step]
        assert sum(nbytes for nbytes, label in blocks if label) == first.allocated_bytes[step]
        assert max((nbytes for nbytes, label in blocks if not label), default=0) == first.largest_free_bytes[step]
    else:
        assert first.segments() == []


@pytest.mark.parametrize("step", [0, 1, 2, -1, None])
def test_the_map_by_hand(step):
    events = [("a", 600, "first"), ("b", 12 * MIB, "second"), ("a", -600, "first")]
    small = [[(1024, "first"), (2 * MIB - 1024, "")], [(1024, "first"), (2 * MIB - 1024, "")], [(2 * MIB, "")]]
    index = 1 if step is None else step  # left out: the first event at the reserved peak
    large = [] if step == 0 else [[(12 * MIB, "second")]]
    assert replay(events).segments(step) == [small[index], *large]


def test_fragmentation_by_hand():
    # in 20 MiB: a 2, b 6, c 9 and 3 left over; b's 6 and the 3 lie apart, b's and a's side by side
    events = [("a", 2 * MIB, ""), ("b", 6 * MIB, ""), ("c", 9 * MIB, ""), ("b", -6 * MIB, ""), ("a", -2 * MIB, "")]
    result = replay(events)
    assert (result.reserved_bytes == 20 * MIB).all()
    assert (result.largest_free_bytes / MIB).tolist() == [18, 12, 3, 6, 8]
    assert result.fragmentation.tolist() == [0, 0, 0, 3 / 9, 3 / 11]


def test_an_unsplit_rest_is_part_of_what_whole_blocks_add():
    result = replay([("a", 11 * MIB, "a")])
    assert (result.peak_allocated_bytes, result.rounding_bytes) == (12 * MIB, MIB)


def test_events_may_come_from_any_iterable_and_stay_as_they_were():
    events = [("a", 1, "a"), ("a", -1, "a"), ("a", 513, "a")]  # a key may be born again
    result = replay(iter(events))
    events.clear()
    assert result.allocated_bytes.tolist() == [512, 0, 1024]
    assert result.segments(-1) == [[(1024, "a"), (2 * MIB - 1024, "")]]


@pytest.mark.parametrize("events", [[("a", 1, ""), ("a", 1, "")], [("b", 1, ""), ("a", -1, "")]])
def test_a_birth_or_death_out_of_turn_is_refused(events, refuses):
    refuses(lambda: replay(events), "events[1]", "'a'", "alternate")


@pytest.mark.parametrize("step", [2, -3])
def test_a_step_outside_the_replay_is_refused(step, refuses):
    result = replay([("a", 1, "a"), ("a", -1, "a")])
    refuses(lambda: result.segments(step), f"step={step}", "from -2 to 1")


def test_a_card_too_small_for_the_events_is_out_of_memory():
    with pytest.raises(ReplayedOutOfMemory, match=r"no room for 31,457,280 bytes: 0 of 20,971,520 are reserved"):
        replay([("a", 30 * MIB, "a")], capacity=20 * MIB)


TINY = dsmem.Architecture.from_config("deepseek-r1-distill-qwen-1.5b").scaled(num_hidden_layers=2, hidden_size=256)


@pytest.mark.parametrize("conf", [*UNLIMITED, {"capacity": 2**40}])
@pytest.mark.parametrize("arch", [TINY, dsmem.Architecture.from_config("deepseek-r1-distill-qwen-1.5b")])
def test_the_replay_of_a_fake_pass_holds_its_ledger(arch, conf):
    run = passes(arch)
    result = replay(run.ledger, **conf)
    assert np.array_equal(result.requested_bytes, run.ledger.timeline().live_bytes)
    assert result.peak_reserved_bytes >= result.peak_allocated_bytes >= run.ledger.peak_bytes
    assert ((0 <= result.fragmentation) & (result.fragmentation <= 1)).all()
    for step in (0, len(result.events) // 2, -1, None):
        index = int(result.reserved_bytes.argmax()) if step is None else step
        blocks = [block for segment in result.segments(step) for block in segment]
        assert sum(nbytes for nbytes, _ in blocks) == result.reserved_bytes[index]
        assert sum(nbytes for nbytes, label in blocks if label) == result.allocated_bytes[index]


def test_expandable_segments_hold_a_fake_pass_to_within_a_page_per_pool():
    result = replay(passes(TINY).ledger, expandable_segments=True)
    assert result.peak_allocated_bytes - passes(TINY).ledger.peak_bytes < 512 * len(result.events)
    assert result.peak_reserved_bytes < replay(passes(TINY).ledger).peak_reserved_bytes


@functools.cache
def passes(arch):
    return dsmem.measure(arch, dsmem.Workload(2, 256))


def busy_events(count):
    """Births and deaths of up to 400 tensors at a time, of 1 byte to 64 MiB."""
    draw, live = random.Random(0).random, []
    for key in range(count):
        if len(live) == 400 or (live and draw() < 0.45):
            key, nbytes = live.pop(int(draw() * len(live)))
            yield key, -nbytes, ""
        else:
            live.append((key, int(2 ** (26 * draw()))))
            yield *live[-1], "tensor"


@pytest.mark.parametrize("conf", [{}, {"expandable_segments": True}, {"max_split_size_mb": 40}])
def test_100_000_events_replay_in_seconds(conf):
    events = list(busy_events(100_000))
    start = time.perf_counter()
    result = replay(events, **conf)
    assert time.perf_counter() - start < 10  # half a second on a quiet core: the bound only catches a quadratic slip
    assert result.peak_allocated_bytes > 2**30


@given(st.lists(st.integers(1, 40 * MIB), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_smallest_capacity_is_enough_and_lies_between_blocks_and_segments(sizes, random):
    births = [(key, nbytes, "") for key, nbytes in enumerate(sizes)]
    deaths = [(key, -nbytes, "") for key, nbytes in random.sample(list(enumerate(sizes)), len(sizes) // 2)]
    events = [*births, *deaths, *[(len(sizes) + key, nbytes, "") for key, nbytes in enumerate(sizes[::-1])]]
    least = smallest_capacity_bytes(events)
    assert replay(events, capacity=least)
    assert max(replay(events).requested_bytes) <= least <= replay(events).peak_reserved_bytes


def test_a_card_needs_less_than_is_kept():
    events = [(1, 30 * MIB, ""), (1, -30 * MIB, ""), (2, 32 * MIB, "")]
    assert replay(events).peak_reserved_bytes == 62 * MIB
    assert smallest_capacity_bytes(events) == 32 * MIB


def test_settings_side_by_side_say_what_each_alone_does():
    events = [("a", 9 * 2**20, ""), ("b", 12 * 2**20, ""), ("a", -9 * 2**20, "")]
    table = compare_settings("two tensors", events, {"default": {}, "expandable": {"expandable_segments": True}})
    table = str(table).splitlines()
    assert table[0].split() == ["two", "tensors", "reserved", "smallest", "GPU"]
    assert table[1].split() == ["default", "32.00", "MiB", "32.00", "MiB"]
    expandable = replay(events, expandable_segments=True).peak_reserved_bytes // MIB
    assert table[2].split()[:3] == ["expandable", f"{expandable}.00", "MiB"]
    assert table[3].split() == ["(its", "tensors)", "21.00", "MiB"]
