"""Whatever a person may type in place of a number, a text or a picture is refused in one sentence that names it."""

import math

import numpy as np
import pytest

import dsmem
from dsmem import units
from dsmem.footprint import growth, stored
from dsmem.memory import CachingAllocator, compare_settings, host, replay
from dsmem.memory import smallest_capacity_bytes as smallest
from dsmem.plots import curves, memory
from dsmem.serving import requests

SMALL = "qwen2.5-0.5b"
EVENTS = [("a", 1000, "a"), ("a", -1000, "a")]
NOT_NUMBERS = (math.nan, math.inf, "8", None, [], object())
NOT_COUNTS = (*NOT_NUMBERS, -1, 1.5)
CALLS = {
    "nbytes gib": (units.gib, NOT_NUMBERS),
    "nbytes gb": (units.gb, NOT_NUMBERS),
    "nbytes format": (units.format_bytes, NOT_NUMBERS),
    "size parse": (units.parse_bytes, (*NOT_COUNTS, "nan GiB", "-1 GiB", "5 XB")),
    "size find": (lambda v: dsmem.find_tensor(v, SMALL), (*NOT_COUNTS, 0, "0.00 MiB", "-5 MiB")),
    "most": (lambda v: dsmem.find_tensor(512, SMALL, most=v), (*NOT_COUNTS, 0)),
    "nbytes malloc": (lambda v: CachingAllocator().malloc(v), (*NOT_COUNTS, 0)),
    "workspace_bytes": (lambda v: replay.replay(EVENTS, workspace_bytes=v), NOT_COUNTS),
    "unit": (lambda v: smallest(EVENTS, unit=v), (*NOT_COUNTS, 0)),
    "title settings": (lambda v: compare_settings(v, EVENTS, {}), (5, None, [], object())),
    "settings": (lambda v: compare_settings("under", EVENTS, v), (5, None, [], {"mine": 5})),
    "checkpoint_bytes": (lambda v: host.loading_bytes(v, 1), NOT_COUNTS),
    "checkpoint_bytes loaders": (host.compare_loaders, NOT_COUNTS),
    "num_workers": (lambda v: host.prefetch_bytes(v, 2, 3), NOT_COUNTS),
    "batch_bytes": (host.pinned_bytes, (*NOT_COUNTS, 0)),
    "count": (requests.request_mix, (*NOT_COUNTS, 0)),
    "sigma": (lambda v: requests.request_mix(3, sigma=v), (*NOT_NUMBERS, -1)),
    "seed": (lambda v: requests.request_mix(3, seed=v), NOT_COUNTS),
    "longest": (lambda v: requests.request_mix(3, longest=v), (*NOT_COUNTS, 1)),
    "lengths packed": (requests.packed_tokens, (*NOT_COUNTS, [1.5], [-3])),
    "lengths bucketed": (lambda v: requests.bucketed_tokens(v, 2), (*NOT_COUNTS, [math.nan])),
    "batch grow": (lambda v: requests.grow_cache(SMALL, v, 3, 2), (*NOT_COUNTS, 0)),
    "num_key_value_heads": (lambda v: growth.cache_kinds(SMALL, v), (*NOT_COUNTS, 0)),
    "layers": (lambda v: stored.model_rows({"latents": (1, 576)}, v, "bf16", 1, 1), NOT_COUNTS),
    "lengths growth": (lambda v: growth.cache_growth(SMALL, v, 5), NOT_COUNTS),
    "room": (lambda v: growth.cache_growth(SMALL, np.arange(3), v), NOT_COUNTS),
    "modules_to_not_convert": (lambda v: stored.weight_bytes(SMALL, "int8", modules_to_not_convert=v), (5, None, [5])),
    "title plot": (lambda v: memory.plot_stack({"a": {"b": 1}}, title=v), (5, [], object())),
    "ax plot": (lambda v: memory.plot_stack({"a": {"b": 1}}, ax=v), (5, "x", object())),
    "x curves": (lambda v: curves.plot_curves(v, {"a": [1, 2]}, xlabel="x"), (*NOT_NUMBERS, [math.nan, 1], ["a", "b"])),
    "curves": (lambda v: curves.plot_curves([1, 2], v, xlabel="x"), (5, [], "8")),
    "a seconds": (lambda v: curves.plot_seconds([1, 2], {"a": v}, xlabel="x"), ("8", None, [-1, 2], [math.nan, 1])),
}


@pytest.mark.parametrize(("call", "value"), [(name, value) for name, (_, values) in CALLS.items() for value in values])
def test_nonsense_is_refused_in_one_sentence(call, value, refuses):
    refuses(lambda: CALLS[call][0](value), call.split()[0])


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("name", 5),
        ("name", ""),
        ("width", True),
        ("width", math.nan),
        ("caption", 5),
        ("parameters", [1]),
        ("labels", 5),
        ("formats", "pdf"),
        ("formats", 5),
    ],
)
def test_nonsense_in_a_report_is_refused(argument, value, tmp_path):
    ax = memory.plot_stack({"a": {"b": 1}})
    with pytest.raises(ValueError, match=argument):
        dsmem.save_report(ax, **{"name": "peak", "folder": tmp_path, argument: value})


def test_differences_and_means_are_bytes_too():
    assert units.format_bytes(-3 * 2**20) == "-3.00 MiB"
    assert units.format_bytes(1536.5) == "1.50 KiB"
    assert units.gib(np.array([2**30, 2**31])).tolist() == [1, 2]
    assert units.gib(2**80) == 2**50
