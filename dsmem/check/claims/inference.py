"""Claims on weights, the forward pass, the KV cache, quantization and the allocator."""

import functools

from dsmem import formulas
from dsmem.check.claims.claim import SEVEN, Claim, cited, computed, measured
from dsmem.config.architecture import Architecture
from dsmem.config.hardware import GPUS
from dsmem.config.overhead import CONTEXTS
from dsmem.footprint import stored
from dsmem.footprint.inference import inference_footprint
from dsmem.footprint.reads import floor_seconds, step_reads
from dsmem.footprint.stored import weight_bytes

PAGED = "arXiv 2309.06180, figure 2"


def _params(name):
    return Architecture.of(name).n_params


def _cache(name, **fields):
    return sum(stored.cache_bytes(name, **fields).values())


def _working(name, **fields):
    return inference_footprint(name, **fields).working_bytes


def _int8_against(training):
    """The loss of the small model in INT8 after training of one kind, and after as much plain training in FP32."""
    from dsmem.model.small import tuned_losses

    losses = tuned_losses()[training, "int8"]
    return sum(losses) / len(losses)


def _padding(packing):
    """Share of a mix of requests that is padding."""
    from dsmem.serving import requests

    lengths = requests.request_mix(64, seed=1).lengths
    filled = getattr(requests, packing)(lengths, batch=8)
    return 1 - requests.packed_tokens(lengths) / filled


@functools.cache
def _served(layout, batch):
    """What the requests of notebook 05 leave free of a cache, and how much of it tokens fill."""
    from dsmem.serving import requests

    mix = requests.request_mix(16, seed=0, prompt=500)
    return requests.serve(mix, batch, layout, layers=28, token_bytes=1024)


def _tokens_per_s(batch):
    cache = _cache(SEVEN, seq_len=2048)
    return formulas.decode_tokens_per_s(batch, weight_bytes(SEVEN), cache, GPUS["A100 80 GB"].bandwidth_bytes_per_s)


def _fetch_gbits(name, share_of_flops=0.5 * 312e12):
    """The link, in Gb/s, above which a prefix of Llama-2-7B or a distill is fetched sooner than computed."""
    arch = Architecture.of(name)
    tables = arch.vocab_size * arch.hidden_size * (1 if arch.tie_word_embeddings else 2)
    per_token = _cache(arch, seq_len=1)
    return 8 * formulas.break_even_bytes_per_s(per_token, arch.n_params - tables, share_of_flops) / 1e9


def _floor_s(weights):
    """The least seconds of a token of the 7B on a Jetson AGX Orin: all is read but the other rows of the embedding."""
    return floor_seconds(step_reads(SEVEN, weights=weights), GPUS["Jetson AGX Orin 32 GB"].bandwidth_bytes_per_s)


CLAIMS = (
    Claim(
        "a",
        "memory in GB is parameters × bytes / 1024³; DeepSeek-R1-7B takes 28, 14 and 7 GB in FP32, BF16 and INT8",
        "wrong",
        "The idea is right; / 1024³ gives GiB, no such model exists, and INT8 leaves embedding and head in 16 bit.",
        "01",
        (
            computed("7.0 billion parameters in FP32, / 1024³", lambda: 4 * 7_000_000_000, "GiB"),
            computed("R1-Distill-Qwen-7B in FP32", lambda: weight_bytes(SEVEN, "fp32"), "GiB"),
            computed("the same in GB", lambda: weight_bytes(SEVEN, "fp32"), "GB"),
            computed("in BF16", lambda: weight_bytes(SEVEN), "GiB"),
            computed("in INT8, if every number took a byte", lambda: _params(SEVEN), "GiB"),
            computed("in INT8, as stored", lambda: weight_bytes(SEVEN, "int8"), "GiB"),
        ),
    ),
    Claim(
        "b",
        "reserve 10 to 20% for framework overhead; INT8 7B needs a GPU of 8 GB",
        "holds under conditions",
        "The overhead is a constant and bytes per token, not a share; the 7B it names does not fit 8 GiB in INT8.",
        "05",
        (
            computed("R1-Distill-Qwen-7B in INT8, weights alone", lambda: weight_bytes(SEVEN, "int8"), "GiB"),
            computed("Llama-2-7B in INT8", lambda: weight_bytes("llama-2-7b", "int8"), "GiB"),
            measured("CUDA context of a T4, by others", CONTEXTS["T4"][1], "GiB", "t4_lora.json, torch 2.10 and 2.14"),
            cited("CUDA context of an A100, lazy loading", CONTEXTS["other"][1], "GiB", "stas00/ml-engineering"),
        ),
    ),
    Claim(
        "c",
        "activations of inference are batch × length × hidden size × 2 bytes: 0.25 GB for 16 × 2,048 × 4,096",
        "wrong",
        "That is one hidden state (and GiB); the peak is the largest instant, with wide tensors of the MLP or logits.",
        "02",
        (
            computed("one hidden state", lambda: formulas.hidden_state_bytes(16, 2048, 4096, 16), "GiB"),
            computed(
                "Llama-2-7B, working memory at the peak",
                lambda: _working("llama-2-7b", batch=16, seq_len=2048, weights="fp16"),
                "GiB",
            ),
            computed("and its KV cache", lambda: _cache("llama-2-7b", batch=16, seq_len=2048), "GiB"),
            computed(
                "logits of a vocabulary of 152,064 for that shape",
                lambda: formulas.logits_bytes(16, 2048, 152_064, 16),
                "GiB",
            ),
        ),
    ),
    Claim(
        "i",
        "dynamic batching from 1 to 8 cuts memory fragmentation by 70%",
        "no source",
        "A larger batch pads more and keeps more; what cut the waste of KV memory is paging.",
        "05",
        (
            computed("growing cache, batch 1, free", lambda: _served("growing", 1).free_share, "%"),
            computed("the same, batch 8", lambda: _served("growing", 8).free_share, "%"),
            computed("tokens' share of a paged cache", lambda: _served("paged", 8).token_share, "%"),
            cited("tokens' share of KV memory with contiguous rooms, at most", 0.382, "%", PAGED),
            cited("with pages", 0.963, "%", PAGED),
        ),
    ),
    Claim(
        "k",
        "selective activation cuts the KV cache by 40% in question answering",
        "no source",
        "Selective recomputation is of training and leaves the cache alone; grouped heads, MLA and 8 bits cut it.",
        "03",
        (
            computed(
                "R1's latent against all its heads",
                lambda: _cache("deepseek-r1", mla_cache="expanded", seq_len=1) / _cache("deepseek-r1", seq_len=1),
                "×",
            ),
            computed("R1, bytes a token", lambda: _cache("deepseek-r1", seq_len=1), "bytes"),
            cited("kept by MorphKV's eviction", 1 - 0.529, "%", "arXiv 2503.00979"),
        ),
    ),
    Claim(
        "p",
        "Redis stores the KV cache to reduce recomputation",
        "holds under conditions",
        "Exact shared prefixes only, and only over a link that is faster than computing; it saves no GPU memory.",
        "03",
        (
            computed("R1, 4,096 tokens", lambda: _cache("deepseek-r1", seq_len=4096), "GB"),
            computed("Llama-2-7B, 4,096 tokens", lambda: _cache("llama-2-7b", seq_len=4096), "GB"),
            computed("link that pays for Llama-2-7B on an A100", lambda: _fetch_gbits("llama-2-7b"), "Gb/s"),
        ),
    ),
    Claim(
        "q",
        "on a Jetson AGX Orin 8 bits compress a 7B to 3.5 GB, and TensorRT-LLM takes 120 ms down to 45",
        "wrong",
        "3.5 GB is 4 bits a number; the times have no unit and no source, and lie above what memory allows.",
        "04",
        (
            computed("R1-Distill-Qwen-7B in INT8", lambda: weight_bytes(SEVEN, "int8"), "GB"),
            computed("7.0 billion parameters in 4 bits", lambda: 7_000_000_000 / 2, "GB"),
            computed("floor of a token, FP16", lambda: _floor_s("fp16"), "ms"),
            computed("floor of a token, INT8", lambda: _floor_s("int8"), "ms"),
        ),
    ),
    Claim(
        "v",
        "a 65B needs more than 120 GB in FP16",
        "holds",
        "For its weights; the cache comes on top.",
        "01",
        (
            computed("LLaMA-65B in FP16", lambda: weight_bytes("llama-1-65b", "fp16"), "GB"),
            computed("the same", lambda: weight_bytes("llama-1-65b", "fp16"), "GiB"),
            computed("its cache at 2,048 tokens", lambda: _cache("llama-1-65b", seq_len=2048), "GiB"),
        ),
    ),
    Claim(
        "w",
        "MoE will bring 3 to 5 times the memory efficiency",
        "wrong",
        "The direction is wrong: MoE saves computing, while every expert has to be there.",
        "01",
        (
            computed("R1's parameters, resident", lambda: _params("deepseek-r1"), ""),
            computed("active for a token", lambda: Architecture.of("deepseek-r1").n_active_params, ""),
            computed(
                "resident for each active one",
                lambda: _params("deepseek-r1") / Architecture.of("deepseek-r1").n_active_params,
                "×",
            ),
        ),
    ),
    Claim(
        "y",
        "memory grows with the scale of the model: 7B 14 GB, 65B more than 120 GB in FP16",
        "holds under conditions",
        "For weights; cache and working memory follow layers, key-value heads, width and vocabulary.",
        "01",
        (
            computed("cache of a token, R1 (671B)", lambda: _cache("deepseek-r1", seq_len=1), "bytes"),
            computed("cache of a token, Llama-2-7B", lambda: _cache("llama-2-7b", seq_len=1), "bytes"),
        ),
    ),
    Claim(
        "aa",
        "quantization-aware training keeps the accuracy of INT8",
        "holds under conditions",
        "INT8 loses nothing on our small model either way, with as much plain training beside it.",
        "04",
        (
            measured(
                "loss in INT8 after training with rounding, nats",
                lambda: _int8_against("int8"),
                "",
                "data/small-r1/qat.csv",
            ),
            measured("after as much training without", lambda: _int8_against("float"), "", "data/small-r1/qat.csv"),
        ),
    ),
    Claim(
        "ab",
        "the sequence dimension should adapt to the length of the input",
        "holds",
        "As no padding: sorted into buckets most of it goes, packed all of it.",
        "05",
        (
            computed("padding in batches of 8 as they come", lambda: _padding("padded_tokens"), "%"),
            computed("in batches sorted by length", lambda: _padding("bucketed_tokens"), "%"),
        ),
    ),
    Claim(
        "ac",
        "host memory for data loading and batch caches has to be reserved",
        "holds",
        "It can be computed: what a loader reads, what its workers fetch ahead, and pinned copies.",
        "05",
        (
            computed(
                "a 7B in FP16, read and copied", lambda: _host("loading_bytes", *[weight_bytes(SEVEN)] * 2), "GiB"
            ),
            computed(
                "16 × 2,048 token ids, 8 workers, 4 ahead",
                lambda: _host("prefetch_bytes", 8, 4, 16 * 2048 * 8) / 2**20,
                "MiB",
            ),
        ),
    ),
    Claim(
        "ae",
        "dynamic batching raises the use of the GPU",
        "holds under conditions",
        "Weights are read once for the whole batch, until caches or computing are the limit.",
        "05",
        (
            computed(
                "7B on an A100, 2,048 tokens each, batch 32 against 1",
                lambda: _tokens_per_s(32) / _tokens_per_s(1),
                "×",
            ),
            computed("batch 256 against 32", lambda: _tokens_per_s(256) / _tokens_per_s(32), "×"),
        ),
    ),
)


def _host(name, *args):
    from dsmem.memory import host

    return getattr(host, name)(*args)
