"""The caching allocator worked by hand: each number follows from the rules in the comment beside it."""

import pytest

import dsmem
from dsmem.memory.allocator import CachingAllocator, ReplayedOutOfMemory, rounded_bytes, segment_bytes

MIB = 2**20
EXPANDABLE = {"expandable_segments": True}


def taken(allocator, *mib, stream=0):
    """Blocks of so many MiB, allocated in this order."""
    return [allocator.malloc(round(size * MIB), stream=stream) for size in mib]


def counts(allocator):
    return allocator.requested, allocator.allocated, allocator.reserved


# ---- worked by hand ----


def test_ten_allocations_by_hand():
    allocator = CachingAllocator()
    steps = []

    def malloc(nbytes):
        block = allocator.malloc(nbytes)
        steps.append((allocator.allocated, allocator.reserved))
        return block

    def free(block):
        allocator.free(block)
        steps.append((allocator.allocated, allocator.reserved))

    malloc(1_000)  # 1: 2 blocks of 512 = 1,024, in a segment A of 2 MiB = 2,097,152
    malloc(MIB)  # 2: 1,048,576 fits behind it: 2,096,128 are free in A
    malloc(MIB)  # 3: but now 1,047,552 are, so a segment B of 2 MiB
    malloc(MIB + 1)  # 4: 1,049,088 is large: a segment C of 20 MiB = 20,971,520
    fifth = malloc(9 * MIB)  # 5: 9,437,184 fits in the 19,922,432 that are free in C
    malloc(11 * MIB)  # 6: 10,485,248 are free in C: a segment D of 12 MiB; the rest, 1 MiB, stays with the block
    free(fifth)  # merges with the rest of C to 19,922,432 again
    malloc(10 * MIB)  # 7: fits there; 19,922,432 - 10,485,760 = 9,436,672 are left
    malloc(9 * MIB)  # 8: 512 bytes more than are left: a segment E of 20 MiB
    malloc(9 * MIB - 512)  # 9: exactly what is left in C, which fits better than the 11,534,336 in E
    malloc(11 * MIB)  # 10: exactly what is left in E
    assert steps == [
        (1_024, 2_097_152),
        (1_049_600, 2_097_152),
        (2_098_176, 4_194_304),
        (3_147_264, 25_165_824),
        (12_584_448, 25_165_824),
        (25_167_360, 37_748_736),  # 12,582,912 more for 11,534,336 asked
        (15_730_176, 37_748_736),
        (26_215_936, 37_748_736),
        (35_653_120, 58_720_256),
        (45_089_792, 58_720_256),
        (56_624_128, 58_720_256),
    ]
    # 1,000 + 2 x 1 MiB + (1 MiB + 1) + 11 + 10 + 9 + (9 MiB - 512) + 11
    assert allocator.requested == 53 * MIB + 1_000 + 1 - 512
    assert [[block.size for block in segment.blocks()] for segment in allocator.segments] == [
        [1_024, 1_048_576, 1_047_552],
        [1_048_576, 1_048_576],
        [1_049_088, 10_485_760, 9_436_672],
        [12_582_912],
        [9_437_184, 11_534_336],
    ]


@pytest.mark.parametrize(
    ("nbytes", "block", "rest"),
    [
        (11 * MIB, 12 * MIB, 0),  # 1 MiB would be left: not split, and the whole block counts as allocated
        (11 * MIB - 512, 11 * MIB - 512, MIB + 512),  # 512 bytes more: split
    ],
)
def test_large_blocks_are_split_where_more_than_1_mib_is_left(nbytes, block, rest):
    allocator = CachingAllocator()
    (whole,) = taken(allocator, 12)
    allocator.free(whole)
    assert allocator.malloc(nbytes).size == block
    assert (counts(allocator), allocator.largest_free_bytes) == ((nbytes, block, 12 * MIB), rest)


def test_small_blocks_are_split_where_512_bytes_are_left():
    allocator = CachingAllocator()
    allocator.malloc(MIB)
    allocator.malloc(MIB - 512)
    assert allocator.largest_free_bytes == 512  # 2 MiB - 1 MiB - (1 MiB - 512)
    allocator.malloc(1)
    assert (allocator.allocated, allocator.reserved, allocator.largest_free_bytes) == (2 * MIB, 2 * MIB, 0)


@pytest.mark.parametrize(
    ("nbytes", "reserved"),
    [
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),  # rounded first, compared then
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB - 511, 10 * MIB),  # rounds to 10 MiB
        (12 * MIB, 12 * MIB),
        (12 * MIB + 1, 14 * MIB),
    ],
)
def test_the_segment_depends_on_the_rounded_size(nbytes, reserved):
    allocator = CachingAllocator()
    allocator.malloc(nbytes)
    assert allocator.reserved == reserved


def test_the_segment_of_middling_blocks_can_be_set():
    allocator = CachingAllocator(large_segment_size_mb=11)
    taken(allocator, 5, 6, 2, 30)  # 5 + 6 fill 11 MiB; 2 opens the next 11; 30 has its own
    assert allocator.reserved == (11 + 11 + 30) * MIB


def test_the_best_fit_is_taken_and_of_equals_the_lowest_address():
    allocator = CachingAllocator()
    blocks = taken(allocator, 30, 14, 22, 14)
    addresses = [block.address for block in blocks]
    for block in blocks:
        allocator.free(block)
    assert [block.address for block in taken(allocator, 13, 13, 13, 13)] == [
        addresses[1],  # 13 fits best in 14, whose rest of 1 MiB stays with it
        addresses[3],
        addresses[2],  # then in 22, and not in 30, which was freed first
        addresses[0],  # then in 30, as 22 - 13 = 9 are left
    ]
    assert allocator.allocated == (14 + 14 + 13 + 13) * MIB


def test_small_and_large_blocks_do_not_share_memory():
    allocator = CachingAllocator()
    (large,) = taken(allocator, 10)
    allocator.free(large)
    taken(allocator, 1, 1)
    assert allocator.reserved == 12 * MIB  # the 10 MiB lie free
    allocator = CachingAllocator()
    (small,) = taken(allocator, 1)
    allocator.free(small)
    taken(allocator, 1.5)
    assert allocator.reserved == 22 * MIB  # the 2 MiB do


def test_a_block_goes_back_to_the_stream_it_came_from():
    allocator = CachingAllocator()
    (block,) = taken(allocator, 10, stream=0)
    allocator.free(block)
    taken(allocator, 10, stream=1)
    assert allocator.reserved == 20 * MIB
    taken(allocator, 10, stream=0)
    assert allocator.reserved == 20 * MIB


def test_only_segments_without_a_tensor_go_back_when_the_cache_is_emptied():
    allocator = CachingAllocator()
    first, _, whole = taken(allocator, 5, 5, 30)
    allocator.free(first)
    allocator.free(whole)
    allocator.empty_cache()
    assert counts(allocator) == (5 * MIB, 5 * MIB, 20 * MIB)


def test_a_full_card_gets_back_all_that_is_cached():
    allocator = CachingAllocator(capacity=40 * MIB)
    first, second, _ = taken(allocator, 10, 10, 20)
    allocator.free(first)
    allocator.free(second)
    taken(allocator, 12)  # fits in neither; 52 MiB do not fit on the GPU; 20 + 12 do
    assert counts(allocator) == (32 * MIB, 32 * MIB, 32 * MIB)


def test_a_segment_that_holds_one_tensor_keeps_the_card_full():
    allocator = CachingAllocator(capacity=40 * MIB)
    blocks = taken(allocator, 5, 15, 19.5)  # 15 MiB behind the 5 of the first segment; 20 MiB for the third
    allocator.free(blocks[1])
    with pytest.raises(
        ReplayedOutOfMemory, match="no room for 16,777,216 bytes: 41,943,040 of 41,943,040 are reserved"
    ):
        taken(allocator, 16)
    assert counts(allocator) == (24.5 * MIB, 25 * MIB, 40 * MIB)  # the failure costs nothing that is in use
    taken(allocator, 15)


def test_a_card_may_be_filled_to_the_last_byte():
    taken(CachingAllocator(capacity=30 * MIB), 30)
    with pytest.raises(ReplayedOutOfMemory):
        taken(CachingAllocator(capacity=30 * MIB - 1), 30)


# ---- with a split limit ----


def test_oversize_blocks_are_neither_split_nor_lent_to_smaller_tensors():
    allocator = CachingAllocator(max_split_size_mb=20)
    (block,) = taken(allocator, 30)
    allocator.free(block)
    taken(allocator, 19)  # below the limit: may not have the 30, opens a segment of its own
    assert counts(allocator) == (19 * MIB, 20 * MIB, 50 * MIB)
    taken(allocator, 20)  # at the limit: takes all 30
    assert counts(allocator) == (39 * MIB, 50 * MIB, 50 * MIB)


@pytest.mark.parametrize(
    ("limit", "nbytes", "reserved"),
    [
        (20, 22 * MIB, 42 + 22),  # 42 - 22 = 20 MiB would be wasted, a whole segment: not lent
        (20, 22 * MIB + 1, 42),  # 512 bytes less: lent
        (30, 11 * MIB, 42 + 12),  # below the limit
        (30, 30 * MIB, 42),  # 12 of 30 MiB wasted
    ],
)
def test_an_oversize_block_may_waste_less_than_one_segment(limit, nbytes, reserved):
    allocator = CachingAllocator(max_split_size_mb=limit, large_segment_size_mb=limit)
    (block,) = taken(allocator, 42)
    allocator.free(block)
    allocator.malloc(nbytes)
    assert allocator.reserved == reserved * MIB


def test_a_full_card_gets_back_the_one_oversize_block_that_suffices():
    allocator = CachingAllocator(capacity=112 * MIB, max_split_size_mb=20)
    small, *large = taken(allocator, 1, 30, 70)
    for block in (small, *large):
        allocator.free(block)
    taken(allocator, 45)  # wastes 25 of the 70; 2 + 30 + 70 + 46 do not fit; without the 70 they do
    assert allocator.reserved == (2 + 30 + 46) * MIB


def test_a_full_card_gets_back_oversize_blocks_from_the_largest_on_until_they_suffice():
    allocator = CachingAllocator(capacity=100 * MIB, max_split_size_mb=20)
    blocks = taken(allocator, 1, 22, 30, 40)
    for block in blocks:
        allocator.free(block)
    taken(allocator, 45)  # 40, then 30: 70 are enough; the 22 and the small segment stay
    assert allocator.reserved == (2 + 22 + 46) * MIB


def test_where_the_oversize_blocks_do_not_suffice_all_goes_back():
    allocator = CachingAllocator(capacity=60 * MIB, max_split_size_mb=20)
    for block in taken(allocator, 1, 30):
        allocator.free(block)
    taken(allocator, 40)  # 30 is less than 40: also the small segment goes, though 2 + 40 would fit
    assert allocator.reserved == 40 * MIB


# ---- expandable segments ----


def test_an_expandable_segment_grows_over_the_end_of_its_free_block():
    allocator = CachingAllocator(**EXPANDABLE)
    first, second = taken(allocator, 15, 30)  # a page of 20, of which 5 are left; 25 are missing: 2 pages
    assert second.address == first.address + 15 * MIB
    assert counts(allocator) == (45 * MIB, 45 * MIB, 60 * MIB)
    allocator.free(second)
    taken(allocator, 46)  # 45 are free at the end: one page more
    assert (allocator.reserved, len(allocator.segments)) == (80 * MIB, 1)


def test_small_blocks_have_an_expandable_segment_of_their_own_with_small_pages():
    allocator = CachingAllocator(**EXPANDABLE)
    taken(allocator, 1, 1, 1, 2)  # 3 MiB: 2 pages of 2 MiB
    assert (allocator.reserved, len(allocator.segments)) == ((4 + 20) * MIB, 2)
    taken(allocator, 1, stream=1)
    assert (allocator.reserved, len(allocator.segments)) == ((4 + 20 + 2) * MIB, 3)


def test_all_that_is_left_is_split_off_in_an_expandable_segment():
    allocator = CachingAllocator(**EXPANDABLE, max_split_size_mb=20)
    allocator.malloc(20 * MIB - 512)
    assert (allocator.allocated, allocator.largest_free_bytes) == (20 * MIB - 512, 512)


def test_a_hole_is_filled_before_the_end_that_can_grow():
    allocator = CachingAllocator(**EXPANDABLE)
    _, hole, _ = taken(allocator, 2, 8, 4)  # 2 used, 8, 4 used, 6 at the end
    allocator.free(hole)
    (block,) = taken(allocator, 5)  # 6 fits better than 8, but counts as all that it can grow to
    assert block.address == hole.address


def test_the_smaller_of_two_holes_is_filled():
    allocator = CachingAllocator(**EXPANDABLE)
    _, large, _, small, _ = taken(allocator, 2, 8, 2, 6, 2)
    allocator.free(large)
    allocator.free(small)
    assert taken(allocator, 5)[0].address == small.address


def test_an_oversize_block_at_the_end_is_taken_all_the_same():
    allocator = CachingAllocator(**EXPANDABLE, max_split_size_mb=20)
    (block,) = taken(allocator, 45)
    allocator.free(block)
    taken(allocator, 5)  # not lent as cached, but found where the segment would grow
    assert counts(allocator) == (5 * MIB, 5 * MIB, 60 * MIB)


def test_only_whole_pages_go_back_when_the_cache_is_emptied():
    allocator = CachingAllocator(**EXPANDABLE)
    first, middle, last = taken(allocator, 15, 50, 15)  # pages at 0, 20, 40, 60; free from 15 to 65
    allocator.free(middle)
    allocator.empty_cache()
    assert counts(allocator) == (30 * MIB, 30 * MIB, 40 * MIB)  # pages 20 and 40 are gone
    assert allocator.largest_free_bytes == 5 * MIB
    (block,) = taken(allocator, 47)  # lowest address with room: pages 20 and 40 again, with the 5 on both sides
    assert (block.address, allocator.reserved) == (first.address + 15 * MIB, 80 * MIB)
    allocator.free(block)
    allocator.free(first)
    allocator.free(last)
    allocator.empty_cache()
    assert (allocator.reserved, allocator.segments) == (0, {})


def test_a_full_card_gets_back_the_free_pages_of_all_streams():
    allocator = CachingAllocator(**EXPANDABLE, capacity=60 * MIB)
    taken(allocator, 20, 10)
    (other,) = taken(allocator, 20, stream=1)
    allocator.free(other)
    with pytest.raises(ReplayedOutOfMemory):
        taken(allocator, 31)  # 10 are free, 21 are missing: 2 pages, but one is all that can go back
    assert counts(allocator) == (30 * MIB, 30 * MIB, 40 * MIB)
    taken(allocator, 30)
    assert counts(allocator) == (60 * MIB, 60 * MIB, 60 * MIB)


def test_a_second_segment_begins_where_the_first_has_no_addresses_in_a_row():
    allocator = CachingAllocator(**EXPANDABLE, capacity=80 * MIB)  # addresses for 9/8 of 80, so 5 pages of 20
    first, _, third, _ = taken(allocator, 20, 20, 20, 20)
    allocator.free(first)
    allocator.free(third)
    taken(allocator, 40)  # 2 pages go back, but not in a row, and one was never filled
    assert (allocator.reserved, len(allocator.segments)) == (80 * MIB, 2)


# ---- refusals ----


@pytest.mark.parametrize(
    "conf",
    [
        {"large_segment_size_mb": 10},
        {"max_split_size_mb": 19},
        {"max_split_size_mb": 39, "large_segment_size_mb": 40},
        {"max_split_size_mb": 0},
    ],
)
def test_settings_that_torch_refuses_are_refused_by_name(conf, refuses):
    name, value = next(iter(conf.items()))
    refuses(lambda: CachingAllocator(**conf), f"{name}={value} ")


def test_the_smallest_settings_that_torch_takes_are_taken():
    CachingAllocator(large_segment_size_mb=11, max_split_size_mb=11)


def test_nothing_to_allocate_and_a_second_free_are_refused(refuses):
    allocator = CachingAllocator()
    refuses(lambda: allocator.malloc(0), "nbytes=0", "at least 1")
    block = allocator.malloc(1)
    allocator.free(block)
    refuses(lambda: allocator.free(block), "block", "is free")
    assert counts(allocator) == (0, 0, 2 * MIB)


@pytest.mark.parametrize("nbytes", [1, 512, 1000, MIB, MIB + 1, 9 * MIB, 10 * MIB - 512, 10 * MIB - 511, 12 * MIB + 1])
def test_the_formula_of_a_segment_is_what_a_first_tensor_reserves(nbytes):
    allocator = CachingAllocator()
    allocator.malloc(nbytes)
    assert segment_bytes(nbytes) == allocator.reserved


def test_the_rounding_is_shown_as_an_equation():
    assert "512" in dsmem.show(rounded_bytes).latex
