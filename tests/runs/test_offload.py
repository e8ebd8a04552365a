"""Accelerate's offload of the small trained model: bytes lie where its map says, and the answer is the same."""

import pytest

from dsmem.runs.offload import run_offload, unrecognized


@pytest.fixture(scope="module")
def run():
    return run_offload({"cpu": 1_500_000})


def test_what_lives_where_is_what_the_device_map_says(run):
    assert set(run.device_map.values()) == {"cpu", "disk"}
    assert run.found == run.placed
    assert sum(run.placed.values()) == 2 * 1_368_576  # its parameters in BF16
    assert run.placed["cpu"] <= 1_500_000 and run.crossing_bytes == run.placed["disk"]


def test_a_pass_needs_what_stays_and_the_largest_tensor_twice_while_it_is_fetched(run):
    assert run.largest_bytes == 8 * 3 * 96 * 128 * 2  # one layer's experts
    largest = 8 * 2 * 96 * 128 * 2  # of which gate and up are one tensor: its file is mapped, then copied
    assert 0 < run.peak_bytes - run.resident_bytes - 2 * largest < 20_000


def test_the_answer_is_that_of_one_place_and_takes_longer_than_the_link_allows(run):
    assert run.equal
    assert run.seconds["offloaded"] > run.floor_seconds > 0
    assert "the same as in one place" in repr(run)


def test_a_model_that_fits_crosses_nothing():
    run = run_offload({"cpu": "10 MB"})
    assert run.equal and run.crossing_bytes == run.largest_bytes == 0 and set(run.placed) == {"cpu"}


def test_accelerates_default_leaves_the_routers_biases_on_disk_unread():
    assert not run_offload({"cpu": 1_500_000}, offload_buffers=False).equal


def test_a_name_is_no_config():
    assert unrecognized().startswith("ValueError: Unrecognized configuration class <class 'str'>")


def test_limits_that_are_none_are_refused(refuses):
    refuses(lambda: run_offload({"disk": 1}), "limits", "disk", "cpu")
    refuses(lambda: run_offload({"cpu": 0}), "limits", 0)
    refuses(lambda: run_offload({"cpu": 100}), "limits", "every module on disk")
    refuses(lambda: run_offload({99: "1 GiB"}), "GPU 99")
    for limits in ({}, None, "1 GiB"):
        refuses(lambda limits=limits: run_offload(limits), f"limits={limits!r}", "cpu")


def test_a_source_and_a_format_that_are_none_are_refused(refuses):
    refuses(lambda: run_offload({"cpu": "1 MiB"}, source="no-such-folder"), "no-such-folder", "config.json")
    refuses(lambda: run_offload({"cpu": "1 MiB"}, dtype="nope"), "dtype='nope'", "bf16")
