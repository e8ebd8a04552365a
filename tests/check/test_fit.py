"""Notebook 08's exercises: the right answers and the common mistakes, written as a reader would write them."""

from exercises import checks_of, up

import dsmem


def batch(**slip):
    """How many sequences, with one slip, by the arguments of a reader's function."""

    def answer(
        usable_bytes,
        weight_bytes,
        overhead_bytes,
        cache_len,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
    ):
        heads = num_attention_heads if slip.get("heads") else num_key_value_heads
        layers, tokens = slip.get("layers", num_hidden_layers), slip.get("tokens", cache_len)
        one = slip.get("tensors", 2) * layers * heads * head_dim * tokens * 2
        weights, beside = slip.get("weights", weight_bytes), slip.get("beside", overhead_bytes)
        left = int(usable_bytes * slip.get("unit", 1)) - weights - beside
        return up(left, int(one)) if slip.get("up") else left // one

    return answer


def spare(always=None, passing=max, beside=1, share=1.0):
    """What is left, with one slip."""

    def answer(usable_bytes, overhead_bytes, weight_bytes, cache_bytes, attention_bytes, mlp_bytes, head_bytes):
        peak = weight_bytes + cache_bytes + passing([attention_bytes, mlp_bytes, head_bytes])
        return usable_bytes - beside * overhead_bytes - -(-peak * round(10 * share) // 10)

    return answer


RIGHT = {
    "largest_batch": batch(),
    "longest_context": lambda usable_bytes, fixed_bytes, batch, cache_bytes_per_token, vocab_size: (
        (usable_bytes - fixed_bytes) // batch // (cache_bytes_per_token + vocab_size * 16 // 8)
    ),
    "spare_bytes": spare(),
    "gpus_needed": lambda usable_bytes, overhead_bytes, shared_bytes, whole_bytes: up(
        shared_bytes, usable_bytes - overhead_bytes - whole_bytes
    ),
}

WRONG = {
    "largest_batch": {
        "weights left out": batch(weights=0),
        "overhead left out": batch(beside=0),
        "GiB in place of GB": batch(unit=2**30 / 1e9),
        "keys without values": batch(tensors=1),
        "heads in place of key-value heads": batch(heads=True),
        "one layer only": batch(layers=1),
        "tokens in place of sequences": batch(tokens=1),
        "rounded up": batch(up=True),
    },
    "longest_context": {
        "logits left out": lambda usable_bytes, fixed_bytes, batch, cache_bytes_per_token: (
            (usable_bytes - fixed_bytes) // (batch * cache_bytes_per_token)
        ),
        "cache left out": lambda usable_bytes, fixed_bytes, batch, vocab_size: (
            (usable_bytes - fixed_bytes) // (batch * 2 * vocab_size)
        ),
        "one byte a logit": lambda usable_bytes, fixed_bytes, batch, cache_bytes_per_token, vocab_size: (
            (usable_bytes - fixed_bytes) // (batch * (cache_bytes_per_token + vocab_size))
        ),
        "batch forgotten": lambda usable_bytes, fixed_bytes, cache_bytes_per_token, vocab_size: (
            (usable_bytes - fixed_bytes) // (cache_bytes_per_token + 2 * vocab_size)
        ),
        "fixed bytes left out": lambda usable_bytes, batch, cache_bytes_per_token, vocab_size: (
            usable_bytes // (batch * (cache_bytes_per_token + 2 * vocab_size))
        ),
    },
    "spare_bytes": {
        "a sum over the instants": spare(passing=sum),
        "overhead left out": spare(beside=0),
        "the head alone": spare(passing=lambda three: three[2]),
        "weights and cache alone": spare(passing=lambda three: 0),
        "10% in place of the overhead": spare(beside=0, share=1.1),
        "never below 0": lambda **inputs: max(0, spare()(**inputs)),
    },
    "gpus_needed": {
        "rounded down": lambda usable_bytes, overhead_bytes, shared_bytes, whole_bytes: (
            shared_bytes // (usable_bytes - overhead_bytes - whole_bytes)
        ),
        "what every GPU holds counted once": lambda usable_bytes, overhead_bytes, shared_bytes, whole_bytes: up(
            shared_bytes + whole_bytes + overhead_bytes, usable_bytes
        ),
        "overhead left out": lambda usable_bytes, shared_bytes, whole_bytes: up(
            shared_bytes, usable_bytes - whole_bytes
        ),
        "what is whole left out": lambda usable_bytes, overhead_bytes, shared_bytes: up(
            shared_bytes, usable_bytes - overhead_bytes
        ),
    },
}

test_a_mistake_is_refused_and_named, test_the_right_answer_and_all_mistakes_stand_apart = checks_of(RIGHT, WRONG)


def test_the_cases_of_what_is_spare_are_those_of_the_kit():
    first, second, _ = dsmem.check.spare_bytes.cases
    t4 = dsmem.fit("deepseek-r1-distill-qwen-7b", gpu="T4", seq_len=4096)
    # the case leaves out the buffers and takes the head's tokens and tables with the rest
    assert abs(spare()(**first) - t4.spare_bytes) < 2**20 and first["usable_bytes"] == t4.usable_bytes
    card = dsmem.fit("llama-2-7b", gpu="RTX 4090", batch=4, seq_len=1024)
    assert abs(spare()(**second) - card.spare_bytes) < 2**20


def test_the_first_case_of_the_largest_batch_is_what_decoding_leaves_room_for():
    """The kit's own answer counts a working copy of the weights, too, so it is one sequence less."""
    work = {"weights": "int8", "phase": "decode", "cached_tokens": 4095, "attention": "fused"}
    answer = dsmem.fit("deepseek-r1-distill-qwen-7b", gpu="T4", **work)
    case = dsmem.check.largest_batch.cases[0]
    assert answer.largest_batch == RIGHT["largest_batch"](**case) - 1


def test_r1_in_fp8_needs_nine_h100_and_a_sum_over_all_says_eight():
    case = dsmem.check.gpus_needed.cases[0]
    counted_once = WRONG["gpus_needed"]["what every GPU holds counted once"]
    assert (RIGHT["gpus_needed"](**case), counted_once(**case)) == (9, 8)
