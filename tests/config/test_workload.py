"""A workload changed in one field keeps its others, and what followed that field by default follows it still."""

import pytest

from dsmem import Workload


@pytest.mark.parametrize(
    ("work", "changes", "expected"),
    [
        (Workload(weights="fp16"), {"weights": "bf16"}, Workload(weights="bf16")),
        (Workload(weights="bf16"), {"weights": "int8"}, Workload(weights="int8")),
        (
            Workload(weights="int8", activations="bf16"),
            {"weights": "int8_w8a8"},
            Workload(weights="int8_w8a8", activations="bf16"),
        ),
        (Workload(weights="fp16", kv_cache="fp32"), {"batch": 8}, Workload(8, weights="fp16", kv_cache="fp32")),
        (Workload(4, 1024), {"phase": "decode"}, Workload(4, 1024, "decode")),
        (Workload(4, 1024, "decode"), {"seq_len": 64}, Workload(4, 64, "decode")),
        (Workload(4, 1024, "decode", cached_tokens=7), {"batch": 1}, Workload(1, 1024, "decode", cached_tokens=7)),
    ],
)
def test_a_change_is_followed_by_what_follows_by_default(work, changes, expected):
    assert work.changed(**changes) == expected


def test_a_change_that_is_not_allowed_is_refused(refuses):
    refuses(lambda: Workload().changed(batch=-1), "batch", "-1", "at least 1")
