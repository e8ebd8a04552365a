"""The kit stays quick enough for sliders; the limits leave room for a slow machine."""

import bench


def test_a_million_footprints_take_less_than_three_seconds():
    totals, seconds = bench.timed(bench.million_footprints)
    assert totals.shape == (1000, 1000)
    assert seconds < 3


def test_the_pass_that_is_timed_is_the_predicted_one():
    work = bench.dsmem.Workload(4, 1024)
    assert bench.fake_pass() == bench.dsmem.inference_footprint(bench.ARCH, work).total_bytes


def test_the_bench_prints_seconds_for_each_question(capsys):
    bench.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and sum(" s" in line for line in lines) >= 5
