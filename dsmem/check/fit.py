"""Exercises of notebook 08: the largest batch, the longest context, what is spare, and how many GPUs it takes."""

from dsmem import formulas
from dsmem.check.answers import call
from dsmem.check.cases import fields
from dsmem.check.exercise import Exercise, Mistake
from dsmem.config.hardware import GPUS
from dsmem.units import GB, GIB


def _largest_batch(
    usable_bytes, weight_bytes, overhead_bytes, cache_len, num_hidden_layers, num_key_value_heads, head_dim
):
    sequence = 2 * 2 * cache_len * num_hidden_layers * num_key_value_heads * head_dim
    return (usable_bytes - weight_bytes - overhead_bytes) // sequence


def _rounded_up(usable_bytes, weight_bytes, overhead_bytes, **cache):
    sequence = call(formulas.kv_cache_bytes, cache | {"batch": 1, "bits": 16})
    return -((weight_bytes + overhead_bytes - usable_bytes) // sequence)


def _plain(inputs):
    """The inputs without the heads, which the right answer does not need."""
    return {name: value for name, value in inputs.items() if name != "num_attention_heads"}


def _batch_case(gpu, model, weight_bytes, overhead_bytes, cache_len):
    room = {"usable_bytes": GPUS[gpu].usable_bytes, "weight_bytes": weight_bytes, "overhead_bytes": overhead_bytes}
    sizes = fields(model, "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    return room | {"cache_len": cache_len} | sizes


largest_batch = Exercise(
    "largest_batch",
    "Return how many sequences of cache_len tokens have their KV cache of 16 bits beside weights and overhead.",
    _largest_batch,
    (
        _batch_case("T4", "deepseek-r1-distill-qwen-7b", 8_711_506_944, 460_324_864, 4096),
        _batch_case("RTX 4090", "llama-2-7b", 6_997_000_000, 580_000_000, 2048),
        _batch_case("A100 80 GB", "deepseek-r1-distill-llama-70b", 42_100_000_000, 3_900_000_000, 4096),
        _batch_case("RTX 3060", "qwen2.5-0.5b", 988_065_536, 600_000_000, 1024),
    ),
    nudge="What is there once, however many sequences there are, and what does each of them bring along?",
    mistakes=(
        Mistake("weights left out", "They take their place first.", {"weight_bytes": 0}),
        Mistake("overhead left out", "Context, workspaces and segments lie on the card, too.", {"overhead_bytes": 0}),
        Mistake(
            "GiB in place of GB",
            "The capacity comes in bytes: nothing is to be converted.",
            lambda usable_bytes, **rest: _largest_batch(**_plain(rest), usable_bytes=usable_bytes * GIB // GB),
        ),
        Mistake(
            "keys without values",
            "Both are kept: keys and values.",
            lambda head_dim, **rest: _largest_batch(**_plain(rest), head_dim=head_dim / 2),
        ),
        Mistake(
            "heads in place of key-value heads",
            "Several heads of queries share one head of keys and values.",
            {"num_key_value_heads": "num_attention_heads"},
        ),
        Mistake("one layer only", "Every layer has a cache of its own.", {"num_hidden_layers": 1}),
        Mistake("tokens in place of sequences", "A sequence has cache_len tokens.", {"cache_len": 1}),
        Mistake("rounded up", "The last sequence does not fit whole.", _rounded_up),
    ),
    unit="sequences",
    notebook="08",
)


def _longest_context(usable_bytes, fixed_bytes, batch, cache_bytes_per_token, vocab_size):
    token = cache_bytes_per_token + 2 * vocab_size
    return (usable_bytes - fixed_bytes) // (batch * token)


def _context_case(gpu, model, fixed_bytes, batch, cache_bytes_per_token):
    room = {"usable_bytes": GPUS[gpu].usable_bytes, "fixed_bytes": fixed_bytes}
    return room | {"batch": batch, "cache_bytes_per_token": cache_bytes_per_token} | fields(model, "vocab_size")


longest_context = Exercise(
    "longest_context",
    "Return how many tokens each of `batch` prompts may have: beside the fixed bytes, a token takes its KV cache and, "
    "at the end of prefill, vocab_size logits of 16 bits.",
    _longest_context,
    (
        _context_case("T4", "deepseek-r1-distill-qwen-7b", 9_200_000_000, 1, 57_344),
        _context_case("RTX 4090", "llama-2-7b", 14_000_000_000, 4, 524_288),
        _context_case("A100 80 GB", "deepseek-r1-distill-qwen-14b", 30_300_000_000, 3, 196_608),
    ),
    nudge="Every prompt has so many tokens: what does one token of one prompt take, in all?",
    mistakes=(
        Mistake("logits left out", "At the peak each token has a number for every word.", {"vocab_size": 0}),
        Mistake("cache left out", "It lies there, too, while the logits do.", {"cache_bytes_per_token": 0}),
        Mistake(
            "one byte a logit",
            "A logit of 16 bits takes 2 bytes.",
            lambda usable_bytes, fixed_bytes, batch, cache_bytes_per_token, vocab_size: (
                (usable_bytes - fixed_bytes) // (batch * (cache_bytes_per_token + vocab_size))
            ),
        ),
        Mistake("batch forgotten", "All prompts share the memory.", {"batch": 1}),
        Mistake("fixed bytes left out", "Weights and overhead take their place first.", {"fixed_bytes": 0}),
    ),
    unit="tokens",
    notebook="08",
)


def _spare_bytes(usable_bytes, overhead_bytes, weight_bytes, cache_bytes, attention_bytes, mlp_bytes, head_bytes):
    peak = weight_bytes + cache_bytes + max(attention_bytes, mlp_bytes, head_bytes)
    return usable_bytes - overhead_bytes - peak


def _with_ten_percent(usable_bytes, overhead_bytes, **parts):
    return usable_bytes + 11 * _spare_bytes(0, 0, **parts) // 10


def _spare_case(gpu, overhead_bytes, weight_bytes, cache_bytes, *instants):
    always = {"overhead_bytes": overhead_bytes, "weight_bytes": weight_bytes, "cache_bytes": cache_bytes}
    passing = dict(zip(("attention_bytes", "mlp_bytes", "head_bytes"), instants, strict=True))
    return {"usable_bytes": GPUS[gpu].usable_bytes} | always | passing


spare_bytes = Exercise(
    "spare_bytes",
    "Return the bytes that are spare on the card, below 0 where some are missing, if weights and cache lie there all "
    "the time, and attention, MLP and head come one after the other.",
    _spare_bytes,
    (
        _spare_case(  # R1-Distill-Qwen-7B in FP16, 1 × 4,096 tokens
            "T4", 402_653_184, 15_231_233_024, 234_881_024, 119_505_152, 555_254_016, 1_276_674_304
        ),
        _spare_case(  # Llama-2-7B in FP16, 4 × 1,024 tokens
            "RTX 4090", 580_281_665, 13_476_831_232, 2_147_483_648, 135_168_256, 371_622_144, 296_124_672
        ),
        _spare_case(  # Llama-2-7B in FP16, 4 × 4,096 tokens, scores written out
            "RTX 4090", 580_281_665, 13_476_831_232, 8_589_934_592, 9_279_504_640, 1_503_265_024, 18_770_176
        ),
    ),
    nudge="Which parts are there at the same moment? And what lies on the card that is no tensor?",
    mistakes=(
        Mistake(
            "a sum over the instants",
            "Attention, MLP and head never hold their tensors at the same moment: the largest of them counts.",
            lambda attention_bytes, mlp_bytes, head_bytes, **rest: _spare_bytes(
                **rest, attention_bytes=attention_bytes + mlp_bytes + head_bytes, mlp_bytes=0, head_bytes=0
            ),
        ),
        Mistake("overhead left out", "Context, workspaces and segments lie on the card, too.", {"overhead_bytes": 0}),
        Mistake(
            "the head alone",
            "It is the peak of some passes only; take the largest of the three.",
            {"attention_bytes": 0, "mlp_bytes": 0},
        ),
        Mistake(
            "weights and cache alone",
            "A pass needs room for what it works out.",
            {"attention_bytes": 0, "mlp_bytes": 0, "head_bytes": 0},
        ),
        Mistake(
            "10% in place of the overhead",
            "What lies beside the tensors is known by its parts, and is no share of them.",
            _with_ten_percent,
        ),
        Mistake(
            "never below 0", "What is missing is what one wants to know.", lambda **rest: max(0, _spare_bytes(**rest))
        ),
    ),
    notebook="08",
)


def _gpus_needed(usable_bytes, overhead_bytes, shared_bytes, whole_bytes):
    return -(-shared_bytes // (usable_bytes - overhead_bytes - whole_bytes))


def _gpus_rounded_down(usable_bytes, overhead_bytes, shared_bytes, whole_bytes):
    return shared_bytes // (usable_bytes - overhead_bytes - whole_bytes)


def _gpus_case(gpu, overhead_bytes, shared_bytes, whole_bytes):
    each = {"usable_bytes": GPUS[gpu].usable_bytes, "overhead_bytes": overhead_bytes}
    return each | {"shared_bytes": shared_bytes, "whole_bytes": whole_bytes}


gpus_needed = Exercise(
    "gpus_needed",
    "Return the smallest number of GPUs for a model of which shared_bytes are cut into equal parts, one a GPU, while "
    "each GPU has all of whole_bytes and an overhead of its own.",
    _gpus_needed,
    (
        _gpus_case("H100", 883_391_201, 675_695_416_320, 3_240_000_000),  # R1 in FP8
        _gpus_case("RTX 4090", 1_300_000_000, 355_000_000_000, 1_600_000_000),  # R1 in INT4
        _gpus_case("T4", 560_988_216, 141_100_000_000, 1_500_000_000),  # a 70B in FP16
        _gpus_case("RTX 4090", 1_300_000_000, 1_342_000_000_000, 1_600_000_000),  # R1 in BF16
    ),
    nudge="How much of one GPU is left for its part, once what it must hold anyway is there?",
    mistakes=(
        Mistake("rounded down", "Then a part of the model has no place.", _gpus_rounded_down),
        Mistake(
            "what every GPU holds counted once",
            "It is there on each of them, so it takes its place on each.",
            lambda usable_bytes, overhead_bytes, shared_bytes, whole_bytes: (
                -(-(shared_bytes + whole_bytes + overhead_bytes) // usable_bytes)
            ),
        ),
        Mistake("overhead left out", "Each process has a context of its own.", {"overhead_bytes": 0}),
        Mistake("what is whole left out", "It is not cut: each GPU has all of it.", {"whole_bytes": 0}),
    ),
    unit="GPUs",
    notebook="08",
)
