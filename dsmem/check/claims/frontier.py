"""Claims on sparsity, compression, bandwidth, and memories to come."""

from dsmem import formulas
from dsmem.check.claims.claim import Claim, cited, computed
from dsmem.config.hardware import GPUS

MLP = (4096, 14_336)  # in and out of a gate projection, Llama-3-8B
SWIGLU = (8192, 14_336, 16)
CXL_2_X16 = 64e9  # bytes a second each way, 32 GT/s


def _exponents():
    """Share that is left of BF16 weights, normal as trained ones are, once their exponents are Huffman-coded."""
    import torch

    from dsmem.model.quantize import entropy

    weight = 0.02 * torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    weight = weight.to(torch.bfloat16)
    return entropy.pack(weight).nbytes / (2 * weight.numel())


def _sparse(bits):
    return formulas.sparse_linear_bytes(*MLP, bits) / formulas.tensor_bytes(MLP[0] * MLP[1], bits)


CLAIMS = (
    Claim(
        "r",
        "2:4 sparsity halves computing",
        "holds under conditions",
        "It doubles the peak rate of pruned products, from Ampere on; storage is not halved, and quality has a price.",
        "09",
        (
            computed("stored in 16 bit, of dense", lambda: _sparse(16), "%"),
            computed("stored in 8 bit, of dense", lambda: _sparse(8), "%"),
            cited("Llama-3-8B, end to end, faster", 1.27, "×", "NVIDIA, vLLM with CUTLASS FP8"),
            cited("MMLU before, of 1", 0.667, "", "the same"),
            cited("MMLU pruned, before tuning", 0.404, "", "the same"),
        ),
    ),
    Claim(
        "s",
        "Huffman coding of the weights saves 30% of storage",
        "holds",
        "Of BF16: its exponents carry under 3 of their 8 bits. Quantized weights have little left to save.",
        "09",
        (
            computed("BF16 weights, normally distributed, coded: of all", _exponents, "%"),
            cited("Llama-3.1-8B, coded: of all", 10.9 / 16.1, "%", "DFloat11, arXiv 2504.11651"),
        ),
    ),
    Claim(
        "t",
        "HBM3e brings 1.2 TB/s",
        "holds under conditions",
        "Per stack; a GPU has six or eight of them, and runs them a little slower.",
        "09",
        (
            computed("a stack at 9.2 Gb/s a pin, 1,024 pins", lambda: 9.2e9 * 1024 / 8, "GB"),
            computed("H200, six stacks", lambda: GPUS["H200"].bandwidth_bytes_per_s, "GB"),
        ),
    ),
    Claim(
        "u",
        "CXL 2.0 pools memory",
        "holds under conditions",
        "It does, for hosts; for a GPU it is a link many times slower than its own memory.",
        "09",
        (
            computed("CXL 2.0 × 16, each way, bytes a second", lambda: CXL_2_X16, "GB"),
            computed("H200's memory against it", lambda: GPUS["H200"].bandwidth_bytes_per_s / CXL_2_X16, "×"),
            cited("latency, at most, ns", 500, "ns", "CXL 2.0 pools as published, 200 to 500 ns"),
        ),
    ),
    Claim(
        "x",
        "photonic chips bring 10 times the bandwidth, computing in memory saves 90% of the energy",
        "no source",
        "Announcements and simulations: optical links between chips, and a simulator's figure for phones.",
        "09",
        (
            computed("114 Tb/s of optical links against B200's HBM", lambda: 114e12 / 8 / 8e12, "×"),
            computed("the same against NVLink 5", lambda: 114e12 / 8 / 1.8e12, "×"),
            cited("energy a token saved, simulated", 0.90, "%", "UPMEM PIM-AI, its own simulator"),
        ),
    ),
    Claim(
        "af",
        "TensorRT-LLM optimises the graph",
        "holds",
        "Fusion saves traffic between operators: a fused SwiGLU moves three wide tensors, not five.",
        "09",
        (
            computed("moved by SiLU, then a product", lambda: 5 * formulas.mlp_width_bytes(1, *SWIGLU), "GiB"),
            computed("moved by one kernel for both", lambda: 3 * formulas.mlp_width_bytes(1, *SWIGLU), "GiB"),
        ),
    ),
)
