"""GPUs by name, and the one meaning of `capacity=`."""

import pytest

import dsmem
from dsmem.config.hardware import GPUS, capacities


def test_every_gpu_says_less_than_a_gib_on_its_box_would_be_and_is_found_by_its_name():
    for name, gpu in GPUS.items():
        assert GPUS[name.lower().replace(" ", "-")] is gpu and gpu.name == name
        assert gpu.bandwidth_bytes_per_s > 1e11
        if gpu.usable_bytes:
            assert gpu.usable_bytes < gpu.box_gb * 2**30
            low, high = gpu.usable_bytes_range or (gpu.usable_bytes,) * 2
            assert low <= gpu.usable_bytes <= high


@pytest.mark.parametrize(
    ("name", "nbytes"),
    [("T4", 15_642_329_088), ("RTX 4090", 25_250_627_584), ("H100", 85_028_896_768), ("A100 80 GB", 84_987_740_160)],
)
def test_a_gpu_has_the_memory_that_its_device_reports(name, nbytes):
    assert dsmem.GPUS[name].usable_bytes == nbytes


@pytest.mark.parametrize(("name", "words"), [("T5", "T4"), ("A100", "A100 40 GB, A100 80 GB"), ("", "T4"), (3, "T4")])
def test_a_name_that_is_unknown_or_not_clear_is_refused_with_the_way_on(name, words, refuses):
    refuses(lambda: GPUS[name], repr(name), words)
    with pytest.raises(KeyError):
        _ = GPUS[name]


@pytest.mark.parametrize(
    ("capacity", "found"),
    [
        (None, {}),
        ("t4", {"T4": 15_642_329_088}),
        (["T4", "2 x T4"], {"T4": 15_642_329_088, "2 × T4": 31_284_658_176}),
        (("mine", 5), {"mine": 5}),
        ({"a": 1, "b": "24 GiB"}, {"a": 1, "b": 24 * 2**30}),
        (("mine", "24 GB"), {"mine": 24 * 10**9}),
        (GPUS["T4"], {"T4": 15_642_329_088}),
    ],
)
def test_a_capacity_has_many_forms_and_one_meaning(capacity, found):
    assert capacities(capacity) == found


@pytest.mark.parametrize(
    "capacity", [5, {"a": -1}, {"a": "24"}, {"a": 0}, ("a", 1.5), "Jetson AGX Orin 32 GB", "0 x T4", [1], object()]
)
def test_what_is_no_capacity_is_refused(capacity, refuses):
    refuses(lambda: capacities(capacity))
