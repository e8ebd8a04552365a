"""Will it fit: limits against brute force, the answer in words."""

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsmem
from dsmem import formulas
from dsmem.config.devices import devices
from dsmem.footprint.checkpoints.gguf import gguf_bytes
from dsmem.footprint.fit.asked import GGUF_MIXES, STORED
from dsmem.footprint.fit.solve import BOUND, largest
from dsmem.footprint.fit.verdict import fit
from dsmem.footprint.fit.which import which
from dsmem.footprint.stored import cache_bytes, weight_bytes, weights_by_layer

SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 160}
SMALL |= {"num_hidden_layers": 2, "vocab_size": 500, "max_position_embeddings": 200}
FAMILIES = [
    {"model_type": "llama"},
    {"model_type": "mistral", "sliding_window": 16},
    {"model_type": "gpt2", "max_position_embeddings": 300},
    {"model_type": "deepseek_v3", "kv_lora_rank": 32, "q_lora_rank": None, "qk_nope_head_dim": 16, "v_head_dim": 16}
    | {"qk_rope_head_dim": 8, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
    | {"moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    {"model_type": "gemma2", "sliding_window": 8, "head_dim": 16, "query_pre_attn_scalar": 16},
]


# --- Limits -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), min_size=2, max_size=60), st.integers(0, 900), st.integers(1, 5), st.booleans())
@settings(max_examples=200)
def test_the_largest_number_is_that_of_a_search_one_by_one(steps, room, least, bounded):
    sums = [sum(steps[: n + 1]) for n in range(len(steps))]
    most = len(steps) if bounded else None

    def spare(n):
        return room - (sums[n - 1] if n <= len(sums) else sums[-1] + (n - len(sums)))

    fitting = [n for n in range(least, (most or 2000) + 1) if spare(n) >= 0]
    assert largest(spare, least, most) == (fitting[-1] if fitting else 0)


def test_what_never_grows_has_no_limit_and_a_line_needs_few_points():
    asked = []

    def spare(n):
        asked.append(n)
        return 10**12 - 12_345 * n

    assert largest(lambda n: 5) is None and largest(lambda n: 5, most=BOUND) == BOUND
    assert largest(spare) == 10**12 // 12_345
    assert len(asked) <= 5


def case(seed):
    """A random small question whose limits are small enough to be counted: (Fit, whether of training)."""
    draw = random.Random(seed)
    config = SMALL | draw.choice(FAMILIES)
    if config["model_type"] == "gpt2":
        del config["num_key_value_heads"], config["intermediate_size"]
    training = draw.random() < 0.25 and config["model_type"] in ("llama", "mistral", "gpt2")
    work = {"batch": draw.randint(1, 6), "seq_len": draw.randint(2, 40), "weights": draw.choice(("fp16", "fp32"))}
    if not training:
        work["weights"] = draw.choice(("fp16", "fp32", "int8", "int4", "fp8", "int8_w8a8"))
        work |= {"logits": draw.choice(("all", "last")), "cache": draw.choice(("static", "growing", "paged"))}
        work |= {"phase": draw.choice(("prefill", "decode")), "kv_cache": draw.choice((None, "int8", "fp8"))}
        work["cached_tokens"] = draw.choice((None, draw.randint(0, 30)))
        eager = config["model_type"] in ("llama", "mistral")
        work["attention"] = draw.choice(("fused", "expanded", "eager" if eager else "fused"))
    arch, ask = dsmem.Architecture.from_config(config), {"training": True if training else None, **work}
    enough = fit(arch, gpu=("enough", 2**40), **ask)
    room = enough.needed_bytes + draw.randint(-20_000, 400_000)
    return fit(arch, gpu=("mine", max(1, room)), **ask)


def counted(answer, make, least, most):
    """The same limit by looking at every number."""
    numbers = np.arange(least, (most or 4000) + 1)
    asked = make(numbers)
    needed = asked.total() + sum(high for _, high in answer._overhead(asked).values())
    needed = np.broadcast_to(needed, numbers.shape)
    assert (np.diff(needed) >= 0).all()  # never less for more, or no search could be right
    fitting = np.flatnonzero(needed <= answer.usable_bytes)
    if most is None and len(fitting) == len(numbers):
        return None
    return int(numbers[fitting[-1]]) if len(fitting) else 0


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_batch_and_context_reach_as_far_as_looking_at_every_number_says(first):
    for seed in range(first, first + 25):
        answer, asked = case(seed), case(seed).asked
        assert answer.largest_batch == counted(answer, asked.with_batch, 1, None), seed
        context = counted(answer, asked.with_context, asked.least_context, asked.most_context)
        assert answer.longest_context == context, seed


@pytest.mark.parametrize("sharding", [{"tensor": 2}, {"pipeline": 2}, {"tensor": 2, "pipeline": 2}])
def test_limits_on_several_devices_are_those_of_the_fullest_rank(sharding):
    arch = dsmem.Architecture.from_config(SMALL | FAMILIES[0])
    count = dsmem.Sharding.of(sharding).ranks
    fields = {"seq_len": 20, "batch": 2, "sharding": sharding, "count": count}
    room = fit(arch, gpu=("enough", 2**40), **fields).needed_bytes + 300_000
    answer = fit(arch, gpu=("mine", room), **fields)

    def needed(n):
        return max(
            dsmem.inference_footprint(arch, answer.asked.work.changed(batch=n), sharding, rank).total_bytes
            for rank in range(count)
        ) + sum(high for _, high in answer._overhead(answer.asked.with_batch(n)).values())

    most = answer.largest_batch
    assert most >= 2 and needed(most) <= room < needed(most + 1)
    assert fit(arch, gpu=("one", 2**40), seq_len=20, batch=2).peak_bytes > answer.peak_bytes


def test_the_context_ends_where_the_model_does():
    answer = fit("llama-2-7b", gpu="H100", batch=1)
    assert answer.longest_context == 4096 and answer.context_limit == "model"
    assert fit("gpt2", gpu="T4", seq_len=16).longest_context == 1024
    unknown = fit(dsmem.Architecture.of("llama-2-7b").scaled(max_position_embeddings=None), gpu="H100")
    assert unknown.longest_context > 10_000 and unknown.context_limit == "memory"
    window = dsmem.Architecture.of("llama-2-7b").scaled(max_position_embeddings=None, sliding_window=128)
    assert fit(window, gpu="H100", phase="decode", seq_len=500).longest_context is None


# --- The answer -------------------------------------------------------------------------------------------------------


def test_the_answer_adds_up_and_the_sentence_has_it():
    answer = fit("deepseek-r1-distill-qwen-7b", gpu="T4", weights="int8", seq_len=4096)
    fp = dsmem.inference_footprint("deepseek-r1-distill-qwen-7b", weights="int8", seq_len=4096)
    assert answer.peak_bytes == fp.total_bytes and answer.parts == fp.parts
    assert answer.needed_bytes == fp.total_bytes + sum(most for _, most in answer.overhead.values())
    assert answer.spare_bytes == dsmem.GPUS["T4"].usable_bytes - answer.needed_bytes > 0
    assert answer.fits and not answer.close and answer.change is None
    assert str(answer) == answer.sentence and "\n" not in answer.sentence
    for words in ("qwen-7b in int8 fits T4 (14.57 GiB)", "1 × 4,096 tokens", "4.62 GiB spare"):
        assert words in answer.sentence
    table = answer.table()
    assert dict(zip(table.column("part"), table.column("bytes"), strict=True))["needed"] == answer.needed_bytes


def test_what_fits_at_the_least_of_the_overhead_alone_is_close():
    peak = fit("qwen2.5-0.5b", gpu="T4").peak_bytes
    low = sum(low for low, _ in fit("qwen2.5-0.5b", gpu=("mine", 1)).overhead.values())
    close, over = (fit("qwen2.5-0.5b", gpu=("mine", peak + low - less)) for less in (0, 1))
    assert (close.fits, close.close, over.close) == (False, True, False)
    assert "may not fit" in close.sentence and "does not fit" in over.sentence


@pytest.mark.parametrize(
    ("gpu", "model", "fields", "words"),
    [
        ("RTX 4090", "deepseek-r1-distill-qwen-32b", {"weights": "int4", "seq_len": 8192}, "logits='last'"),
        ("T4", "deepseek-r1-distill-qwen-7b", {}, "weights='int8'"),
        ("A100 80 GB", "llama-2-7b", {"batch": 32, "seq_len": 4096, "logits": "last"}, "kv_cache='fp8'"),
        ("RTX 4090", "deepseek-r1", {"seq_len": 4096, "weights": "int4"}, "the routed experts on the host"),
        (
            "T4",
            "deepseek-r1-distill-qwen-7b",
            {"weights": "awq", "seq_len": 90_000, "cache": "none"},
            "tokens in place of",
        ),
        ("RTX 4090", "deepseek-r1-distill-llama-70b", {"weights": "awq", "seq_len": 1024}, "2 × RTX 4090"),
        (
            "RTX 3060",
            "qwen2.5-7b",
            {"weights": "awq", "kv_cache": "fp8", "phase": "decode", "seq_len": 200_000},
            "tokens in place of",
        ),
        ("T4", "qwen2.5-1.5b", {"training": True, "seq_len": 2048}, "checkpointing='full'"),
    ],
)
def test_the_cheapest_change_is_named_and_does_make_it_fit(gpu, model, fields, words):
    answer = fit(model, gpu=gpu, **fields)
    assert not answer.fits and answer.change.answer.fits and words in answer.change.words
    assert answer.change.words in answer.sentence
    earlier = [change for change in answer.changes if change.answer.fits][0]
    assert earlier.words == answer.change.words
    tensors = answer.change.answer.asked.total() + answer.change.host_bytes
    assert answer.change.answer.needed_bytes <= answer.usable_bytes and tensors > 0


def test_experts_on_the_host_leave_the_rest():
    answer = fit("deepseek-r1", gpu="RTX 4090", weights="int4", seq_len=4096)
    change = answer.change
    assert change.host_bytes + change.answer.peak_bytes == answer.peak_bytes
    layers = weights_by_layer("deepseek-r1", "int4").items()
    assert change.host_bytes == sum(sum(sizes) for name, sizes in layers if name.startswith("experts."))


@pytest.mark.parametrize("weights", [*STORED, *GGUF_MIXES])
def test_formats_that_are_only_stored_stand_with_their_own_bytes(weights):
    answer = fit("deepseek-r1-distill-llama-8b", gpu="RTX 3090", weights=weights, seq_len=512)
    plain = fit("deepseek-r1-distill-llama-8b", gpu="RTX 3090", weights="fp16", seq_len=512)
    held = gguf_bytes if weights in GGUF_MIXES else weight_bytes
    assert answer.parts[f"weights_{weights}"] == held("deepseek-r1-distill-llama-8b", weights)
    copy = answer.parts.get("weight_copy", 0)
    rest = plain.peak_bytes - plain.parts["weights"]
    assert answer.peak_bytes == answer.parts[f"weights_{weights}"] + rest + copy
    assert bool(copy) == weights.startswith("nf4") and any(weights in note for note in answer.notes)


def test_a_cache_that_is_only_stored_stands_with_its_own_bytes():
    answer = fit("deepseek-r1", gpu="H200", kv_cache="q8_0", weights="q4_k_m", seq_len=32_768)
    assert answer.parts["latent_cache"] == sum(cache_bytes("deepseek-r1", kv_cache="q8_0", seq_len=32_768).values())


def test_what_grows_is_what_the_next_token_adds():
    answer = fit("deepseek-r1", gpu="H200", weights="fp8", phase="decode", seq_len=4096)
    assert answer.grows["token"] == 61 * 576 * 2  # its latents in 16 bit
    assert answer.grows["sequence"] > 4096 * answer.grows["token"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fit("qwen2.5-0.5b", gpu="T5"), ("T5", "T4")),
        (lambda: fit("qwen2.5-0.5b", gpu=None), ("gpu=None",)),
        (lambda: fit("qwen2.5-0.5b", gpu=5), ("gpu=5",)),
        (lambda: fit("qwen2.5-0.5b", gpu="T4", count=0), ("count=0",)),
        (lambda: fit("qwen2.5-0.5b", gpu="T4", batch=[1, 2]), ("batch", "one number")),
        (lambda: fit("qwen2.5-0.5b", gpu="T4", weights="int3"), ("weights='int3'",)),
        (lambda: fit("qwen2.5-0.5b", gpu="T4", weights="awq", training=True), ("weights='awq'", "training")),
        (lambda: fit("qwen2.5-0.5b", gpu="T4", size=3), ("field='size'",)),
        (lambda: fit("qwen2.5-0.5b", gpu="here"), ("gpu='here'", "dsmem.here()")),
        (lambda: fit("gpt2", gpu="T4", seq_len=2000), ("seq_len=2000",)),
        (lambda: fit("gpt2", gpu=dataclasses.replace(dsmem.here(), device="cpu"), count=2), ("count=2", "memory")),
        (lambda: fit("gpt2", "T4"), ("work='T4'", "Workload")),
        (lambda: fit("gpt2", gpu="80GB"), ("gpu='80GB'", "{'mine': '80GB'}")),
        (lambda: fit("gpt2", gpu=("mine", "80")), ("'mine'", "'80'", "GiB")),
        (lambda: fit("gpt2", gpu="T4", weights="4bit"), ("weights='4bit'", "q4_k_m", "awq")),
        (lambda: which("T4", models=[]), ("models", "at least one")),
        (lambda: which("T4", models="gpt2", formats=[]), ("formats", "at least one")),
        (lambda: which("T4", weights="int4"), ("weights='int4'", "formats")),
    ],
)
def test_nonsense_is_one_sentence(call, words, refuses):
    refuses(call, *words)


def test_one_model_and_one_format_may_be_asked_by_name():
    assert which("T4", models="gpt2", formats="int8", seq_len=512).column("weights") == ["int8"]


def test_a_rented_machine_may_be_given_as_it_is():
    machine = dsmem.INSTANCES["p4d.24xlarge"]
    assert devices(machine) == devices(machine.name) and devices(machine).count == 8


def test_a_growing_cache_reaches_as_far_as_its_tokens_do():
    answer = fit("qwen2.5-0.5b", gpu={"mine": "4 GiB"}, phase="decode", cached_tokens=100, cache="growing", batch=32)
    reached = answer.longest_context
    assert answer.asked.context == 101 and 101 < reached < 32_768
    fields = {"gpu": {"mine": "4 GiB"}, "phase": "decode", "cache": "growing", "batch": 32}
    assert [fit("qwen2.5-0.5b", seq_len=n, **fields).fits for n in (reached, reached + 1)] == [True, False]


def test_the_sentence_has_a_caches_room_and_whose_the_batch_is():
    decode = {"phase": "decode", "cached_tokens": 100}
    assert "after 100 in a cache for 1,024 need" in str(fit("gpt2", gpu="T4", **decode))
    assert "after 100 need" in str(fit("gpt2", gpu="T4", cache="growing", **decode))
    assert "such sequences a replica" in str(fit("gpt2", gpu="T4", count=2, sharding={"data": 2}))
    assert "a replica" not in str(fit("gpt2", gpu="T4", count=2))


@pytest.mark.parametrize(
    "sharding", [{"data": 2, "zero": 3}, {"data": 2, "zero": 1}, {"tensor": 2}, {"data": 3, "zero": 0}]
)
def test_a_step_on_several_devices_is_that_of_the_fullest_rank(sharding):
    arch = dsmem.Architecture.from_config(SMALL | FAMILIES[0])
    count = dsmem.Sharding.of(sharding).ranks
    answer = fit(arch, gpu=("mine", 2**30), count=count, sharding=sharding, training="adamw", seq_len=20)
    work = answer.asked.work
    ranks = [dsmem.training_footprint(arch, work, "adamw", sharding, rank).total_bytes for rank in range(count)]
    assert answer.peak_bytes == max(ranks) and answer.largest_batch > 1


def test_several_devices_are_tensor_parallel_and_a_step_shards_all_of_itself():
    served, trained = (fit("qwen2.5-7b", gpu="H100", count=4, training=t, seq_len=64) for t in (None, True))
    assert served.asked.sharding == dsmem.Sharding(tensor=4) and "with tensor=4" in served.sentence
    assert trained.asked.sharding == dsmem.Sharding(data=4, zero=3) and "with data=4, zero=3" in trained.sentence


def test_where_bytes_grow_by_a_line_the_capacity_equation_has_the_limits():
    """Decoding on a CPU, where nothing stands beside the tensors: weights are fixed, a cache for each sequence."""
    machine = dsmem.config.devices.Devices("CPU", 1, 20 * 2**30, (20 * 2**30,) * 2, "cpu")
    fields = {"weights": "int8", "phase": "decode", "seq_len": 4096}
    answer = fit("deepseek-r1-distill-qwen-7b", gpu=machine, **fields)
    fixed = answer.peak_bytes - answer.grows["sequence"]
    assert answer.largest_batch == formulas.most_sequences(2**30 * 20, fixed, answer.grows["sequence"])
    fixed = answer.peak_bytes - 4096 * answer.grows["token"]
    equation = formulas.longest_context_tokens(2**30 * 20, fixed, 1, answer.grows["token"])
    assert answer.grows["token"] == 57_344 and answer.longest_context == min(equation, 131_072)
