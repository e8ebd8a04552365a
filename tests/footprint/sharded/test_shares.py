"""What each rank holds, against torch's own sharding on ranks that one process plays, and against others' logs."""

import math
import time
import warnings

import pytest
import torch
from one_rank import rank_of
from small_configs import SMALL, TINY, TINY_LATENT
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import dsmem
from dsmem import formulas
from dsmem.config.ranks import rank_architecture
from dsmem.config.sharding import Sharding
from dsmem.footprint.parameters import tensors
from dsmem.footprint.sharded.shares import rank_gradients, rank_parameters, rank_states
from dsmem.footprint.stored import cache_bytes, weight_bytes

with warnings.catch_warnings():  # its neighbours use torch.jit, which is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.distributed.optim import ZeroRedundancyOptimizer

UNEVEN = TINY | {"vocab_size": 101, "intermediate_size": 90}
FP32 = {"weights": "fp32"}
READ = [
    name for name in SMALL if name not in ("falcon", "qwen3_next", "nemotron_h", "llama4_text", "qwen3_5", "gemma4")
]


def decoder(config):
    return dsmem.build_model(dsmem.Architecture.of(config), "fp32", "cpu").requires_grad_(True)


def local(tensor):
    return getattr(tensor, "_local_tensor", tensor)


def own_bytes(tensor):
    return local(tensor).untyped_storage().nbytes()


def total(held):
    return sum(held.values())


@pytest.mark.parametrize("name", READ)
def test_one_rank_alone_holds_the_decoder_s_parameters(name):
    arch = dsmem.Architecture.of(SMALL[name])
    model = dsmem.build_model(arch, "bf16", "fake")
    assert [(name, held.shape) for name, held in tensors(arch).items()] == [
        (name, tuple(p.shape)) for name, p in model.named_parameters()
    ]
    assert rank_parameters(arch, weights="bf16") == {name: p.nbytes for name, p in model.named_parameters()}


@pytest.mark.parametrize("weights", ["bf16", "int8", "int8_w8a8", "fp8", "int4"])
@pytest.mark.parametrize("name", ["deepseek-r1", "qwen2.5-0.5b", "gpt2", "qwen3-235b-a22b"])
def test_one_rank_alone_holds_every_weight_in_every_format(name, weights):
    assert total(rank_parameters(name, weights=weights)) == weight_bytes(name, weights)
    one = rank_architecture(dsmem.Architecture.of(name), Sharding())
    assert weight_bytes(one, weights) == weight_bytes(name, weights)


@pytest.mark.parametrize("config", [UNEVEN, TINY_LATENT | {"vocab_size": 101}], ids=["dense", "experts"])
@pytest.mark.parametrize("rank", [0, 2])
def test_stage_3_is_fsdp2_to_the_byte(config, rank):
    asked = {"sharding": {"data": 3, "zero": 3}, "rank": rank}
    with rank_of(3, rank) as mesh:
        model = decoder(config)
        for each in (*model.layers, model):
            fully_shard(each, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        model(torch.zeros(1, 4, dtype=torch.long)).float().sum().backward()
        optimizer.step()
        named = dict(model.named_parameters())
        assert rank_parameters(config, **FP32, **asked) == {name: own_bytes(p) for name, p in named.items()}
        states = {name: sum(map(own_bytes, optimizer.state[p].values())) for name, p in named.items()}
        assert rank_states(config, **FP32, **asked) == states
        grads = {local(p.grad).untyped_storage().data_ptr(): own_bytes(p.grad) for p in named.values()}
        assert total(rank_gradients(config, **FP32, **asked)) == sum(grads.values())


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_stage_1_is_torch_s_zero_redundancy_optimizer(rank):
    with rank_of(3, rank):
        model = decoder(UNEVEN)
        names = {id(p): name for name, p in model.named_parameters()}
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, foreach=False)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        steps = optimizer.optim.state
        states = {names[id(p)]: sum(map(own_bytes, steps[p].values())) for p in model.parameters() if p in steps}
    assert rank_states(UNEVEN, **FP32, sharding={"data": 3, "zero": 1}, rank=rank) == states


def test_flat_shares_are_even_and_leave_nothing_out():
    for stage in (1, 2):
        asked = {"sharding": {"data": 3, "zero": stage, "zero_unit": "flat"}}
        held = [rank_states(UNEVEN, **FP32, **asked, rank=rank) for rank in range(3)]
        n = dsmem.Architecture.of(UNEVEN).n_params
        assert {total(each) for each in held} == {8 * math.ceil(n / 3) + 4}
    whole, shared = (rank_gradients(UNEVEN, **FP32, sharding={"data": 3, "zero": stage}) for stage in (0, 2))
    assert total(whole) == 4 * n and total(shared) == 4 * math.ceil(n / 3)


def test_mixed_precision_adam_shares_out_as_zero_says():
    """16 bytes a parameter, by tensor, against the formula of the paper."""
    arch, n = "qwen2.5-0.5b", dsmem.Architecture.of("qwen2.5-0.5b").n_params
    stages = {1: formulas.zero1_states_bytes, 2: formulas.zero2_states_bytes}
    for stage, formula in stages.items():
        asked = {"sharding": {"data": 64, "zero": stage, "zero_unit": "flat"}, "precision": "master", "weights": "bf16"}
        gradients, states = (total(each(arch, **asked)) for each in (rank_gradients, rank_states))
        parameters = total(rank_parameters(arch, weights="bf16", sharding=asked["sharding"]))
        assert parameters + gradients + states - 4 == formula(n, 64, 16, 16, 96)


COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "q_b_proj", "kv_b_proj", "lm_head")
ROWS = ("o_proj", "down_proj")


@pytest.mark.parametrize("config", [TINY, TINY_LATENT | {"first_k_dense_replace": 2}], ids=["grouped", "latent"])
def test_tensor_ranks_cut_as_dtensor_does(config):
    with rank_of(2, 1) as mesh:
        model, plan = decoder(config), {"embed_tokens": RowwiseParallel()}
        for name, module in model.named_modules():
            last = name.rpartition(".")[2]
            if isinstance(module, torch.nn.Linear) and last in COLUMNS + ROWS:
                plan[name] = ColwiseParallel() if last in COLUMNS else RowwiseParallel()
        parallelize_module(model, mesh, plan)
        found = {name: tuple(local(p).shape) for name, p in model.named_parameters()}
    share = rank_architecture(dsmem.Architecture.of(config), Sharding(tensor=2), 1)
    assert {name: held.shape for name, held in tensors(share).items()} == found


def test_all_ranks_together_hold_the_model_and_what_stands_on_several():
    arch = dsmem.Architecture.of("deepseek-r1")
    sharding = Sharding(tensor=2, pipeline=4, data=4, expert=8)
    held = [rank_parameters(arch, weights="bf16", sharding=sharding, rank=rank) for rank in range(sharding.ranks)]
    experts = sum(nbytes for each in held for name, nbytes in each.items() if ".experts." in name)
    assert experts == 2 * sum(n for name, n in arch.census().items() if name.startswith("experts."))
    kept = sum(nbytes for each in held[::8] for name, nbytes in each.items() if "kv_a" in name)
    assert kept == sum(weights for name, weights in rank_parameters(arch, weights="bf16").items() if "kv_a" in name)


def test_stages_begin_with_the_embedding_and_end_with_the_head():
    first, last = (rank_parameters("llama-2-7b", sharding={"pipeline": 2}, rank=rank) for rank in (0, 1))
    assert "embed_tokens.weight" in first and not {"lm_head.weight", "norm.weight"} & set(first)
    assert {"lm_head.weight", "norm.weight"} < set(last) and "embed_tokens.weight" not in last
    tied = rank_parameters("qwen2.5-0.5b", sharding={"pipeline": 2}, rank=1)
    assert tied["lm_head.weight"] == 2 * 151_936 * 896  # a copy of the table of the first stage


def test_dense_layers_stay_with_the_first_stage():
    share = rank_architecture(dsmem.Architecture.of("deepseek-r1"), Sharding(pipeline=4), 1)
    assert share.expert_layers == list(range(15)) and share.num_hidden_layers == 15
    assert rank_architecture(share.whole, Sharding(pipeline=4), 0).expert_layers == list(range(3, 15))


def test_no_rank_s_latent_cache_shrinks_with_tensor_parallel():
    arch = dsmem.Architecture.of("deepseek-r1")
    alone = cache_bytes(arch, batch=8, seq_len=4096, weights="bf16")
    for tensor in (2, 8, 16, 128):
        share = rank_architecture(arch, Sharding(tensor=tensor), tensor - 1)
        assert cache_bytes(share, batch=8, seq_len=4096, weights="bf16") == alone


def test_fewer_key_value_heads_than_ranks_stand_on_several():
    arch = dsmem.Architecture.of("qwen3-235b-a22b")  # 4 heads
    sizes = {}
    for tensor in (1, 2, 4, 8, 16):
        share = rank_architecture(arch, Sharding(tensor=tensor), 0)
        sizes[tensor] = cache_bytes(share, seq_len=1000, weights="bf16")["kv_cache"]
    assert [sizes[1] / size for size in sizes.values()] == [1, 2, 4, 4, 4]


def test_a_rank_of_four_keeps_the_keys_that_an_engine_printed():
    """SGLang's and vLLM's log: Qwen3-235B-A22B on four ranks, 367,404 tokens: K takes 8.23 GiB of each."""
    share = rank_architecture(dsmem.Architecture.of("qwen3-235b-a22b"), Sharding(tensor=4))
    whole = cache_bytes(share, seq_len=367_404, weights="bf16")["kv_cache"]
    assert round(whole / 2 / 2**30, 2) == 8.23


def test_r1_on_eight_ranks():
    """vLLM on eight cards prints 79.41 GiB a card, each tensor in a block of its own."""
    cut = total(rank_parameters("deepseek-r1", weights="fp8", sharding=8))
    spread = total(rank_parameters("deepseek-r1", weights="fp8", sharding={"tensor": 8, "expert": 8}))
    assert cut == spread  # whole experts or an eighth of each: the same bytes
    assert 0 < 79.41 * 2**30 - cut < 0.002 * cut
    by_sequence = {"tensor": 8, "expert": 8, "attention": "data"}
    attention = total(rank_parameters("deepseek-r1", weights="fp8", sharding=by_sequence)) - cut
    replicas = total(rank_parameters("deepseek-r1", weights="fp8", sharding={"data": 8, "expert": 8})) - cut
    assert 0 < attention < replicas  # replicas keep the dense MLPs and the head whole, too


def test_an_uneven_vocabulary_is_filled_up():
    for tensor, multiple, rows in ((8, 1, 18_992), (8, 64, 18_992), (4, 1, 37_984)):
        sharding = Sharding(tensor=tensor, vocab_multiple=multiple)
        arch = dsmem.Architecture.of("qwen2.5-72b").scaled(vocab_size=151_936)
        assert rank_architecture(arch, sharding).vocab_size == rows
    arch = dsmem.Architecture.of("qwen2.5-72b").scaled(vocab_size=128_257)
    assert rank_architecture(arch, Sharding(tensor=8, vocab_multiple=1024)).vocab_size == 129_024 // 8


def test_a_cut_through_what_shares_a_scale_is_refused(refuses):
    refuses(
        lambda: rank_parameters("deepseek-r1", weights="fp8", sharding=32),
        "weights='fp8'",
        "128 numbers",
        "576 of 18432",
    )
    rank_parameters("deepseek-r1", weights="fp8", sharding={"tensor": 16, "expert": 16})
    refuses(
        lambda: rank_parameters("qwen2.5-0.5b", weights="int4", sharding=2), "weights='int4'", "448 of 896 in o_proj"
    )
    refuses(lambda: rank_parameters("qwen2.5-7b", weights="int8", sharding={"data": 2, "zero": 3}), "zero=3", "int8")
    refuses(lambda: rank_states("qwen2.5-7b", optimizer="lion", sharding=2), "optimizer='lion'", "adamw")


@pytest.mark.parametrize(
    "name, sharding",
    [
        ("deepseek-r1", Sharding(data=64, zero=3, pipeline=16, expert=64)),
        ("llama-1-65b", Sharding(data=1024, zero=3)),
        ("deepseek-r1", Sharding(tensor=8, expert=8)),
    ],
    ids=str,
)
def test_the_largest_worlds_are_listed_at_once(name, sharding):
    seconds = []
    for rank in (0, 1, sharding.ranks - 1):
        begun = time.perf_counter()
        rank_parameters(name, sharding=sharding, weights="bf16", rank=rank)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.1
