"""The loss of a chunk of tokens at a time: every height of the ledger; and what it saves."""

from unittest import mock

import numpy as np
import pytest
from small_configs import TINY
from steps import check

import dsmem
from dsmem.config.training import Training
from dsmem.config.workload import Workload
from dsmem.footprint.training import chunks
from dsmem.footprint.training.step import training_footprint

ONE_LAYER = dsmem.Architecture.of(TINY | {"num_hidden_layers": 1})
TIED = ONE_LAYER.scaled(tie_word_embeddings=True)
CASES = {  # architecture, batch, chunk, weights, how it trains
    "one sequence": (ONE_LAYER, 1, 3, "bf16", {}),
    "copied rows": (ONE_LAYER, 2, 3, "bf16", {}),
    "tied": (TIED, 2, 3, "fp32", {}),
    "one chunk": (ONE_LAYER, 2, 8, "bf16", {}),
    "a rest of one": (ONE_LAYER, 3, 7, "fp16", {"checkpointing": "full"}),
    "single tokens, used at once": (ONE_LAYER, 3, 1, "bf16", {"step_in_backward": True, "optimizer": "adamw"}),
    "tied, gradients in FP32": (TIED, 1, 4, "bf16", {"precision": "master", "gradients": "fp32"}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_height_of_a_step(name):
    arch, batch, chunk, weights, way = CASES[name]
    work = Workload(batch=batch, seq_len=8, weights=weights, cache="none")
    check(arch, work, Training.of({"optimizer": "sgd"} | way, loss_chunk=chunk))


@pytest.mark.parametrize("batch", [1, np.arange(2, 5)], ids=["one", "many"])
@pytest.mark.parametrize("arch", [ONE_LAYER, TIED], ids=["head", "tied"])
def test_chunks_that_are_counted_are_told_as_if_they_had_run(arch, batch):
    def every(p):
        return {number: number for number in range(-(-p.work.seq_len // p.training.loss_chunk))}

    fields = {"batch": batch, "seq_len": 50, "loss_chunk": 7, "step_in_backward": True}
    told = training_footprint(arch, **fields)
    with mock.patch.object(chunks, "chunks", every):
        whole = training_footprint(arch, **fields)
    assert list(told.instants) == list(whole.instants)
    for name, parts in told.instants.items():
        assert parts.keys() == whole.instants[name].keys()
        assert all(np.array_equal(nbytes, whole.instants[name][part]) for part, nbytes in parts.items()), name
    assert np.array_equal(told.total_bytes, whole.total_bytes)


def test_logits_of_a_chunk_are_all_that_is_there():
    fields = {"seq_len": 8192, "checkpointing": "full", "optimizer": "none"}
    whole, chunked = (training_footprint("qwen2.5-0.5b", loss_chunk=chunk, **fields) for chunk in (None, 1024))
    # in float32: the logits, their logarithms and one gradient
    wide = 4 * 151_936
    assert whole.total_bytes - chunked.total_bytes > 2 * 7 * 1024 * wide
    assert max(parts.get("log_probabilities", 0) for parts in chunked.instants.values()) == 1024 * wide


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"precision": "autocast"}, "autocast"),
        ({"lora_rank": 8}, "lora_rank=8"),
        ({"seq_len": np.array([64, 128])}, "lengths"),
        ({"batch": np.array([1, 2])}, "batches"),
    ],
)
def test_what_has_no_formula_is_refused(fields, word, refuses):
    refuses(
        lambda: training_footprint("qwen2.5-0.5b", **{"seq_len": 64, "loss_chunk": 8} | fields), "loss_chunk=8", word
    )
