"""A training step on one rank of many: FSDP2's and DTensor's ledgers, and what the papers say that a rank keeps."""

import time

import pytest
from one_rank import rank_of
from small_configs import TINY, TINY_LATENT

from dsmem import Architecture, Sharding, Training, Workload, formulas
from dsmem.footprint.sharded.shares import rank_gradients, rank_parameters, rank_states
from dsmem.footprint.training.step import training_footprint
from dsmem.memory.ledger import Ledger
from dsmem.runs.ranks.plan import engine_of
from dsmem.runs.ranks.step import Job, train

# torch.distributed.optim uses torch.jit, which is deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

UNEVEN = TINY | {"vocab_size": 101, "intermediate_size": 90, "num_hidden_layers": 4}
LARGE = TINY | {"vocab_size": 2000, "num_hidden_layers": 3}
GPT = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_positions": 64, "vocab_size": 120}


def phases(config, spread, training, seq_len=8):
    """{phase: bytes} of the ledger of rank 1, and of the formula."""
    arch, spread, training = Architecture.of(config), Sharding.of(spread), Training.of(training)
    work = training.workload(Workload(batch=2, seq_len=seq_len, weights="fp32"))
    with rank_of(spread.ranks, 1):
        report = train(Job(arch, work, training, spread, engine_of(spread, arch)))
    ledger = Ledger.of(report.events, report.device)
    ledger.marks = dict(report.marks)
    return ledger.phases, training_footprint(arch, work, training, sharding=spread, rank=1).phases


FULL = {"checkpointing": "full", "optimizer_kernel": "loop"}


@pytest.mark.parametrize(
    "config, seq_len, training",
    [
        (UNEVEN, 8, {}),
        (UNEVEN, 64, FULL),
        (LARGE, 8, {}),
        (LARGE | {"tie_word_embeddings": True}, 8, {}),
        (TINY_LATENT, 64, {}),
        (TINY_LATENT, 8, FULL),
        (GPT | {"n_layer": 3}, 8, {}),
    ],
    ids=["uneven", "uneven, again", "large vocabulary", "tied", "experts", "experts, again", "gpt"],
)
def test_stage_3_is_fsdp2_phase_by_phase(config, seq_len, training):
    ledger, predicted = phases(config, {"data": 3, "zero": 3}, training, seq_len)
    assert predicted == ledger


def test_the_layers_of_tensor_ranks_are_dtensor_s():
    """With checkpointing the peak lies in a layer; at the ends DTensor gathers the logits and the table's gradient."""
    ledger, predicted = phases(TINY, {"tensor": 2}, {"checkpointing": "full"}, 64)
    assert predicted["backward"] == ledger["backward"]


@pytest.mark.parametrize("model", ["qwen2.5-0.5b", "gpt2", "deepseek-v2-lite"])
@pytest.mark.parametrize("training", [{}, {"checkpointing": "full"}, {"precision": "master"}], ids=str)
def test_one_rank_is_one_device(model, training):
    alone, rank = (training_footprint(model, seq_len=64, weights="bf16", sharding=s, **training) for s in (None, {}))
    assert alone.instants == rank.instants and alone.phases == rank.phases


@pytest.mark.parametrize(
    "spread", [{"data": 8}, {"data": 8, "zero": 1}, {"data": 8, "zero": 3}, {"tensor": 2}], ids=str
)
def test_at_rest_a_step_holds_what_its_rank_lists(spread):
    asked = {"sharding": spread, "weights": "bf16", "rank": 1}
    fp = training_footprint("qwen2.5-0.5b", seq_len=64, **asked)
    rest = fp.instants["end of backward"]
    assert rest["weights"] == sum(rank_parameters("qwen2.5-0.5b", **asked).values())
    assert rest["gradients"] == sum(rank_gradients("qwen2.5-0.5b", **asked).values())
    assert rest["optimizer_states"] + rest["step_counts"] == sum(rank_states("qwen2.5-0.5b", **asked).values())
    assert rest.get("gradient_buckets", 0) == (
        rest["gradients"] if spread.get("zero", 0) < 3 and "data" in spread else 0
    )


def kept(layers, spread, **training):
    """Bytes that a GPT of so many layers keeps for backward, in 16 bit with dropout and scores in memory."""
    asked = {"batch": 2, "seq_len": 32, "weights": "bf16", "attention": "eager", "dropout": 0.1}
    fp = training_footprint(GPT | {"n_layer": layers}, sharding=spread, **asked | training)
    parts = fp.instants["end of forward"]
    return sum(size for part, size in parts.items() if part not in ("weights", "optimizer_states", "step_counts"))


STATISTICS = 2 * 2 * 4 * 2 * 32  # means and deviations of two norms, in float32


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_a_block_keeps_what_the_paper_of_tensor_parallel_says(tensor):
    layer = kept(3, {"tensor": tensor}) - kept(2, {"tensor": tensor})
    assert layer - STATISTICS == formulas.tensor_activation_bytes(2, 32, 64, 4, tensor)


@pytest.mark.parametrize("tensor", [2, 4])
def test_sequence_parallel_shares_out_the_rest_but_keeps_what_it_gathered(tensor):
    spread = {"tensor": tensor, "sequence_parallel": True}
    layer = kept(3, spread) - kept(2, spread)
    gathered = 2 * 2 * 2 * 32 * 64  # whole inputs of attention and MLP, where Megatron keeps parts and gathers again
    parts = gathered // tensor
    assert layer - STATISTICS // tensor - gathered + parts == formulas.sequence_activation_bytes(2, 32, 64, 4, tensor)


def test_full_recompute_keeps_a_layer_s_input():
    assert kept(3, {}, checkpointing="full") - kept(2, {}, checkpointing="full") == 2 * 2 * 32 * 64


def test_the_first_stage_keeps_as_much_as_one_rank_would():
    asked = {"batch": 1, "seq_len": 128, "weights": "bf16"}
    one = training_footprint("llama-2-7b", sharding={}, **asked).instants["end of forward"]
    for stages in (2, 4):
        fp = training_footprint("llama-2-7b", sharding={"pipeline": stages}, **asked)
        at = fp.instants["end of forward"]
        layers = ("query", "key", "value", "attention_out", "gate", "gate_activated", "up", "gated", "logsumexp")
        own = sum(at[part] for part in layers)
        assert stages * own == sum(one[part] for part in layers)
        assert (stages - 1) * own < at["other_microbatches"] < (stages - 1) * own * 2
        last = training_footprint("llama-2-7b", sharding={"pipeline": stages}, rank=stages - 1, **asked)
        assert last.instants["end of forward"]["other_microbatches"] == 0


def test_a_microbatch_in_the_middle_finds_all_gradients_there():
    fp = training_footprint("llama-2-7b", seq_len=64, sharding={"pipeline": 2}, weights="bf16")
    whole = sum(rank_gradients("llama-2-7b", sharding={"pipeline": 2}, weights="bf16").values())
    assert all(parts["gradients"] >= whole for parts in fp.instants.values())
    assert fp.instants["end of backward"]["gradients"] == whole


@pytest.mark.parametrize(
    "spread, words",
    [
        ({"data": 8, "zero": 2}, ["zero=2", "at rest"]),
        ({"data": 8, "zero": 1, "zero_unit": "flat"}, ["zero_unit='flat'"]),
        ({"context": 2}, ["context=2"]),
        ({"data": 8, "expert": 8}, ["expert=8"]),
        ({"tensor": 2}, ["tensor=2", "mixture"]),
        ({"tensor": 2, "attention": "data"}, ["attention='data'"]),
    ],
    ids=str,
)
def test_what_has_no_formula_is_refused(spread, words, refuses):
    refuses(lambda: training_footprint("deepseek-v2-lite", seq_len=64, sharding=spread), *words)


@pytest.mark.parametrize("layers", [5, 9, 16])
@pytest.mark.parametrize("training", [{}, FULL], ids=["all kept", "full"])
@pytest.mark.parametrize("config", [TINY, LARGE, TINY_LATENT], ids=["dense", "large vocabulary", "experts"])
def test_the_ends_of_a_stretch_hold_the_peak_of_all_layers(config, layers, training):
    for seq_len in (8, 64):
        asked = {"batch": 2, "seq_len": seq_len, "weights": "fp32", "sharding": {"data": 3, "zero": 3}}
        fp = training_footprint(config | {"num_hidden_layers": layers}, **asked, **training)
        assert fp.total_bytes == max(sum(parts.values()) for parts in fp.instants.values())


WORLDS = (
    ("deepseek-r1", {"data": 1024, "zero": 3}),
    ("llama-1-65b", {"tensor": 8, "pipeline": 8, "data": 16}),
    ("gpt3-175b", {"tensor": 8, "pipeline": 16, "data": 8}),
)


@pytest.mark.parametrize("model, spread", WORLDS, ids=str)
def test_the_largest_worlds_take_a_moment(model, spread):
    seconds = []
    for seq_len in (1024, 2048, 1536):
        begun = time.perf_counter()
        training_footprint(model, seq_len=seq_len, sharding=spread, weights="bf16")
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.15
