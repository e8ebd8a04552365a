"""Who cuts what over many ranks, which rank is which, and what cannot be cut."""

import numpy as np
import pytest

import dsmem
from dsmem.config.sharding import Sharding


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"data": 0}, ["data=0", "at least 1"]),
        ({"tensor": 2.0}, ["tensor=2.0"]),
        ({"zero": 4}, ["zero=4", "0, 1, 2, 3"]),
        ({"zero": True}, ["zero=True"]),
        ({"zero": 3.0}, ["zero=3.0"]),
        ({"attention": "latent"}, ["attention='latent'", "tensor, data"]),
        ({"sequence_parallel": 1}, ["sequence_parallel=1", "True, False"]),
        ({"data": 2, "expert": 3}, ["expert=3", "3 ranks", "the 2 of data x context x tensor"]),
        ({"tensor": 8, "expert": 8, "expert_tensor": 2}, ["expert=8", "expert_tensor=2", "16 ranks"]),
        ({"pipeline": 2, "microbatches": 3}, ["microbatches=3", "at most pipeline=2"]),
        ({"pipeline": 2, "stage_layers": (1, 2, 3)}, ["stage_layers", "3 stages", "2 of pipeline"]),
        ({"stage_layers": 5}, ["stage_layers=5"]),
    ],
)
def test_one_sentence_names_what_cannot_be(fields, words, refuses):
    refuses(lambda: Sharding(**fields), *words)


@pytest.mark.parametrize(
    "model, fields, words",
    [
        ("deepseek-r1-distill-qwen-7b", {"tensor": 8}, ["tensor=8", "num_attention_heads=28", "qwen-7b"]),
        ("gpt2-xl", {"tensor": 2}, ["tensor=2", "num_attention_heads=25"]),
        ("deepseek-r1", {"data": 3, "expert": 3}, ["expert=3", "n_routed_experts=256"]),
        ("llama-2-7b", {"data": 8, "expert": 8}, ["expert=8", "llama-2-7b has not"]),
        ("llama-2-7b", {"pipeline": 33}, ["pipeline=33", "num_hidden_layers=32"]),
        ("llama-2-7b", {"pipeline": 2, "stage_layers": (16, 15)}, ["31 layers", "the 32 of llama-2-7b"]),
        ("qwen3-30b-a3b", {"tensor": 32, "expert_tensor": 4}, []),
        ("deepseek-r1", {"tensor": 128, "expert": 128}, []),
    ],
)
def test_what_a_model_cannot_be_cut_into_is_refused(model, fields, words, refuses):
    arch = dsmem.Architecture.of(model)
    if words:
        refuses(lambda: Sharding(**fields).check(arch), *words)
    else:
        Sharding(**fields).check(arch)


def test_key_value_heads_divide_or_are_many_times_over_by_the_ranks(refuses):
    heads = {"num_attention_heads": 24, "num_key_value_heads": 6, "intermediate_size": 11_520}
    arch = dsmem.Architecture.of("llama-2-7b").scaled(**heads)
    for tensor in (1, 2, 3, 6, 12, 24):
        Sharding(tensor=tensor).check(arch)
    refuses(lambda: Sharding(tensor=4).check(arch), "tensor=4", "num_key_value_heads=6")
    Sharding(tensor=4, attention="data").check(arch)  # nothing of attention is cut


def test_whatever_says_a_sharding_is_taken(refuses):
    assert Sharding.of(np.int64(4)) == Sharding.of({"tensor": 4}) == Sharding(tensor=4)
    assert Sharding.of(Sharding(tensor=4), expert=4).expert_tensor == 1  # follows by default, again
    assert Sharding.of(Sharding(pipeline=4), pipeline=2).microbatches == 2
    refuses(lambda: Sharding.of("8"), "sharding='8'", "tensor ranks")
    refuses(lambda: Sharding.of({"tp": 8}), "field='tp'", "tensor")
    assert dsmem.Sharding is Sharding


def test_each_rank_has_a_place_of_its_own():
    sharding = Sharding(data=2, context=3, tensor=4, pipeline=2, expert=6, expert_tensor=2)
    places = [sharding.place(rank) for rank in range(sharding.ranks)]
    assert len(places) == 48 == len({(p.pipeline, p.data, p.context, p.tensor) for p in places})
    counts = {}
    for p in places:
        counts[p.pipeline, p.expert, p.expert_tensor] = counts.get((p.pipeline, p.expert, p.expert_tensor), 0) + 1
    assert set(counts.values()) == {2}  # each part of each share of experts stands on equally many ranks
    assert len(counts) == 2 * 6 * 2
    assert [p.tensor for p in places[:8]] == [0, 1, 2, 3] * 2  # neighbours cut a layer


def test_there_is_no_rank_beyond_the_last(refuses):
    refuses(lambda: Sharding(tensor=8).place(8), "rank=8", "8 ranks", "at most 7")


@pytest.mark.parametrize("layers, stages, counts", [(61, 16, [3] + [4] * 14 + [2]), (32, 4, [8] * 4), (10, 4, None)])
def test_stages_share_out_all_layers_in_order(layers, stages, counts):
    found = Sharding(pipeline=stages, stage_layers=(3, *[4] * 14, 2) if stages == 16 else ()).stages(layers)
    assert [index for stage in found for index in stage] == list(range(layers))
    if counts:
        assert [len(stage) for stage in found] == counts
    else:  # as vllm.distributed.utils.get_pp_indices spreads ten over four
        assert [len(stage) for stage in found] == [2, 3, 3, 2]
