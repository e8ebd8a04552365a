"""GPUs by name, and the one meaning of `capacity=`."""

import pytest

import dsmem
from dsmem.config.hardware import GPUS, INSTANCES, capacities, counted


def test_every_gpu_says_less_than_a_gib_on_its_box_would_be_and_is_found_by_its_name():
    for name, gpu in GPUS.items():
        assert GPUS[name.lower().replace(" ", "-")] is gpu and gpu.name == name
        assert gpu.bandwidth_bytes_per_s > 6e10 and gpu.source
        assert gpu.usable_bytes < gpu.box_gb * 2**30
        low, high = gpu.usable_bytes_range or (gpu.usable_bytes,) * 2
        assert low <= gpu.usable_bytes <= high


def test_of_shared_memory_a_gpu_gets_a_part():
    shared = [gpu for gpu in GPUS.values() if gpu.shared]
    assert {gpu.name.split()[0] for gpu in shared} == {"Jetson", "Apple"}
    # macOS: from two thirds to nine tenths, more of a larger machine
    shares = [gpu.usable_bytes / (gpu.box_gb * 2**30) for gpu in shared if gpu.name.startswith("Apple")]
    assert shares == sorted(shares) and 0.66 < shares[0] < shares[-1] < 0.91
    assert all(gpu.usable_bytes > 0.92 * gpu.box_gb * 2**30 for gpu in shared if gpu.name.startswith("Jetson AGX"))


def test_a_rented_machine_is_so_many_of_one_gpu():
    assert all(instance.gpu in GPUS and instance.count > 0 and instance.source for instance in INSTANCES.values())
    assert capacities("P4D.24xlarge") == {"p4d.24xlarge (8 × A100 40 GB)": 8 * 42_405_855_232}
    assert capacities("2 x p4de.24xlarge") == {"p4de.24xlarge (16 × A100 80 GB)": 16 * 84_987_740_160}
    assert capacities("g6.xlarge") == {"g6.xlarge (L4)": GPUS["L4"].usable_bytes}
    gpu, count, instance = counted("p5.48xlarge")
    assert (gpu.name, count, instance.host_bytes) == ("H100", 8, 2 * 2**40)


@pytest.mark.parametrize(
    ("name", "nbytes"),
    [("T4", 15_642_329_088), ("RTX 4090", 25_250_627_584), ("H100", 85_028_896_768), ("A100 80 GB", 84_987_740_160)],
)
def test_a_gpu_has_the_memory_that_its_device_reports(name, nbytes):
    assert dsmem.GPUS[name].usable_bytes == nbytes


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Tesla T4", "T4"),
        ("t4 16gb", "T4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("rtx 4060 ti", "RTX 4060 Ti 16 GB"),
        ("4060 Ti", "RTX 4060 Ti 16 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("a100-40g", "A100 40 GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("V100-SXM2-16GB", "V100"),
        ("Apple M3 Max 64", "Apple M3 Max 64 GB"),
    ],
)
def test_a_name_may_be_the_drivers_or_without_its_size(name, found):
    assert GPUS[name] is GPUS.named(name) is GPUS[found]


@pytest.mark.parametrize(
    "name", ["RTX 4060", "RTX 5070", "L40", "V100 32 GB", "T4 32GB", "H100 NVL", "A100", "B", "24 GiB"]
)
def test_a_name_that_begins_like_another_is_not_the_other(name, refuses):
    """An RTX 4060 has half the memory of an RTX 4060 Ti of 16 GB."""
    refuses(lambda: GPUS[name], repr(name))
    assert GPUS.named(name) is None


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
    "capacity", [5, {"a": -1}, {"a": "24"}, {"a": 0}, ("a", 1.5), "p4d", "p9.metal", "0 x T4", "-2 x T4", [1], object()]
)
def test_what_is_no_capacity_is_refused(capacity, refuses):
    refuses(lambda: capacities(capacity))
