"""Claims on many GPUs, offload, and which hardware a model fits."""

from dsmem import formulas
from dsmem.check.claims.claim import SEVEN, Claim, cited, computed
from dsmem.config.hardware import GPUS
from dsmem.config.quoted import quoted
from dsmem.footprint.fit.levers import levers
from dsmem.footprint.inference import inference_footprint
from dsmem.footprint.stored import cache_bytes, weight_bytes

ZERO = (7_500_000_000, 64, 16, 16, 96)


def _cache(name, **fields):
    return sum(cache_bytes(name, **fields).values())


def _peak(name, **fields):
    return inference_footprint(name, **fields).total_bytes


def _rank_cache(tensor):
    """R1's cache of a token on one of `tensor` ranks."""
    fp = inference_footprint(
        "deepseek-r1", phase="decode", cached_tokens=4095, weights="fp8", sharding={"tensor": tensor}
    )
    return sum(nbytes for part, nbytes in fp.parts.items() if "cache" in part) / 4096


def _rank_weights(tensor):
    from dsmem.footprint.sharded.shares import rank_parameters

    return sum(rank_parameters("deepseek-r1", sharding={"tensor": tensor}, weights="bf16").values())


def _saved(lever, name, training=None, **fields):
    """The share of the peak that one lever saves."""
    table = levers(name, training=training, **fields)
    return dict(zip(table.column("lever"), table.column("share"), strict=True))[lever]


INFERENCE = {"name": SEVEN, "batch": 4, "seq_len": 1024, "weights": "fp16"}
SHARED = "sharding={'data': 2, 'zero': 3}"
TRAINING = {"name": "llama-2-7b", "training": True, "batch": 4, "seq_len": 2048}

CLAIMS = (
    Claim(
        "h",
        "ZeRO shards the optimizer's states",
        "holds",
        "Stage 1 does; stage 2 adds gradients and stage 3 parameters. Activations stay as they are.",
        "07",
        (
            computed(
                "7.5 billion parameters, one GPU", lambda: formulas.training_states_bytes(ZERO[0], 16, 16, 32, 32), "GB"
            ),
            computed("64 GPUs, stage 1", lambda: formulas.zero1_states_bytes(*ZERO), "GB"),
            computed("stage 2", lambda: formulas.zero2_states_bytes(*ZERO), "GB"),
            computed("stage 3", lambda: formulas.zero3_states_bytes(*ZERO), "GB"),
        ),
    ),
    Claim(
        "j",
        "tensor parallelism, as in Megatron, scales linearly",
        "holds under conditions",
        "Weights do, nearly; norms, some activations and MLA's latent cache stay whole on each rank.",
        "07",
        (
            computed("R1's weights on one of 8 ranks, of all", lambda: _rank_weights(8) / _rank_weights(1), "%"),
            computed("R1's latent cache of a token on each of 8 ranks", lambda: _rank_cache(8), "bytes"),
            computed(
                "GPT-3's activations of a layer, 8 ranks against 1",
                lambda: (
                    formulas.tensor_activation_bytes(1, 2048, 12_288, 96, 8)
                    / formulas.tensor_activation_bytes(1, 2048, 12_288, 96, 1)
                ),
                "%",
            ),
            cited("speed kept on 512 GPUs", 0.76, "%", "arXiv 1909.08053, abstract"),
        ),
    ),
    Claim(
        "l",
        "an RTX 4090 of 24 GB runs a 13B in INT8 (1 × 512) and a 7B in FP16 (4 × 1,024)",
        "holds",
        "With room to spare.",
        "08",
        (
            computed("Llama-2-13B, INT8, 1 × 512", lambda: _peak("llama-2-13b", seq_len=512, weights="int8"), "GiB"),
            computed(
                "R1-Distill-Qwen-7B, FP16, 4 × 1,024",
                lambda: _peak(SEVEN, batch=4, seq_len=1024, weights="fp16"),
                "GiB",
            ),
            computed("usable on an RTX 4090", lambda: GPUS["RTX 4090"].usable_bytes, "GiB"),
        ),
    ),
    Claim(
        "m",
        "Accelerate's init_empty_weights and load_checkpoint_and_dispatch(device_map='auto') offload",
        "holds",
        "GPU first, then host, then disk, at the link's price for each token; the article's own code does not run.",
        "07",
        (
            computed(
                "a token of the 7B in FP16, over PCIe 4.0 × 16",
                lambda: weight_bytes(SEVEN, "fp16") / quoted("PCIe 4.0 x16"),
                "ms",
            ),
            computed(
                "the same from an RTX 4090's own memory",
                lambda: weight_bytes(SEVEN, "fp16") / GPUS["RTX 4090"].bandwidth_bytes_per_s,
                "ms",
            ),
        ),
    ),
    Claim(
        "n",
        "AWS p4d.24xlarge has 8 A100 of 80 GB; it runs a 65B in FP16 with tensor parallelism, and a 175B in INT4",
        "wrong",
        "It has 40 GB each (p4de has 80); both models fit all the same.",
        "08",
        (
            computed("all 8 A100 of 40 GB", lambda: 8 * GPUS["A100 40 GB"].usable_bytes, "GiB"),
            computed("LLaMA-65B in FP16", lambda: weight_bytes("llama-1-65b", "fp16"), "GiB"),
            computed("and its cache at 2,048 tokens", lambda: _cache("llama-1-65b", seq_len=2048), "GiB"),
            computed("GPT-3's 175B in INT4, as stored", lambda: weight_bytes("gpt3-175b", "int4"), "GiB"),
            computed("and its cache at 2,048 tokens", lambda: _cache("gpt3-175b", seq_len=2048), "GiB"),
        ),
    ),
    Claim(
        "z",
        "elastic serving: one GPU with a 7B at quiet times, eight with a 65B at peak",
        "holds under conditions",
        "A strategy with a price: two models are not one service, and each switch loads the other's weights.",
        "08",
        (
            computed("bytes to load for the 65B", lambda: weight_bytes("llama-1-65b", "fp16"), "GB"),
            computed("for the 7B", lambda: weight_bytes(SEVEN, "fp16"), "GB"),
            computed("GPU-hours of a day with 8 busy hours, of 8 GPUs all day", lambda: (8 * 8 + 16) / (24 * 8), "%"),
        ),
    ),
    Claim(
        "ad",
        "for inference quantization and batching come first, for training parallelism and the optimizer",
        "holds under conditions",
        "It depends on the workload; one call computes it. Batching spreads weights over requests, and adds cache.",
        "10",
        (
            computed("inference of a 7B, INT4 saves", lambda: _saved("weights='int4'", **INFERENCE), "%"),
            computed("8-bit cache", lambda: _saved("kv_cache='fp8'", **INFERENCE), "%"),
            computed("training of a 7B in BF16, ZeRO 3 over 2 GPUs", lambda: _saved(SHARED, **TRAINING), "%"),
            computed("full checkpointing", lambda: _saved("checkpointing='full'", **TRAINING), "%"),
            computed("adapters of rank 16", lambda: _saved("lora_rank=16", **TRAINING), "%"),
        ),
    ),
)
