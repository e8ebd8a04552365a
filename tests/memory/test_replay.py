"""The allocator's rules by hand, and the replay of a ledger on it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import architectures, workloads

import dsmem
from dsmem.memory.allocator import ReplayedOutOfMemory, rounded_bytes
from dsmem.memory.replay import replay, smallest_capacity_bytes

MIB = 2**20
ARCH = dsmem.Architecture.from_config("deepseek-r1-distill-qwen-1.5b").scaled(num_hidden_layers=2)


@pytest.mark.parametrize(
    ("nbytes", "block"),
    [(0, 0), (1, 512), (511, 512), (512, 512), (513, 1024), (1_000_000, 1_000_448), (2 * MIB, 2 * MIB)],
)
def test_a_block_is_a_whole_number_of_512_bytes(nbytes, block):
    assert rounded_bytes(nbytes) == block


def test_blocks_of_an_array_are_rounded_one_by_one():
    assert rounded_bytes(np.array([0, 1, 600])).tolist() == [0, 512, 1024]


@given(st.integers(0, 2**50))
def test_rounding_adds_less_than_a_block_and_rounding_twice_adds_nothing(nbytes):
    block = rounded_bytes(nbytes)
    assert nbytes <= block < nbytes + 512
    assert rounded_bytes(block) == block


@pytest.mark.parametrize(
    ("nbytes", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),  # small blocks share segments of 2 MiB
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),  # larger ones share segments of 20 MiB
        (9 * MIB, 9 * MIB, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),  # from 10 MiB on each has its own, of whole 2 MiB
        (11 * MIB, 12 * MIB, 12 * MIB),  # a rest of at most 1 MiB is not split off
        (10 * MIB + 512, 10 * MIB + 512, 12 * MIB),  # a larger rest is
    ],
)
def test_one_tensor_takes_the_block_and_the_segment_that_pytorch_gives_it(nbytes, allocated, reserved):
    result = replay([("a", nbytes, "a")])
    assert (result.peak_allocated_bytes, result.peak_reserved_bytes) == (allocated, reserved)


def test_a_freed_block_is_used_again_before_a_new_segment_is_taken():
    result = replay([("a", 10 * MIB, "a"), ("a", -10 * MIB, "a"), ("b", 10 * MIB, "b")])
    assert result.allocated_bytes.tolist() == [10 * MIB, 0, 10 * MIB]
    assert result.reserved_bytes.tolist() == [10 * MIB] * 3


def test_a_tensor_of_no_bytes_takes_no_block():
    result = replay([("a", 0, "a"), ("a", 0, "a")])
    assert (result.peak_allocated_bytes, result.peak_reserved_bytes) == (0, 0)


def test_what_the_libraries_keep_is_taken_first():
    events = [("a", 512, "a"), ("a", -512, "a")]
    assert replay(events, workspace_bytes=8_519_680).allocated_bytes.min() == 8_519_680
    assert replay(events, workspace_bytes=8_519_680).peak_allocated_bytes == 8_519_680 + 512


def test_what_the_libraries_keep_may_be_several_blocks_each_in_its_own_pool():
    events = [("a", MIB, "a"), ("a", -MIB, "a")]
    kept = replay(events, workspace_bytes=(8_519_680, MIB))
    assert kept.peak_allocated_bytes == 8_519_680 + 2 * MIB
    assert kept.peak_reserved_bytes == 20 * MIB + 2 * MIB  # both small ones fit into one small segment
    assert replay(events, workspace_bytes=8_519_680 + MIB).peak_reserved_bytes == 20 * MIB + 2 * MIB
    assert replay([], workspace_bytes=(8_519_680, MIB)).peak_reserved_bytes == 22 * MIB
    assert replay([], workspace_bytes=(0, 0)).events == replay([], workspace_bytes=()).events == []


@pytest.mark.parametrize("wrong", [(-1,), (512, 1.5), [512]])
def test_blocks_that_are_no_bytes_are_refused(wrong, refuses):
    refuses(lambda: replay([], workspace_bytes=wrong), "workspace_bytes", "whole number")


@pytest.mark.parametrize("unit", [1, 512, 1000, 3 * MIB, 7 * MIB + 1, 30 * MIB, 100 * MIB])
@pytest.mark.parametrize("sizes", [(10 * MIB,), (10 * MIB, 12 * MIB, 1), (MIB, 30 * MIB)])
def test_the_smallest_capacity_suffices_and_one_unit_less_does_not(sizes, unit):
    """Whatever the unit, and also where it does not divide the peak."""
    events = [(size, size, "") for size in sizes] + [(size, -size, "") for size in sizes]
    least = smallest_capacity_bytes(events, unit)
    assert least % unit == 0
    assert replay(events, capacity=least).peak_reserved_bytes <= least < replay(events).peak_reserved_bytes + unit
    if least > unit:
        with pytest.raises(ReplayedOutOfMemory):
            replay(events, capacity=least - unit)


def test_the_replay_of_nothing_is_nothing():
    with dsmem.Ledger() as ledger:
        pass
    result = dsmem.replay(ledger)
    assert (result.peak_allocated_bytes, result.peak_reserved_bytes, result.rounding_bytes) == (0, 0, 0)


@given(architectures(), workloads())
@settings(max_examples=30)
def test_the_replay_of_a_pass_holds_what_its_ledger_holds_and_more(arch, work):
    run = dsmem.measure(arch, work)
    live = run.ledger.timeline().live_bytes
    assert np.array_equal(run.replay.requested_bytes, live)
    assert (run.replay.allocated_bytes >= live).all()
    assert (run.replay.reserved_bytes >= run.replay.allocated_bytes).all()
    assert run.replay.peak_allocated_bytes == run.ledger.peak_bytes + run.replay.rounding_bytes
    assert (run.replay.allocated_bytes % 512 == 0).all()
    assert (np.diff(run.replay.reserved_bytes) >= 0).all()  # without a limit nothing goes back to the GPU


def test_the_blocks_of_a_pass_sum_to_what_is_allocated():
    run = dsmem.measure(ARCH, dsmem.Workload(2, 256))
    step = int(run.replay.reserved_bytes.argmax())
    blocks = [block for segment in run.replay.segments() for block in segment]
    assert sum(size for size, _ in blocks) == run.replay.reserved_bytes[step]
    assert sum(size for size, label in blocks if label) == run.replay.allocated_bytes[step]


def test_the_same_pass_replays_the_same_on_fake_and_real_tensors():
    work = dsmem.Workload(1, 8, weights="bf16")
    arch = ARCH.scaled(vocab_size=1000)
    fake, real = (dsmem.measure(arch, work, device=device).replay for device in ("fake", "cpu"))
    assert fake.peak_allocated_bytes == real.peak_allocated_bytes
    assert fake.peak_reserved_bytes == real.peak_reserved_bytes
