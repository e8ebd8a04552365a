"""The kit stays quick enough for sliders; the limits leave room for a slow machine."""

import time

import bench


def test_a_million_footprints_take_less_than_three_seconds():
    totals, seconds = bench.timed(bench.million_footprints)
    assert totals.shape == (1000, 1000)
    assert seconds < 3


def test_the_pass_that_is_timed_is_the_predicted_one():
    work = bench.dsmem.Workload(4, 1024)
    assert bench.fake_pass() == bench.dsmem.inference_footprint(bench.ARCH, work).total_bytes


def test_v32_takes_less_than_three_seconds_folded_and_the_same_bytes_unfolded():
    bench.v32_pass(True, seq_len=8)  # imports
    start = time.process_time()  # of this process: other tests run beside it
    folded = bench.v32_pass(True)
    assert time.process_time() - start < 3
    assert folded == bench.v32_pass(False)
    peak, parts, cache, _ = folded
    assert parts["weight"] == 2 * 671_877_929_216 and sum(parts.values()) == peak
    assert sum(cache.values()) == 4096 * 85_888


def test_checkpointing_keeps_a_part_and_has_a_time():
    table = bench.checkpointing(depths=(2, 4))
    kept, time = ({row[:2]: row[column] for row in table} for column in (2, 6))
    for depth in (2, 4):
        assert kept[depth, "full"] < kept[depth, "selective"] < kept[depth, "none"]
        assert time[depth, "none"] == 1 and time[depth, "full"] > 0
    # of each layer more its input alone, 2 x 128 x 256 numbers
    assert kept[4, "full"] - kept[2, "full"] == 2 * 2 * 128 * 256 * 4


def test_the_bench_prints_seconds_for_each_question(capsys):
    bench.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 18 and sum(" s" in line for line in lines) >= 5
