"""Notebook 07's exercises: the right answers and the common mistakes, written as a reader would write them."""

import math

import pytest
from exercises import checks_of, up

import dsmem
from dsmem.footprint.sharded.rest import at_rest


def stages(weights=3, gradients=2, states=1, each=12, slope=2):
    """The bytes of a rank, each part shared out from a stage on."""

    def answer(n_params, data, zero):
        held = [(weights, 2), (gradients, slope), (states, each)]
        return sum(width * n_params / (data if zero >= stage else 1) for stage, width in held)

    return answer


def rows_of(rows, width, ranks, bits):
    return math.ceil(rows / ranks) * width * bits / 8


def keys(both=2, wide=False, layers=None, whole=False, endless=False, width=None):
    """The bytes of keys and values on a rank, with one slip."""

    def answer(cache_len, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, tensor, bits):
        heads = num_attention_heads if wide else num_key_value_heads
        own = heads / tensor if endless else heads if whole else max(1, up(heads, tensor))
        one = cache_len * own * head_dim * (layers or num_hidden_layers)
        return both * one * (width(bits) if width else bits / 8)

    return answer


def latents(rope=1, layers=None, both=1, cut=None, even=False):
    """The bytes of latents on a rank, with one slip."""

    def answer(sequences, cache_len, num_hidden_layers, kv_lora_rank, qk_rope_head_dim, tensor, attention):
        shared = (attention == "data") if cut is None else cut
        own = (sequences / tensor if even else up(sequences, tensor)) if shared else sequences
        return both * 2 * own * cache_len * (layers or num_hidden_layers) * (kv_lora_rank + rope * qk_rope_head_dim)

    return answer


RIGHT = {
    "zero_bytes": stages(),
    "padded_shard_bytes": rows_of,
    "rank_kv_cache_bytes": keys(),
    "rank_latent_cache_bytes": latents(),
}

WRONG = {
    "zero_bytes": {
        "everything shared out at every stage": stages(weights=1, gradients=1),
        "no stage shares anything": lambda n_params: 16 * n_params,
        "parameters shared out first": stages(weights=1, gradients=2, states=3),
        "master copy forgotten": stages(each=8),
        "gradients forgotten": stages(slope=0),
    },
    "padded_shard_bytes": {
        "numbers shared out, not rows": lambda rows, width, ranks, bits: up(rows * width, ranks) * bits // 8,
        "rounded down": lambda rows, width, ranks, bits: rows // ranks * width * bits / 8,
        "the whole matrix": lambda rows, width, bits: rows * width * bits / 8,
        "columns shared out": lambda rows, width, ranks, bits: rows_of(width, rows, ranks, bits),
        "`bits` ignored, always 2 bytes": lambda rows, width, ranks: rows_of(rows, width, ranks, 16),
        "`bits // 8` too early": lambda rows, width, ranks, bits: rows_of(rows, width, ranks, bits // 8 * 8),
    },
    "rank_kv_cache_bytes": {
        "shared out without end": keys(endless=True),
        "the whole cache on every rank": keys(whole=True),
        "the 2 forgotten": keys(both=1),
        "heads in place of key-value heads": keys(wide=True),
        "layers forgotten": keys(layers=1),
        "`bits` ignored, always 2 bytes": keys(width=lambda bits: 2),
        "`bits // 8` too early": keys(width=lambda bits: bits // 8),
    },
    "rank_latent_cache_bytes": {
        "cut by ranks in any case": latents(cut=True),
        "never cut": latents(cut=False),
        "the rope part forgotten": latents(rope=0),
        "sequences cut": latents(even=True),
        "keys and values apart": latents(both=2),
        "layers forgotten": latents(layers=1),
    },
}

test_a_mistake_is_refused_and_named, test_the_right_answer_and_all_mistakes_stand_apart = checks_of(RIGHT, WRONG)


def test_the_paper_prints_three_of_the_answers():
    # arXiv 1910.02054, figure 1: 7.5 billion parameters on 64 ranks
    exercise = dsmem.check.zero_bytes
    assert [round(RIGHT["zero_bytes"](**case) / 1e9, 1) for case in exercise.cases[:3]] == [31.4, 16.6, 1.9]


def test_an_engine_printed_one_of_the_answers():
    # SGLang's log of Qwen3-235B-A22B on four ranks: K of 367,404 tokens takes 8.23 GiB
    case = dsmem.check.rank_kv_cache_bytes.cases[0]
    assert round(RIGHT["rank_kv_cache_bytes"](**case) / 2 / 2**30, 2) == 8.23


@pytest.mark.parametrize("number", [0, 1, 3])
def test_the_caches_of_r1_are_those_of_its_ranks(number):
    case = dsmem.check.rank_latent_cache_bytes.cases[number]
    spread = {"tensor": case["tensor"], "expert": case["tensor"], "attention": case["attention"]}
    held = at_rest("deepseek-r1", batch=case["sequences"], seq_len=case["cache_len"], weights="bf16", sharding=spread)
    assert held["latent_cache"] == RIGHT["rank_latent_cache_bytes"](**case)
