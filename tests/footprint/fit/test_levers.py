"""Levers: what each is said to leave is the footprint of the pass, or the step, with that one thing changed."""

import ast

import numpy as np
import pytest

import dsmem
from dsmem.footprint.fit.levers import KINDS, levers

SEVEN = "deepseek-r1-distill-qwen-7b"


def change(lever):
    """The fields that a lever's words name."""
    return {word.arg: ast.literal_eval(word.value) for word in ast.parse(f"f({lever})").body[0].value.keywords}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (SEVEN, {"batch": 4, "seq_len": 1024, "weights": "fp16", "attention": "eager"}),
        ("deepseek-r1", {"batch": 8, "seq_len": 4096, "phase": "decode", "weights": "fp8", "mla_cache": "expanded"}),
    ],
)
def test_a_pass_with_one_thing_changed(model, fields):
    table = levers(model, **fields)
    before = dsmem.inference_footprint(model, **fields).total_bytes
    saved = [before - dsmem.inference_footprint(model, **fields | change(lever)).total_bytes for lever, *_ in table]
    assert table.column("saved") == saved and saved == sorted(saved, reverse=True) and saved[-1] > 0
    assert {row[1] for row in table} <= set(KINDS) and len(table) >= 5
    assert all(left + gone == before and share == gone / before for _, _, left, gone, share in table)


def test_a_step_with_one_thing_changed():
    fields = {"batch": 4, "seq_len": 512}
    table = levers("qwen2.5-0.5b", training="adamw", **fields)
    before = dsmem.training_footprint("qwen2.5-0.5b", **fields).total_bytes
    for lever, _, _, saved, _ in table:
        after = dsmem.training_footprint("qwen2.5-0.5b", **fields | change(lever)).total_bytes
        assert saved == before - after > 0
    assert "checkpointing='full'" in table.column("lever")


def test_what_is_weighed_is_one_pass(refuses):
    refuses(lambda: levers(SEVEN, batch=np.array([1, 2])), "arrays", "one number")
    refuses(lambda: levers("no-such-model"), "no-such-model")
    for ranks in ("2", 0, 1, None):
        refuses(lambda ranks=ranks: levers("gpt2", ranks=ranks), f"ranks={ranks!r}")
    assert levers("gpt2", training=False).rows == levers("gpt2").rows


def test_two_sequences_of_two_tokens_have_nothing_to_halve_further():
    assert not [lever for lever, *_ in levers("qwen2.5-0.5b", training=True, batch=1, seq_len=2) if "seq_len" in lever]
